"""The replication client against real servers.

In scope: commands, WAL byte for byte, commits that wait for reports, timeline switches, passwords
and TLS, the ways in which a server ends. Out of scope: servers that lie
(tests/unit/log_service/test_upstream_link.py), SCRAM itself (test_scram_against_real_peers.py).
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fixtures.servers import Fleet
from fixtures.waiting import eventually
from unit.fabric.certificates import Authority
from unit.log_service.wal_recorder import Recorder, run

from fabric.addresses import TcpAddress, UnixAddress
from fabric.ids import ClusterName, Role
from fabric.lsn import Lsn, Tli, wal_file_name
from fabric.tls import ClientTls, IdentityError, client_context
from log_service.replication_client import (
    ChannelBinding,
    ConnectionLostError,
    ReplicationClient,
    ServerRefusedError,
    Upstream,
)
from pgwire.scram import ScramError
from sqlnode.postgres import Postgres, PostgresSettings, request_standby

NAME = "walog"
TLI = Tli(1)
SECRET = "pencil"  # noqa: S105  # of these tests


# Real servers.


def primary(fleet: Fleet, **extra: str) -> Postgres:
    # The time limit frees the threads of a test that has failed.
    settings = PostgresSettings(extra={"statement_timeout": "60s", **extra})
    server = fleet.server("p", settings=settings)
    server.start_blocking()
    return server


def upstream_of(server: Postgres) -> Upstream:
    path = f"{server.run_dir}/.s.PGSQL.{server.port}"
    return Upstream(address=UnixAddress(path), user="postgres", application_name=NAME)


def execute(server: Postgres, *statements: str) -> str:
    """Execute statements, each a transaction; return the value of the last one, if it has one."""
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        for statement in statements[:-1]:
            connection.execute(statement.encode())
        cursor = connection.execute(statements[-1].encode())
        row = cursor.fetchone() if cursor.description else None
    return str(row[0]) if row else ""


async def streaming(
    server: Postgres, *, slot: str | None = "log", reports: bool = True
) -> tuple[ReplicationClient, Recorder]:
    """A client that streams from the beginning of the current segment."""
    client = await ReplicationClient.connect(upstream_of(server))
    info = await client.identify()
    if slot is not None:
        await client.create_slot(slot)
    recorder = Recorder(client, reports=reports)
    await client.start(
        slot=slot, lsn=info.flush_lsn.segment_start(), tli=info.tli, handler=recorder
    )
    return client, recorder


@pytest.mark.postgres
def test_server_tells_who_it_is(fleet: Fleet) -> None:
    server = primary(fleet)

    async def story() -> None:
        client = await ReplicationClient.connect(upstream_of(server))
        info = await client.identify()
        assert info.system_identifier == server.control().system_identifier
        assert info.tli == 1
        assert info.flush_lsn == Lsn.parse(execute(server, "select pg_current_wal_flush_lsn()"))
        assert await client.show("wal_segment_size") == "16MB"
        client.close()

    run(story)


@pytest.mark.postgres
def test_slot_is_made_once_and_keeps_wal(fleet: Fleet) -> None:
    server = primary(fleet)

    async def story() -> None:
        client = await ReplicationClient.connect(upstream_of(server))
        await client.create_slot("log")
        await client.create_slot("log")
        query = "select count(*) from pg_replication_slots where restart_lsn is not null"
        assert execute(server, query) == "1"
        client.close()

    run(story)


@pytest.mark.postgres
def test_command_that_is_refused_leaves_the_connection_as_it_was(fleet: Fleet) -> None:
    server = primary(fleet)

    async def story() -> None:
        client = await ReplicationClient.connect(upstream_of(server))
        with pytest.raises(ServerRefusedError) as caught:
            await client.timeline_history(Tli(7))
        assert caught.value.sqlstate == "58P01"
        recorder = Recorder(client)
        with pytest.raises(ServerRefusedError, match='slot "none" does not exist'):
            await client.start(slot="none", lsn=Lsn(0x1000000), tli=TLI, handler=recorder)
        assert client.is_open
        assert (await client.identify()).tli == 1
        assert not recorder.lost
        client.close()

    run(story)


@pytest.mark.postgres
def test_wal_arrives_byte_for_byte(fleet: Fleet) -> None:
    server = primary(fleet)

    async def story() -> None:
        client, recorder = await streaming(server)
        end = await asyncio.to_thread(
            execute,
            server,
            "create table t as select i, repeat('x', 500) from generate_series(1, 60000) i",
            "insert into t values (0)",
            "select pg_current_wal_flush_lsn()",
        )
        await recorder.until_received(Lsn.parse(end))
        start = recorder.bursts[0][0][0]
        client.close()
        files = server_wal(server, start, recorder.end)
        assert len(recorder.wal()) > 30_000_000
        assert recorder.wal() == files

    run(story)


def server_wal(server: Postgres, start: Lsn, end: Lsn) -> bytes:
    """The same WAL out of the server's files."""
    parts, lsn = [], start
    while lsn < end:
        file = server.data_dir / "pg_wal" / wal_file_name(TLI, lsn)
        parts.append(file.read_bytes())
        lsn += len(parts[-1])
    return b"".join(parts)[: end - start]


@pytest.mark.postgres
def test_commit_returns_only_after_the_report(fleet: Fleet) -> None:
    server = primary(fleet, synchronous_standby_names=NAME)
    query = "select count(*) > 0 from pg_stat_activity where wait_event = 'SyncRep'"

    def a_commit_waits() -> bool:
        return execute(server, query) == "True"

    async def story() -> None:
        _, recorder = await streaming(server)
        await asyncio.to_thread(execute, server, "create table t (i int)")
        recorder.reports = False
        for number in range(20):
            insert = f"insert into t values ({number})"
            commit = asyncio.create_task(asyncio.to_thread(execute, server, insert))
            await asyncio.to_thread(eventually, a_commit_waits)
            end = Lsn.parse(execute(server, "select pg_current_wal_flush_lsn()"))
            await recorder.until_received(end)
            assert not commit.done()
            recorder.client.report(recorder.end)
            await commit
        recorder.client.close()

    run(story)


@pytest.mark.postgres
def test_every_commit_of_many_sessions_is_reported(fleet: Fleet) -> None:
    server = primary(fleet, synchronous_standby_names=NAME)

    async def story() -> None:
        client, recorder = await streaming(server)
        await asyncio.to_thread(execute, server, "create table t (i int)")
        insert = ["insert into t values (1)"] * 100
        await asyncio.gather(*(asyncio.to_thread(execute, server, *insert) for _ in range(4)))
        assert execute(server, "select count(*) from t") == "400"
        assert recorder.wal()
        client.close()

    run(story)


@pytest.mark.postgres
def test_server_waits_for_a_client_that_does_not_read(fleet: Fleet) -> None:
    server = primary(fleet)
    behind = "select sent_lsn < pg_current_wal_lsn() from pg_stat_replication"

    async def story() -> None:
        client, recorder = await streaming(server)
        await recorder.until(lambda: recorder.bursts)
        client.pause_reading()
        count = len(recorder.bursts)
        fill = "create table t as select i, repeat('x', 500) from generate_series(1, 60000) i"
        end = await asyncio.to_thread(
            execute, server, fill, "insert into t values (0)", "select pg_current_wal_flush_lsn()"
        )
        assert execute(server, behind) == "True"
        assert len(recorder.bursts) == count
        client.resume_reading()
        await recorder.until_received(Lsn.parse(end))
        client.close()

    run(story)


@pytest.mark.postgres
def test_stream_goes_on_with_the_next_timeline(fleet: Fleet) -> None:
    server = primary(fleet)
    standby = standby_of(fleet, server)

    async def story() -> None:
        client, recorder = await streaming(standby, slot=None)
        await asyncio.to_thread(execute, server, "create table t (i int)")
        await recorder.until(lambda: recorder.bursts)
        await asyncio.to_thread(server.kill_blocking)
        await standby.promote()
        await recorder.until(lambda: recorder.ended)
        ((next_tli, fork),) = recorder.ended
        assert next_tli == 2
        assert fork == recorder.end
        assert f"1\t{fork}\t".encode() in await client.timeline_history(Tli(2))
        await client.start(slot=None, lsn=fork, tli=Tli(2), handler=recorder)
        execute(standby, "insert into t values (1)")
        end = Lsn.parse(execute(standby, "select pg_current_wal_flush_lsn()"))
        await recorder.until_received(end)
        assert not recorder.lost
        client.close()
        await end_of_a_timeline_is_told_at_its_very_end(standby, fork)

    run(story)


async def end_of_a_timeline_is_told_at_its_very_end(server: Postgres, fork: Lsn) -> None:
    """Nothing streams from there, but the answer is the same."""
    client = await ReplicationClient.connect(upstream_of(server))
    recorder = Recorder(client)
    await client.start(slot=None, lsn=fork, tli=TLI, handler=recorder)
    assert recorder.ended == [(Tli(2), fork)]
    assert (await client.identify()).tli == 2
    client.close()


def standby_of(fleet: Fleet, server: Postgres) -> Postgres:
    """A copy of a server that follows it."""
    server.stop_blocking()
    data_dir = fleet.directory / "s"
    subprocess.run(["cp", "-a", server.data_dir, data_dir], check=True)  # noqa: S607  # coreutils
    fleet.identity.give_tree(data_dir)
    request_standby(data_dir, fleet.identity)
    server.start_blocking()
    conninfo = f"host={server.run_dir} port={server.port} user=postgres"
    settings = PostgresSettings(extra={"primary_conninfo": conninfo})
    standby = fleet.server("s", settings=settings, data_dir=data_dir)
    standby.start_blocking()
    return standby


@pytest.mark.postgres
def test_death_of_the_server_is_told(fleet: Fleet) -> None:
    server = primary(fleet)

    async def story() -> None:
        client, recorder = await streaming(server)
        await asyncio.to_thread(server.kill_blocking)
        assert re.search("closed the connection|broke", await recorder.until_lost())
        with pytest.raises(ConnectionLostError, match=r"closed the connection|broke"):
            await client.identify()
        with pytest.raises(ConnectionLostError, match="cannot be reached"):
            await ReplicationClient.connect(upstream_of(server))

    run(story)


@pytest.mark.postgres
def test_shutdown_of_the_server_is_told_and_waits_for_our_report(fleet: Fleet) -> None:
    server = primary(fleet)

    async def story() -> None:
        _, recorder = await streaming(server)
        await server.stop()
        # A report of ours can meet the closed connection before we have read the last word.
        assert re.search(
            "after it had sent all of its WAL|Broken pipe|reset by peer",
            await recorder.until_lost(),
        )
        assert recorder.end >= server.control().checkpoint

    run(story)


@pytest.mark.postgres
def test_slot_is_free_as_soon_as_the_client_has_closed(fleet: Fleet) -> None:
    server = primary(fleet)

    async def story() -> None:
        client, recorder = await streaming(server)
        client.close()
        query = "select count(*) = 0 from pg_replication_slots where active"
        await asyncio.to_thread(eventually, lambda: execute(server, query) == "True")
        assert not recorder.lost

    run(story)


# Real servers, with passwords and in TLS.


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def tcp_server(fleet: Fleet, **extra: str) -> Postgres:
    """A server with user ada, by password over TCP."""
    server = fleet.server("p", settings=PostgresSettings(tcp_port=free_port(), extra=extra))
    server.start_blocking()
    execute(server, f"create role ada login replication password '{SECRET}'")
    execute(server, "create role leaf login replication")  # as the test certificates are called
    return server


def tls_server(fleet: Fleet, authority: Authority, *, uri: str) -> Postgres:
    """The same, which speaks TLS and takes the authority's certificates instead of passwords."""
    program = fleet.binaries.bin_dir / "pg_config"
    built = subprocess.run([program, "--configure"], capture_output=True, check=True, text=True)
    if "openssl" not in built.stdout:
        pytest.skip(f"{fleet.binaries} was built without OpenSSL")
    files = authority.issue(uri)
    directory = fleet.directory / "tls"
    directory.mkdir()
    names = {"ca.crt": files.ca_file, "s.crt": files.certificate_file, "s.key": files.key_file}
    for name, source in names.items():
        (directory / name).write_bytes(Path(source).read_bytes())
        (directory / name).chmod(0o600)
    fleet.identity.give_tree(directory)
    server = tcp_server(
        fleet,
        ssl="on",
        ssl_ca_file=str(directory / "ca.crt"),
        ssl_cert_file=str(directory / "s.crt"),
        ssl_key_file=str(directory / "s.key"),
    )
    rules = server.run_dir / "pg_hba.conf"
    by_certificate = "hostssl replication leaf 127.0.0.1/32 cert\n"
    rules.write_text(by_certificate + rules.read_text(encoding="ascii"), encoding="ascii")
    before = execute(server, "select pg_conf_load_time()")
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: execute(server, "select pg_conf_load_time()") != before)
    return server


def tcp_upstream(server: Postgres, user: str = "ada", **options: Any) -> Upstream:
    address = TcpAddress("127.0.0.1", server.port)
    return Upstream(address=address, user=user, application_name=NAME, **options)


SERVER_URI = "seawall://blue/compute/c1"
CLIENT_URI = "seawall://blue/log/l1"


def client_tls(authority: Authority, cluster: str = "blue") -> ClientTls:
    context = client_context(authority.issue(CLIENT_URI))
    return ClientTls(context, ClusterName(cluster), Role.COMPUTE)


async def stream_a_little(server: Postgres, upstream: Upstream) -> None:
    """Prove that WAL comes and reports go over a connection of this kind."""
    client = await ReplicationClient.connect(upstream)
    info = await client.identify()
    recorder = Recorder(client)
    await client.start(slot=None, lsn=info.flush_lsn, tli=info.tli, handler=recorder)
    fill = "create table t as select i, repeat('x', 500) from generate_series(1, 20000) i"
    await asyncio.to_thread(execute, server, fill, "insert into t values (0)")
    end = Lsn.parse(execute(server, "select pg_current_wal_flush_lsn()"))
    await recorder.until_received(end)
    assert (
        recorder.wal()
        == server_wal(server, info.flush_lsn.segment_start(), recorder.end)[
            info.flush_lsn - info.flush_lsn.segment_start() :
        ]
    )
    query = f"select flush_lsn >= '{end}' from pg_stat_replication"
    await asyncio.to_thread(eventually, lambda: execute(server, query) == "True")
    client.close()


@pytest.mark.postgres
def test_password_opens_the_server_over_tcp(fleet: Fleet) -> None:
    server = tcp_server(fleet)

    async def story() -> None:
        await stream_a_little(server, tcp_upstream(server, password=SECRET))
        with pytest.raises(ServerRefusedError) as caught:
            await ReplicationClient.connect(tcp_upstream(server, password="pen"))  # noqa: S106  # wrong
        assert caught.value.sqlstate == "28P01"
        with pytest.raises(ScramError, match="none is configured"):
            await ReplicationClient.connect(tcp_upstream(server))

    run(story)


@pytest.mark.postgres
def test_certificate_opens_the_server_in_tls(fleet: Fleet, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    server = tls_server(fleet, authority, uri=SERVER_URI)
    run(lambda: stream_a_little(server, tcp_upstream(server, "leaf", tls=client_tls(authority))))


@pytest.mark.postgres
def test_password_is_bound_to_the_tls_connection(fleet: Fleet, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    server = tls_server(fleet, authority, uri=SERVER_URI)
    upstream = tcp_upstream(
        server, password=SECRET, tls=client_tls(authority), binding=ChannelBinding.REQUIRED
    )
    run(lambda: stream_a_little(server, upstream))


@pytest.mark.postgres
def test_server_of_another_cluster_or_authority_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    server = tls_server(fleet, authority, uri=SERVER_URI)
    stranger = Authority.create(tmp_path / "other")

    async def story() -> None:
        other_cluster = client_tls(authority, "green")
        with pytest.raises(IdentityError, match="compute node of cluster green was expected"):
            await ReplicationClient.connect(tcp_upstream(server, "leaf", tls=other_cluster))
        with pytest.raises(ConnectionLostError, match="cannot be reached"):
            await ReplicationClient.connect(tcp_upstream(server, "leaf", tls=client_tls(stranger)))

    run(story)


@pytest.mark.postgres
def test_server_without_tls_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    server = tcp_server(fleet)
    tls = client_tls(Authority.create(tmp_path / "ca"))

    async def story() -> None:
        with pytest.raises(ConnectionLostError, match="does not speak TLS: set ssl = on"):
            await ReplicationClient.connect(tcp_upstream(server, tls=tls))

    run(story)
