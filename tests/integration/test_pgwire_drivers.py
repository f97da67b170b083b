"""What psycopg (libpq), asyncpg, psql and the walreceiver send is understood, to the byte.

They talk to real servers through a proxy that decodes and encodes every frame of both directions.
"""

import asyncio
import os
import subprocess
from collections.abc import Coroutine
from typing import Any

import asyncpg
import psycopg
import pytest
from fixtures.servers import Fleet, server_with
from integration.pgwire_proxy import Seen, proxy_to
from psycopg import errors, sql

from fabric.lsn import Lsn, Tli
from pgwire.replication import IdentifySystem, StartReplication, TimelineHistory
from sqlnode.postgres import Postgres, PostgresSettings, request_standby

pytestmark = pytest.mark.postgres

DEADLINE_S = 120.0
SESAME = "open sesame"

PSQL_SCRIPT = """
create temp table t (a int, b text);
insert into t select i, 'row ' || i from generate_series(1, 1000) i;
\\copy (select * from t order by a) to pstdout
\\copy t from stdin
7	seven
\\.
select count(*) from t;
\\gdesc
select 1/0;
listen c; notify c, 'p';
set client_encoding = latin1;
select 'caf' || chr(233);
\\set FETCH_COUNT 100
select * from t;
"""


@pytest.fixture
def server(fleet: Fleet) -> Postgres:
    server = fleet.server("s")
    server.start_blocking()
    return server


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, DEADLINE_S))


def passed(seen: Seen, *names: str) -> None:
    """Claim that messages of these classes went through."""
    assert [name for name in names if not seen.messages[name]] == []


def test_psycopg(server: Postgres) -> None:
    async def story() -> None:
        async with proxy_to(server) as (port, seen):
            address = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
            async with await psycopg.AsyncConnection.connect(address, autocommit=True) as client:
                await psycopg_queries(client)
                await psycopg_copies(client)
                await psycopg_news(client)
                await psycopg_cancels(client)
        passed(seen, "SslRequest", "StartupMessage", "CancelRequest", "AuthenticationOk")
        passed(seen, "Parse", "Bind", "Describe", "Execute", "Sync", "Close", "Query")
        passed(seen, "CopyInResponse", "CopyOutResponse", "CopyData", "CopyDone", "CopyFail")
        passed(seen, "ErrorResponse", "NoticeResponse", "NotificationResponse", "Terminate")

    run(story())


async def psycopg_queries(client: psycopg.AsyncConnection[Any]) -> None:
    await client.execute("create table t (a int primary key, b text, c bytea)")
    async with client.cursor(binary=True) as cursor:
        rows = [(n, f"wört {n}", bytes(n)) for n in range(200)]
        await cursor.executemany("insert into t values (%s, %s, %s)", rows)
        await cursor.execute("select * from t order by a", prepare=True)
        assert await cursor.fetchall() == rows
    for _ in range(2):
        found = await client.execute("select b from t where a = %s", [7], prepare=True)
        assert await found.fetchone() == ("wört 7",)
    client.prepared_max = 0  # closes the prepared statements
    await client.execute("select 1", prepare=True)
    async with client.transaction(), client.cursor("portal") as cursor:
        await cursor.execute("select a from t order by a")
        assert await cursor.fetchmany(3) == [(0,), (1,), (2,)]
    async with client.pipeline():
        first = await client.execute("select 1")
        second = await client.execute("select 2")
        assert (await first.fetchone(), await second.fetchone()) == ((1,), (2,))
    with pytest.raises(errors.DivisionByZero):
        await client.execute("select 1/0")
    with pytest.raises(errors.UniqueViolation) as caught:
        await client.execute("insert into t values (1)")
    assert caught.value.diag.constraint_name == "t_pkey"


async def psycopg_copies(client: psycopg.AsyncConnection[Any]) -> None:
    async with client.cursor() as cursor:
        async with cursor.copy("copy t (a, b) from stdin") as copy:
            for n in range(1000, 2000):
                await copy.write_row((n, "x" * 500))
        async with cursor.copy("copy t to stdout (format binary)") as copy:
            size_bytes = sum([len(data) async for data in copy])
        assert size_bytes > 500_000
        with pytest.raises(errors.QueryCanceled):
            await given_up_copy(cursor)


async def given_up_copy(cursor: psycopg.AsyncCursor[Any]) -> None:
    async with cursor.copy("copy t (a) from stdin") as copy:
        await copy.write_row((5000,))
        raise errors.QueryCanceled


async def psycopg_news(client: psycopg.AsyncConnection[Any]) -> None:
    notices: list[str | None] = []
    client.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    await client.execute("do $$ begin raise warning 'beware'; end $$")
    assert notices == ["beware"]
    await client.execute("listen c")
    await client.execute("notify c, 'payload'")
    found = [notice.payload async for notice in client.notifies(timeout=DEADLINE_S, stop_after=1)]
    assert found == ["payload"]


async def psycopg_cancels(client: psycopg.AsyncConnection[Any]) -> None:
    """Cancel until it hits: one that comes before the statement runs does nothing."""
    sleeping = asyncio.create_task(client.execute("select pg_sleep(1000)"))
    while not sleeping.done():
        await client.cancel_safe()
    with pytest.raises(errors.QueryCanceled):
        await sleeping


def test_psycopg_with_a_password(fleet: Fleet) -> None:
    server = fleet.server("s")
    server.start_blocking()
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(sql.SQL("alter role postgres password {}").format(SESAME))
    server.stop_blocking()
    server.settings = PostgresSettings(local_auth="scram-sha-256")
    server.start_blocking()

    async def story() -> None:
        async with proxy_to(server) as (port, seen):
            address = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
            async with await psycopg.AsyncConnection.connect(address, password=SESAME) as client:
                await client.execute("select 1")
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                await psycopg.AsyncConnection.connect(address, password=SESAME.upper())
        passed(seen, "AuthenticationSasl", "AuthenticationSaslContinue", "AuthenticationSaslFinal")
        passed(seen, "AuthenticationResponse", "AuthenticationOk", "ErrorResponse")

    run(story())


def test_asyncpg(server: Postgres) -> None:
    async def story() -> None:
        async with proxy_to(server) as (port, seen):
            client = await asyncpg.connect(
                host="127.0.0.1", port=port, user="postgres", database="postgres"
            )
            try:
                await asyncpg_queries(client)
                await asyncpg_copies(client)
                await asyncpg_news(client)
            finally:
                await client.close()
        passed(seen, "StartupMessage", "Parse", "Bind", "Describe", "Execute", "Sync", "Query")
        passed(seen, "Flush", "PortalSuspended", "ParameterDescription", "RowDescription")
        passed(seen, "CopyInResponse", "CopyOutResponse", "CopyData", "CopyDone")
        passed(seen, "ErrorResponse", "NotificationResponse", "ReadyForQuery", "CancelRequest")

    run(story())


async def asyncpg_queries(client: Any) -> None:
    await client.execute("create table t (a int primary key, b text, c numeric)")
    await client.executemany("insert into t values ($1, $2, $3)", [(n, "ü", n) for n in range(300)])
    statement = await client.prepare("select a, b from t where a < $1 order by a")
    assert [tuple(row) for row in await statement.fetch(2)] == [(0, "ü"), (1, "ü")]
    async with client.transaction():
        cursor = await client.cursor("select a from t order by a")
        assert [row[0] for row in await cursor.fetch(3)] == [0, 1, 2]
    with pytest.raises(asyncpg.DivisionByZeroError):
        await client.fetchval("select 1/0")
    with pytest.raises(asyncio.TimeoutError):  # which makes asyncpg send a CancelRequest
        await client.execute("select pg_sleep(1000)", timeout=0.05)
    assert await client.fetchval("select 1") == 1


async def asyncpg_copies(client: Any) -> None:
    records = [(n, "x" * 300, 1) for n in range(1000, 2000)]
    assert await client.copy_records_to_table("t", records=records) == "COPY 1000"
    received: list[bytes] = []

    async def keep(data: bytes) -> None:
        received.append(data)

    assert await client.copy_from_query("select * from t", output=keep) == "COPY 1300"
    assert sum(map(len, received)) > 300_000


async def asyncpg_news(client: Any) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await client.add_listener("c", lambda *news: heard.put_nowait(news[3]))
    await client.execute("notify c, 'payload'")
    assert await heard.get() == "payload"


def test_psql(server: Postgres) -> None:
    binaries = server.binaries if server.binaries.has("psql") else server_with("psql")
    psql = binaries.bin_dir / "psql"

    async def story() -> None:
        async with proxy_to(server) as (port, seen):
            address = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
            done = await asyncio.to_thread(
                subprocess.run,
                [str(psql), "--no-psqlrc", "--file=-", address],
                input=PSQL_SCRIPT.encode(),
                capture_output=True,
                timeout=DEADLINE_S,
                env={"PATH": os.environ.get("PATH", os.defpath), "PGCLIENTENCODING": "UTF8"},
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert b" 1001\n" in done.stdout
            assert b"division by zero" in done.stderr
            assert b'Asynchronous notification "c" with payload "p"' in done.stdout
            assert b"caf\xe9" in done.stdout
        passed(seen, "CopyInResponse", "CopyOutResponse", "ParameterStatus", "Terminate")

    run(story())


def test_walreceiver(fleet: Fleet) -> None:
    """A standby of timeline 1 follows a server of timeline 2: every command that it knows."""
    data_dir = fleet.make_cluster("s")
    request_standby(data_dir, fleet.identity)
    server = fleet.server("s", data_dir=data_dir)
    server.start_blocking()
    server.promote_blocking()

    async def story() -> None:
        async with proxy_to(server) as (port, seen):
            conninfo = f"host=127.0.0.1 port={port} user=postgres"
            settings = PostgresSettings(extra={"primary_conninfo": conninfo})
            standby_dir = fleet.make_cluster("standby")
            request_standby(standby_dir, fleet.identity)
            standby = fleet.server("standby", settings=settings, data_dir=standby_dir)
            await standby.start()
            end = await asyncio.to_thread(written, server)
            while await asyncio.to_thread(replayed, standby) < end:
                assert not seen.failures
            await standby.stop()
        assert IdentifySystem() in seen.commands
        assert TimelineHistory(Tli(2)) in seen.commands
        starts = [c.tli for c in seen.commands if isinstance(c, StartReplication)]
        assert Tli(2) in starts
        passed(seen, "CopyBothResponse", "XLogData", "StatusUpdate", "HotStandbyFeedback")

    run(story())


def written(server: Postgres) -> Lsn:
    """The end of the WAL after a few changes."""
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute("create table t as select generate_series(1, 10000)")
        return position(connection, "pg_current_wal_flush_lsn()")


def replayed(server: Postgres) -> Lsn:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        return position(connection, "pg_last_wal_replay_lsn()")


def position(connection: psycopg.Connection[Any], expression: str) -> Lsn:
    found = connection.execute(f"select {expression}::text".encode()).fetchone()
    assert found is not None
    return Lsn.parse(found[0])
