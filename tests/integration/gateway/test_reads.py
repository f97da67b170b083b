"""What only the gateway has: reads that replicas answer, in a session that never goes back in time.

A replica that waits for a lock tells who has answered: it does not know the latest row. Whoever
must not be told something old must be told the newest by somebody else.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
import pytest
from fixtures.gateway_world import VISITOR, VISITOR_PASSWORD
from fixtures.waiting import eventually
from psycopg import errors

from fabric.lsn import Lsn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fixtures.gateway_world import Address, GatewayCluster

pytestmark = pytest.mark.postgres

PAIRS = 500
Lag: TypeAlias = "Callable[[], contextlib.AbstractContextManager[None]]"

DEADLINE_S = 30.0
LAG_S = 15.0  # a replica waits no longer than twice that
KNOWN_S = 1.5
AUTO = "-c seawall.read=auto"


def value(connection: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    found = connection.execute(query, values or None).fetchone()
    assert found is not None
    return found[0]


@pytest.fixture
def counter(direct: Address, gateway_cluster: GatewayCluster, table: str) -> Iterator[str]:
    """A table with a row for each of some sessions, which all replicas know."""
    with direct.connect() as connection:
        connection.execute(f"create table {table} (id int primary key, n int not null)")
        connection.execute(f"insert into {table} select g, 0 from generate_series(0, 9) g")
        connection.execute(f"create table {table}_lock ()")
    for replica in gateway_cluster.replicas():
        with replica.connect() as connection:
            there = functools.partial(value, connection, f"select to_regclass('{table}_lock')")
            eventually(there, deadline_s=DEADLINE_S, what="the table on a replica")
    yield table
    with direct.connect() as connection:
        connection.execute(f"drop table {table}_lock")


@contextlib.contextmanager
def lagging_replicas(replicas: list[Address], direct: Address, table: str) -> Iterator[None]:
    """Replicas that learn nothing new: they wait for a lock that a reader of theirs holds.

    A replica gives up waiting after max_standby_streaming_delay, which is half a minute.
    """
    with contextlib.ExitStack() as ends:
        for replica in replicas:
            holder = ends.enter_context(replica.connect(autocommit=False))
            holder.execute(f"select 1 from {table}_lock")
            ends.callback(holder.rollback)
        with direct.connect() as connection, connection.transaction():
            connection.execute(f"lock table {table}_lock in access exclusive mode")
        yield


@pytest.fixture
def lag(gateway_cluster: GatewayCluster, direct: Address, counter: str) -> Lag:
    """Makes replicas lag for the length of a block."""
    return functools.partial(lagging_replicas, gateway_cluster.replicas(), direct, counter)


@contextlib.contextmanager
def stuttering(lag: Lag) -> Iterator[None]:
    """Replicas that lag for moments, again and again."""
    stop = threading.Event()

    def stutter() -> None:
        while not stop.is_set():
            with lag():
                stop.wait(0.03)

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def following(reader: psycopg.Connection[Any]) -> Iterator[None]:
    """A reader that accepts old data, and has read for a while before the block.

    Only while somebody asks does a gateway follow how far replicas are.
    """
    reader.execute("set seawall.read = 'replica(10min)'")
    end_s = time.monotonic() + KNOWN_S
    while time.monotonic() < end_s:
        reader.execute("select 1")
        time.sleep(0.02)
    yield


def test_the_mode_of_reads_is_a_setting(gateway: Address) -> None:
    with gateway.connect() as connection:
        assert value(connection, "show seawall.read") == "primary"
        for text, shown in (
            ("set seawall.read = 'auto'", "auto"),
            ("SET seawall.read TO replica", "replica(10000ms)"),
            ("set session seawall.read = 'replica(500ms)'", "replica(500ms)"),
            ("reset seawall.read", "primary"),
        ):
            connection.execute(text)
            assert value(connection, "show seawall.read") == shown
        with pytest.raises(psycopg.Error, match=r"seawall\.read must be") as caught:
            connection.execute("set seawall.read = 'nonsense'")
        assert caught.value.sqlstate == "22023"
        assert value(connection, "show seawall.read") == "primary"
        cursor = connection.execute("show seawall.read", prepare=True)
        assert cursor.description is not None
        assert [column.name for column in cursor.description] == ["seawall.read"]


def test_the_mode_comes_with_the_start_up_or_with_the_role(
    direct: Address, gateway: Address
) -> None:
    with gateway.connect(options=AUTO) as connection:
        assert value(connection, "show seawall.read") == "auto"
    visitor = gateway.but(user=VISITOR, password=VISITOR_PASSWORD)
    with direct.connect() as owner:
        owner.execute(f"alter role {VISITOR} set seawall.read = 'auto'")
        try:

            def told() -> bool:
                with visitor.connect() as connection:
                    return bool(value(connection, "show seawall.read") == "auto")

            eventually(told, deadline_s=DEADLINE_S, what="the role's setting")
        finally:
            owner.execute(f"alter role {VISITOR} reset seawall.read")


def test_a_position_is_shown_moves_on_and_is_taken(gateway: Address, counter: str) -> None:
    with gateway.connect() as connection, gateway.connect() as other:
        connection.execute(f"update {counter} set n = 1 where id = 0")
        first = Lsn.parse(value(connection, "show seawall.position"))
        connection.execute(f"update {counter} set n = 2 where id = 0")
        second = Lsn.parse(value(connection, "show seawall.position"))
        assert second > first > Lsn(0)
        other.execute(f"set seawall.position = '{second}'")
        assert Lsn.parse(value(other, "show seawall.position")) >= second
        other.execute(f"set seawall.position = '{first}'")  # nobody unsees what he has seen
        assert Lsn.parse(value(other, "show seawall.position")) >= second
        for nonsense in ("nonsense", "1/2/3", "-1/0", "G/0"):
            with pytest.raises(psycopg.Error) as caught:
                other.execute(f"set seawall.position = '{nonsense}'")
            assert caught.value.sqlstate == "22023", nonsense
        # A position that nobody has reached: the primary answers.
        other.execute("set seawall.read = 'auto'")
        other.execute("set seawall.position = 'FFFFFFF/0'")
        assert value(other, f"select n from {counter} where id = 0") == 2


def test_a_replica_answers_who_accepts_it(lag: Lag, gateway: Address, counter: str) -> None:
    query = f"select n from {counter} where id = 1"
    with (
        gateway.connect() as writer,
        gateway.connect() as reader,
        gateway.connect() as hinting,
        following(reader),
        lag(),
    ):
        writer.execute(f"update {counter} set n = 5 where id = 1")
        assert value(writer, query) == 5
        eventually(lambda: value(reader, query) == 0, deadline_s=LAG_S, what="a replica's answer")
        hint = f"/* seawall.read = replica(10min) */ {query}"
        eventually(lambda: value(hinting, hint) == 0, deadline_s=LAG_S, what="a hint's answer")
        assert value(hinting, query) == 5  # a hint is for its statement alone
        for prepared in (query, hint):
            cursor = reader.execute(prepared, prepare=True)
            assert cursor.fetchone() == (0,)
        # What a replica must not be asked is answered by the primary all the same.
        assert value(reader, f"select n from {counter} where id = 1 for update") == 5
        assert value(reader, "select pg_is_in_recovery()") is False
        assert value(reader, f"update {counter} set n = n + 1 where id = 1 returning n") == 6
        reader.execute("begin")
        assert value(reader, query) == 6
        reader.execute("commit")
        reader.execute("set seawall.read = 'replica(1ms)'")
        time.sleep(0.05)
        assert value(reader, query) == 6


def test_transactions_that_only_read_go_to_a_replica_as_one(
    lag: Lag, gateway: Address, counter: str
) -> None:
    query = f"select n from {counter} where id = 2"
    with (
        gateway.connect(options="-c seawall.read=replica(10min)") as reader,
        gateway.connect() as writer,
        following(reader),
        lag(),
    ):
        writer.execute(f"update {counter} set n = 7 where id = 2")

        def told() -> int:
            reader.execute("begin read only")
            first, second = value(reader, query), value(reader, query)
            with pytest.raises(errors.ReadOnlySqlTransaction):
                reader.execute(f"update {counter} set n = 8 where id = 2")
            reader.execute("rollback")
            assert first == second
            return int(first)

        eventually(lambda: told() == 0, deadline_s=LAG_S, what="a replica's transaction")


def test_a_position_hands_over_what_was_seen(lag: Lag, gateway: Address, counter: str) -> None:
    query = f"select n from {counter} where id = 3"
    with (
        gateway.connect(options=AUTO) as writer,
        gateway.connect(options=AUTO) as reader,
        lag(),
    ):
        for number in range(1, 20):
            writer.execute(f"update {counter} set n = {number} where id = 3")
            reader.execute(f"set seawall.position = '{value(writer, 'show seawall.position')}'")
            assert value(reader, query) == number


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("in_transaction", [False, True])
def test_whoever_writes_reads_it_at_once(
    lag: Lag, gateway: Address, counter: str,
    in_transaction: bool, prepare: bool,
) -> None:  # fmt: skip
    update = f"update {counter} set n = %s where id = 4"
    query = f"select n from {counter} where id = %s"
    with (
        gateway.connect(options=AUTO) as connection,
        stuttering(lag),
    ):
        for number in range(PAIRS // 2):
            if in_transaction:
                with connection.transaction():
                    connection.execute(update, [number], prepare=prepare)
            else:
                connection.execute(update, [number], prepare=prepare)
            assert connection.execute(query, [4], prepare=prepare).fetchone() == (number,)


def test_nobody_goes_back_in_time(lag: Lag, gateway: Address, counter: str) -> None:
    stop = threading.Event()

    def count() -> None:
        with gateway.connect() as writer:
            while not stop.is_set():
                writer.execute(f"update {counter} set n = n + 1 where id = 5")

    thread = threading.Thread(target=count)
    thread.start()
    try:
        with (
            stuttering(lag),
            gateway.connect(options=AUTO) as reader,
        ):
            seen = [value(reader, f"select n from {counter} where id = 5") for _ in range(PAIRS)]
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]
