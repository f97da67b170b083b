"""Transaction pooling: many clients over four links, and none of them can tell.

In scope: that all work, that prepared statements and settings are each client's own, what pins a
link, how long somebody waits. Out of scope: what passes in session mode as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from fixtures.gateway_world import VISITOR, VISITOR_PASSWORD, Address
from fixtures.waiting import eventually
from psycopg import errors

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from fixtures.gateway_world import GatewayCluster

pytestmark = pytest.mark.postgres

CLIENTS = 50
LINKS = 4
QUEUE_MS = 2_000
DEADLINE_S = 90.0
NO_SUCH_STATEMENT = b"26000"


def run(story: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(asyncio.wait_for(story, DEADLINE_S))


def value(connection: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    found = connection.execute(query, values or None).fetchone()
    assert found is not None
    return found[0]


@pytest.fixture(scope="module")
def pooled(gateway_cluster: GatewayCluster) -> Iterator[Address]:
    """A gateway that shares links between transactions."""
    limits = {"pool_links": LINKS, "queue_ms": QUEUE_MS}
    with gateway_cluster.another(pool_mode="transaction", limits=limits) as gateway:
        yield gateway.address.but(user=VISITOR, password=VISITOR_PASSWORD)


@contextlib.contextmanager
def held_links(pooled: Address) -> Iterator[list[psycopg.Connection[Any]]]:
    """Sessions in a transaction, as many as there are links."""
    with contextlib.ExitStack() as ends:
        holders = [ends.enter_context(pooled.connect()) for _ in range(LINKS)]
        for holder in holders:
            holder.execute("begin")
            holder.execute("select 1")
        yield holders


@pytest.fixture
def shared(direct: Address, table: str) -> str:
    """A table for everybody."""
    with direct.connect() as connection:
        connection.execute(f"create table {table} (id int primary key, n int not null)")
        connection.execute(f"insert into {table} select g, 0 from generate_series(0, 99) g")
        connection.execute(f"grant all on {table} to public")
    return table


def test_fifty_clients_work_over_four_links(pooled: Address, direct: Address, shared: str) -> None:
    pids: set[int] = set()

    async def one(number: int) -> None:
        keywords: Any = pooled.libpq()
        async with await psycopg.AsyncConnection.connect(**keywords, autocommit=True) as client:
            for _ in range(10):
                async with client.transaction():
                    cursor = await client.execute(
                        f"update {shared} set n = n + 1 where id = %s returning pg_backend_pid()",
                        [number],
                    )
                    found = await cursor.fetchone()
                    assert found is not None
                    pids.add(found[0])
                cursor = await client.execute(f"select n from {shared} where id = %s", [number])
                assert await cursor.fetchone() is not None

    async def story() -> None:
        await asyncio.gather(*(one(number) for number in range(CLIENTS)))

    run(story())
    assert 1 < len(pids) <= LINKS
    with direct.connect() as connection:
        assert value(connection, f"select sum(n) from {shared}") == CLIENTS * 10


def test_clients_that_idle_keep_no_link(pooled: Address, direct: Address) -> None:
    name = "idle at the pool"
    connections = [pooled.connect(application_name=name) for _ in range(CLIENTS)]
    try:
        for connection in connections:
            connection.execute("select 1")
        with direct.connect() as watcher:
            query = (
                "select count(*) between 1 and %s from pg_stat_activity where application_name = %s"
            )
            # Eventually: a backend whose link was closed takes a moment to end.
            eventually(lambda: value(watcher, query, LINKS, name), what="few links")
    finally:
        for connection in connections:
            connection.close()


def test_prepared_statements_of_psycopg_go_along(pooled: Address, shared: str) -> None:
    def work(number: int, failures: list[Exception]) -> None:
        try:
            with pooled.connect(prepare_threshold=0) as connection:
                connection.prepared_max = 5
                for step in range(40):
                    # The same name in each client means another statement.
                    query = f"select %s::int + {number * 100 + step % 8}"
                    assert value(connection, query, step) == number * 100 + step % 8 + step
        except Exception as error:  # noqa: BLE001  # any failure is the test's
            failures.append(error)

    failures: list[Exception] = []
    threads = [threading.Thread(target=work, args=(n, failures)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_prepared_statements_of_asyncpg_go_along(pooled: Address, shared: str) -> None:
    async def one(number: int) -> None:
        client = await asyncpg.connect(**pooled.asyncpg())
        statement = await client.prepare(f"select $1::int * {number}")
        for step in range(20):
            assert await statement.fetchval(step) == step * number
            assert await client.fetchval(f"select {number} + $1::int", step) == number + step
            async with client.transaction():
                rows = await client.fetch(f"select id from {shared} where id < $1", step)
                assert len(rows) == step
        await client.close()

    async def story() -> None:
        await asyncio.gather(*(one(number) for number in range(1, 16)))

    run(story())


def test_a_statement_that_was_closed_is_gone(pooled: Address) -> None:
    with pooled.connect() as connection:
        for end in ("deallocate all", "deallocate kept", "discard all"):
            raw = connection.pgconn  # the driver itself would prepare it again
            assert raw.prepare(b"kept", b"select 1").error_message == b""
            assert raw.exec_prepared(b"kept", None).get_value(0, 0) == b"1"
            connection.execute(end)
            gone = raw.exec_prepared(b"kept", None)
            assert gone.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == NO_SUCH_STATEMENT


def test_settings_of_one_are_never_seen_by_another(pooled: Address) -> None:
    connections = [pooled.connect() for _ in range(3 * LINKS)]
    sizes = [f"{number + 5}MB" for number in range(len(connections))]
    try:
        for connection, size in zip(connections[1:], sizes[1:], strict=True):
            connection.execute(f"set work_mem = '{size}'")
            connection.execute(f"set my.owner = '{size}'")
        for _ in range(5):
            assert value(connections[0], "show work_mem") == "4MB"
            assert value(connections[0], "select current_setting('my.owner', true)") in {None, ""}
            for connection, size in zip(connections[1:], sizes[1:], strict=True):
                assert value(connection, "show work_mem") == size
                assert value(connection, "show my.owner") == size
    finally:
        for connection in connections:
            connection.close()
    with pooled.connect() as after:
        for _ in range(2 * LINKS):
            assert value(after, "show work_mem") == "4MB"


def test_what_cannot_be_shared_pins_its_link(pooled: Address) -> None:
    with pooled.connect() as owner, pooled.connect() as other:
        owner.execute("create temp table mine as select 7 as n")
        pid = value(owner, "select pg_backend_pid()")
        for _ in range(3 * LINKS):
            assert value(other, "select pg_backend_pid()") != pid
            assert value(owner, "select n from mine") == 7
            with pytest.raises(errors.UndefinedTable):
                other.execute("select * from mine")
    with pooled.connect() as holder, pooled.connect() as other:
        holder.execute("select pg_advisory_lock(4711)")
        for _ in range(3 * LINKS):
            assert value(other, "select pg_try_advisory_lock(4711)") is False
        assert value(holder, "select pg_advisory_unlock(4711)") is True


def test_what_a_session_leaves_is_not_found_by_the_next(pooled: Address) -> None:
    with pooled.connect() as connection:
        connection.execute("create temp table left_behind ()")
        connection.execute("select pg_advisory_lock(4712)")
        connection.execute("set search_path = 'nowhere'")
    abandoned = pooled.connect()
    abandoned.execute("begin")
    abandoned.execute("select 1")
    abandoned.close()  # in the middle of a transaction
    with pooled.connect() as after:
        eventually(
            lambda: value(after, "select pg_try_advisory_xact_lock(4712)"), what="a free lock"
        )
        for _ in range(3 * LINKS):
            assert value(after, "show search_path") == '"$user", public'
            assert value(after, "select to_regclass('left_behind')") is None


def test_news_reach_a_client_without_a_link(pooled: Address) -> None:
    with pooled.connect() as listener, pooled.connect() as teller:
        listener.execute("listen pooled_news")
        for number in range(3):
            teller.execute("select pg_notify('pooled_news', %s)", [str(number)])
        heard = [news.payload for news in listener.notifies(timeout=20, stop_after=3)]
        assert heard == ["0", "1", "2"]
        assert list(teller.notifies(timeout=0.2)) == []


def test_pipelines_and_copies_keep_their_link(pooled: Address, shared: str) -> None:
    with pooled.connect() as connection, connection.cursor() as cursor:
        with connection.pipeline():
            found = [connection.execute("select %s::int", [n]) for n in range(100)]
            assert [one.fetchone() for one in found] == [(n,) for n in range(100)]
        with cursor.copy(f"copy {shared} from stdin") as copy:
            for number in range(1000, 3000):
                copy.write_row((number, 1))
        with cursor.copy(f"copy (select * from {shared} where id >= 1000) to stdout") as copy:
            assert len(b"".join(bytes(one) for one in copy).splitlines()) == 2000


def test_who_waits_too_long_is_told_so_and_may_try_again(pooled: Address) -> None:
    with held_links(pooled) as holders, pooled.connect() as waiting:
        before_s = time.monotonic()
        with pytest.raises(psycopg.Error) as caught:
            waiting.execute("select 1")
        waited_s = time.monotonic() - before_s
        assert QUEUE_MS / 1000 * 0.8 < waited_s < QUEUE_MS / 1000 + 5
        assert caught.value.sqlstate is not None
        assert caught.value.sqlstate[:2] in {"53", "57"}
        assert len(str(caught.value)) > 20
        holders[0].execute("commit")
        # In time: whoever waits gets the next link.
        assert value(waiting, "select 2") == 2


def test_who_waits_gets_the_link_that_becomes_free(pooled: Address) -> None:
    with held_links(pooled) as holders:
        timer = threading.Timer(QUEUE_MS / 4000, holders[0].commit)
        timer.start()
        with pooled.connect() as waiting:
            assert value(waiting, "select 3") == 3
        timer.join()
