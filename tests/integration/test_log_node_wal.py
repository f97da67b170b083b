"""A log node between a real primary and a real standby, over TCP, with passwords on both sides.

In scope: WAL that comes in with a password is read back byte for byte, by calls and by a standby;
positions that a reader waits for; timelines. Out of scope: faults (test_log_faults_*).
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from fixtures.redo import one, settings, wait_for_replay
from fixtures.servers import Fleet
from fixtures.waiting import eventually
from integration.log_node_world import CLUSTER, Nodes, nodes_world, until

from bench.log.cluster import SYNCHRONOUS
from bench.log.control import genesis_of
from bench.log.nodes import HOST, free_ports
from fabric.ids import BranchName, NodeName
from fabric.lsn import Lsn, Tli, wal_file_name
from fabric.rpc_errors import BadRequestError
from log_service.client import LogClient
from log_service.record_bodies import Genesis, Holder
from sqlnode.postgres import Postgres, PostgresSettings, request_standby

pytestmark = pytest.mark.postgres

BRANCH = BranchName("main")
NODE = "log-1"
PRIMARY_PASSWORD = "pencil"  # noqa: S105  # of this test alone
STANDBY_PASSWORD = "it's secret"  # noqa: S105  # of this test alone
INGEST_USER = "ingest"
LONG_MS = 30_000
PIECE_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class WalWorld:
    """One node that takes a primary's WAL."""

    fleet: Fleet
    nodes: Nodes
    primary: Postgres
    genesis: Genesis

    def execute(self, statement: str, server: Postgres | None = None) -> None:
        """Run a statement; its commit waits for the log if it writes."""
        with psycopg.connect((server or self.primary).conninfo(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def position(self) -> Lsn:
        """Up to where the primary has flushed."""
        with psycopg.connect(self.primary.conninfo(), autocommit=True) as connection:
            return Lsn.parse(one(connection, "select pg_current_wal_flush_lsn()"))

    def standby(self, name: str, *, password: str = STANDBY_PASSWORD) -> Postgres:
        """A standby that asks the node for WAL; whether it gets any is the test's business."""
        data_dir = self.fleet.make_cluster(name)
        request_standby(data_dir, self.fleet.identity)
        quoted = password.replace("'", r"\'")
        conninfo = (
            f"host={HOST} port={self.nodes.by_name[NODE].spec.pg_port} user={CLUSTER}.{BRANCH} "
            f"password='{quoted}' application_name={name}"
        )
        server = self.fleet.server(
            name, data_dir=data_dir, settings=compute_settings(primary_conninfo=conninfo)
        )
        server.start_blocking()
        return server


def compute_settings(tcp_port: int | None = None, **extra: str) -> PostgresSettings:
    """As every compute: its commits wait for the log."""
    found = settings(synchronous_standby_names=SYNCHRONOUS, **extra)
    return PostgresSettings(tcp_port=tcp_port, extra=found.extra)


@pytest.fixture
def wal_world(fleet: Fleet, tmp_path: Path) -> Iterator[WalWorld]:
    secrets = {"primary": PRIMARY_PASSWORD, "standby": STANDBY_PASSWORD}
    for name, value in secrets.items():
        (tmp_path / name).write_text(f"{value}\n")
    of_node = {f"{name}_password_file": str(tmp_path / name) for name in secrets}
    with nodes_world(tmp_path, (NODE,), settings={NODE: of_node}) as nodes:
        (port,) = free_ports(1, nodes.rng)
        primary = fleet.server("p", settings=compute_settings(port))
        genesis = genesis_of(primary.data_dir, str(fleet.binaries.version))
        primary.start_blocking()
        world = WalWorld(fleet, nodes, primary, genesis)
        # Nobody is there yet for whom a commit could wait.
        role = f"create role {INGEST_USER} login replication password '{PRIMARY_PASSWORD}'"
        world.execute(f"set synchronous_commit = local; {role}")
        holder = Holder(NodeName("p"), f"tcp://{HOST}:{port}", INGEST_USER)

        async def begin(client: LogClient) -> None:
            await client.create_branch(BRANCH, genesis, [nodes.address(NODE)])
            await client.grant_epoch(BRANCH, holder)

        nodes.run(begin)
        world.execute("create table t (n int)")
        yield world


async def read_all(client: LogClient, start: Lsn, end: Lsn) -> bytes:
    """Read WAL of the first timeline."""
    found = bytearray()
    while start + len(found) < end:
        answer = await client.read_wal(
            BRANCH, tli=Tli(1), lsn=start + len(found), bytes_max=PIECE_BYTES, wait_ms=LONG_MS
        )
        assert 0 < len(answer.payload) <= PIECE_BYTES
        found += answer.payload
    return bytes(found[: end - start])


def on_disk(world: WalWorld, start: Lsn, end: Lsn) -> bytes:
    """The same bytes, of the primary's files."""
    size = world.genesis.segment_bytes
    found = b""
    at = start.segment_start(size)
    while at < end:
        found += (world.primary.data_dir / "pg_wal" / wal_file_name(Tli(1), at)).read_bytes()
        at = at + size
    return found[start - start.segment_start(size) :][: end - start]


def test_wal_is_read_back_as_the_primary_wrote_it(wal_world: WalWorld) -> None:
    wal_world.execute("insert into t select generate_series(1, 20000)")
    start, end = wal_world.genesis.start, wal_world.position()
    assert end - start > 5 * PIECE_BYTES
    read = wal_world.nodes.run(lambda client: read_all(client, start, end))
    assert read == on_disk(wal_world, start, end)


def test_reader_that_waits_gets_what_is_committed_next(wal_world: WalWorld) -> None:
    async def story(client: LogClient) -> None:
        end = (await client.topology(BRANCH)).end
        waiting = asyncio.create_task(
            client.read_wal(BRANCH, tli=Tli(1), lsn=end, bytes_max=PIECE_BYTES, wait_ms=LONG_MS)
        )
        await asyncio.to_thread(wal_world.execute, "insert into t values (1)")
        answer = await waiting
        assert answer.payload
        assert answer.response.committed >= end + len(answer.payload)

    wal_world.nodes.run(story)


def test_status_names_the_standby_and_says_that_the_holder_streams(wal_world: WalWorld) -> None:
    standby = wal_world.standby("s")
    wal_world.execute("insert into t values (1)")
    wait_for_replay(standby, str(wal_world.position()))
    with psycopg.connect(standby.conninfo(), autocommit=True) as connection:
        assert one(connection, "select count(*) from t") == "1"

    async def story(client: LogClient) -> None:
        status = await wal_world.nodes.known_status(client, NODE, BRANCH)
        assert (status.topology.is_streaming, status.ingest_complaint) == (True, "")
        assert [info.name for info in status.standbys] == ["s"]

    wal_world.nodes.run(story)


def test_standby_with_a_wrong_password_gets_nothing(wal_world: WalWorld) -> None:
    standby = wal_world.standby("s", password="pen")  # noqa: S106  # wrong
    log = eventually(lambda: refusal(standby))
    assert "password authentication failed" in log


def refusal(server: Postgres) -> str | None:
    """What a standby says about the server that does not let it in."""
    lines = server.log_path.read_text().splitlines()
    return next((line for line in lines if "authentication failed" in line), None)


def test_promoted_standby_goes_on_along_a_timeline_with_a_history(wal_world: WalWorld) -> None:
    standby = wal_world.standby("s")
    wal_world.execute("insert into t values (1)")
    wait_for_replay(standby, str(wal_world.position()))
    wal_world.primary.kill_blocking()
    socket = standby.run_dir / f".s.PGSQL.{standby.port}"
    holder = Holder(NodeName("s"), f"unix://{socket}")
    granted = wal_world.nodes.run(lambda client: client.grant_epoch(BRANCH, holder))
    eventually(lambda: received(standby) >= granted.end)
    standby.promote_blocking()
    wal_world.execute("insert into t values (2)", standby)

    async def story(client: LogClient) -> None:
        async def is_followed() -> bool:
            return (await client.topology(BRANCH)).tli == 2

        await until(is_followed)
        history = await client.read_history(BRANCH, Tli(2))
        fork = Lsn.parse(history.decode().split("\t")[1])
        topology = await client.topology(BRANCH)
        assert topology.end > fork
        answer = await client.read_wal(BRANCH, tli=Tli(1), lsn=fork, bytes_max=PIECE_BYTES)
        assert (bytes(answer.payload), answer.response.fork) == (b"", fork)
        answer = await client.read_wal(BRANCH, tli=Tli(2), lsn=fork, bytes_max=PIECE_BYTES)
        assert answer.payload
        with pytest.raises(BadRequestError, match="has no history file"):
            await client.read_history(BRANCH, Tli(1))

    wal_world.nodes.run(story)


def received(standby: Postgres) -> Lsn:
    """Up to where a standby has WAL."""
    with psycopg.connect(standby.conninfo(), autocommit=True) as connection:
        return Lsn.parse(one(connection, "select pg_last_wal_receive_lsn()"))
