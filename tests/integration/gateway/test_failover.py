"""A primary dies, or hands over, and the clients of the gateway keep their connections.

In scope: what each kind of session sees, and that no word of the gateway about a write is wrong.
Out of scope: how long it takes (`make bench-gateway`), and faults in all combinations.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from fixtures.waiting import eventually
from integration.gateway.writers import UNKNOWN, writing

from sqlnode.processes import children_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.gateway_world import Address, GatewayCluster

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

WRITERS = 8
BEFORE = 200  # acknowledgements: commits flow
AFTER = 200
NEWS_S = 60.0
DEADLINE_S = 120.0
LOST_TRANSACTION = {"40001", "08006"}


def value(connection: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    found = connection.execute(query, values or None).fetchone()
    assert found is not None
    return found[0]


@pytest.fixture
def whole(gateway_cluster: GatewayCluster) -> Iterator[GatewayCluster]:
    """The cluster with two computes that work, before the test and behind it."""
    gateway_cluster.healthy()
    yield gateway_cluster
    gateway_cluster.healthy()


@pytest.fixture
def counted(gateway: Address, whole: GatewayCluster) -> Iterator[str]:
    """Tables for writers; the name of the one."""
    name = "counted"
    with gateway.connect() as connection:
        connection.execute(f"create table {name} (n int primary key)")
        connection.execute(f"create table {name}_sum (id int primary key, n int not null)")
        connection.execute(f"insert into {name}_sum select g, 0 from generate_series(0, 15) g")
    yield name
    whole.healthy()
    with gateway.connect() as connection:
        connection.execute(f"drop table {name}, {name}_sum")


def kill_primary(cluster: GatewayCluster) -> str:
    """SIGKILL to whoever would start the primary again, and to all of its processes; its name."""
    (primary,) = [one for one in cluster.local.status()["computes"] if one["role"] == "primary"]
    for pid in (primary["agent_pid"], primary["pid"], *children_of(primary["pid"])):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return str(primary["name"])


def await_primary(gateway: Address) -> None:
    """Until the gateway has another one, and has seen that the old one is gone."""
    with gateway.connect() as connection:
        value(connection, "select 1")


def rows_of(address: Address, table: str) -> list[int]:
    with address.connect() as connection:
        return [row[0] for row in connection.execute(f"select n from {table}")]


def test_idle_sessions_keep_all_that_they_have(whole: GatewayCluster, gateway: Address) -> None:
    connections = [gateway.connect(prepare_threshold=0) for _ in range(10)]
    for number, connection in enumerate(connections):
        connection.execute(f"set work_mem = '{number + 5}MB'")
        connection.execute(f"set my.number = '{number}'")
        connection.execute("prepare twice (int) as select $1 * 2")
        assert value(connection, "select %s::int + 1", number) == number + 1
    kill_primary(whole)
    for number, connection in enumerate(connections):
        # Prepared by the driver, which does not know that the server is another one.
        assert value(connection, "select %s::int + 1", number) == number + 1
        assert value(connection, "show work_mem") == f"{number + 5}MB"
        assert value(connection, "show my.number") == str(number)
        assert value(connection, "execute twice(21)") == 42
        assert value(connection, "select pg_is_in_recovery()") is False
        connection.close()


def test_idle_sessions_of_asyncpg_keep_all_that_they_have(
    whole: GatewayCluster, gateway: Address
) -> None:
    async def story() -> None:
        clients = [await asyncpg.connect(**gateway.asyncpg()) for _ in range(5)]
        statements = [await client.prepare("select $1::int + 1") for client in clients]
        for client in clients:
            await client.execute("set timezone = 'Asia/Tokyo'")
            assert await client.fetchval("select $1::text", "cached") == "cached"
        await asyncio.to_thread(kill_primary, whole)
        answers = [statement.fetchval(number) for number, statement in enumerate(statements)]
        assert await asyncio.gather(*answers) == [1, 2, 3, 4, 5]
        for client in clients:
            assert await client.fetchval("select $1::text", "cached") == "cached"
            assert await client.fetchval("show timezone") == "Asia/Tokyo"
            await client.close()

    asyncio.run(asyncio.wait_for(story(), DEADLINE_S))


def test_a_transaction_is_lost_and_can_be_tried_again_on_the_same_connection(
    whole: GatewayCluster, gateway: Address, counted: str
) -> None:
    with gateway.connect() as connection, gateway.connect() as failed:
        connection.execute("set work_mem = '7MB'")
        connection.execute("begin")
        connection.execute(f"insert into {counted} values (1)")
        failed.execute("begin")
        with pytest.raises(psycopg.Error):
            failed.execute("select 1/0")
        kill_primary(whole)
        await_primary(gateway)
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(f"insert into {counted} values (2)")
        assert caught.value.sqlstate in LOST_TRANSACTION
        assert not connection.closed
        if connection.info.transaction_status is psycopg.pq.TransactionStatus.INERROR:
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                connection.execute("select 1")
        connection.execute("rollback")
        failed.execute("rollback")
        for each in (connection, failed):
            assert value(each, f"select count(*) from {counted}") == 0
        with connection.transaction():
            connection.execute(f"insert into {counted} values (1)")
        assert value(connection, "show work_mem") == "7MB"
        assert value(failed, f"select count(*) from {counted}") == 1


def test_a_commit_behind_a_lost_transaction_is_no_success(
    whole: GatewayCluster, gateway: Address, counted: str
) -> None:
    with gateway.connect() as connection:
        connection.execute("begin")
        connection.execute(f"insert into {counted} values (1)")
        kill_primary(whole)
        await_primary(gateway)  # else the outcome is unknown, and told so
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("commit")
        assert caught.value.sqlstate in LOST_TRANSACTION
        if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            connection.execute("rollback")
        assert value(connection, f"select count(*) from {counted}") == 0


def test_statements_in_flight_are_answered_or_reported(
    whole: GatewayCluster, gateway: Address
) -> None:
    """A read that surely changed nothing is asked again; a sleeping write is unknown or lost."""
    with gateway.connect() as reading, gateway.connect() as calling:
        outcome: list[Any] = []

        def read() -> None:
            outcome.append(value(reading, "select 5 from pg_sleep(3)"))

        def call() -> None:
            try:
                calling.execute("do $$ begin perform pg_sleep(30); end $$")
            except psycopg.Error as error:
                outcome.append(error.sqlstate)

        threads = [threading.Thread(target=read), threading.Thread(target=call)]
        for thread in threads:
            thread.start()
        query = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
        with whole.direct().connect() as watcher:
            eventually(lambda: value(watcher, query) == 2, what="both")
        kill_primary(whole)
        for thread in threads:
            thread.join(DEADLINE_S)
        assert 5 in outcome
        outcome.remove(5)
        assert outcome[0] in {UNKNOWN, *LOST_TRANSACTION}
        assert (value(reading, "select 1"), value(calling, "select 1")) == (1, 1)


def test_a_session_with_a_temporary_table_is_told_what_it_lost(
    whole: GatewayCluster, gateway: Address
) -> None:
    connection = gateway.connect()
    connection.execute("create temp table mine ()")
    kill_primary(whole)
    with pytest.raises(psycopg.Error, match="temporary table") as caught:
        connection.execute("select 1")
    assert caught.value.sqlstate is not None
    assert caught.value.sqlstate[:2] in {"08", "57", "40"}
    connection.close()


def test_whoever_listens_hears_again(whole: GatewayCluster, gateway: Address) -> None:
    with gateway.connect() as listener:
        listener.execute("listen after_all")
        kill_primary(whole)
        await_primary(gateway)
        with gateway.connect() as teller:

            def heard() -> bool:
                # The listener asks nothing: it is the gateway's business to take it up again.
                teller.execute("notify after_all, 'again'")
                return bool(list(listener.notifies(timeout=0.5, stop_after=1)))

            eventually(heard, deadline_s=NEWS_S, what="news")
        assert value(listener, "select 1") == 1


def test_new_clients_wait_for_the_next_primary(whole: GatewayCluster, gateway: Address) -> None:
    kill_primary(whole)
    with gateway.connect() as connection:
        assert value(connection, "select 1") == 1


@pytest.mark.parametrize("in_transaction", [False, True])
def test_no_word_about_a_write_is_wrong_when_the_primary_is_killed(
    whole: GatewayCluster, gateway: Address, counted: str, in_transaction: bool
) -> None:
    with writing(gateway, counted, count=WRITERS, in_transaction=in_transaction) as writers:
        writers.more(BEFORE)
        kill_primary(whole)
        writers.more(AFTER)
    writers.judge(rows_of(gateway, counted))


@pytest.mark.parametrize("in_transaction", [False, True])
def test_no_word_about_a_write_is_wrong_at_a_switchover(
    whole: GatewayCluster, gateway: Address, counted: str, in_transaction: bool
) -> None:
    with writing(gateway, counted, count=WRITERS, in_transaction=in_transaction) as writers:
        for _ in range(2):
            writers.more(BEFORE)
            whole.local.seawall("switchover")
            whole.healthy()
        writers.more(AFTER)
    writers.judge(rows_of(gateway, counted))
