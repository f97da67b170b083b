"""Every workload on a real server, and servers that are paused, cut off or damaged meanwhile.

In scope: that tables are made, transactions go through, nothing is wrong with the tables behind
them, what is wrong is found, and that no pause is hidden. Out of scope: how quick anything is; the
drivers' arithmetic (tests/unit/bench/loads).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from bench.loads.agreement import measure
from bench.loads.catalog import NAMES, workload
from bench.loads.load import LoadOutcome, LoadSettings, Workload
from bench.loads.pgbench_binary import PgbenchLoad, find_program
from bench.loads.tally import LoadError
from bench.loads.tpcb import AsyncpgTpcb, Builtin
from bench.loads.tpcc_load import Tpcc
from bench.node_process import HOST, free_ports
from bench.targets.target import Address
from sqlnode.postgres import Postgres, PostgresSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fixtures.servers import Fleet

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

USER, PASSWORD = "bench", "not a secret: 'of a test'"
CLIENTS = 4
SETTLE_SECONDS = 0.7  # of a load, before something happens to it
DEADLINE_SECONDS = 60.0
PAUSE_SECONDS = 0.5
RATE = 200.0

TPCB_DAMAGE = "update pgbench_accounts set abalance = abalance + 1 where aid = 1"
YCSB_DAMAGE = "update usertable set field3 = 'x' where ctid = (select min(ctid) from usertable)"
DAMAGE = {
    "tpcb": "update pgbench_tellers set tbalance = tbalance + 1 where tid = 1",
    "tpcb-asyncpg": "update pgbench_branches set bbalance = bbalance + 1 where bid = 1",
    "simple-update": "delete from pgbench_history where delta = (select max(delta) from"
    " pgbench_history)",
    "select-only": TPCB_DAMAGE,
    "tpcc": "delete from order_line where ol_number = 3 and ol_o_id = 1 and ol_d_id = 1",
    "ycsb-a": "delete from usertable where ctid = (select min(ctid) from usertable)",
    "copy": "delete from bulk_1 where id = 7",
    "write-only": "delete from sbtest1 where id = 17",
}


class World:
    """A server on a TCP port, and a user with a password."""

    def __init__(self, server: Postgres, address: Address) -> None:
        self.server = server
        self.address = address

    def execute(self, statement: str) -> None:
        """As the superuser that every cluster has."""
        with psycopg.connect(self.server.conninfo(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def backends(self) -> list[int]:
        """The processes of the load's clients."""
        with psycopg.connect(self.server.conninfo(), autocommit=True) as connection:
            rows = connection.execute(
                "select pid from pg_stat_activity where usename = %s", (USER,)
            ).fetchall()
        return [row[0] for row in rows]

    def wait_for_load(self) -> list[int]:
        """Until its clients are there and have worked for a moment."""
        end_s = time.monotonic() + DEADLINE_SECONDS
        while len(found := self.backends()) < CLIENTS:
            assert time.monotonic() < end_s, "no load came"
            time.sleep(0.02)
        time.sleep(SETTLE_SECONDS)
        return found


@pytest.fixture(scope="module")
def world(shared_fleet: Fleet) -> World:
    (port,) = free_ports(1, random.Random())
    server = shared_fleet.server("loads", settings=PostgresSettings(tcp_port=port))
    server.start_blocking()
    address = Address(host=HOST, port=port, user=USER, database="postgres", password=PASSWORD)
    made = World(server, address)
    password = PASSWORD.replace("'", "''")
    made.execute(f"create role {USER} superuser login password '{password}'")
    return made


@pytest.fixture(scope="module")
def pgbench() -> Path:
    program = find_program()
    if program is None:
        pytest.skip("no PostgreSQL on this machine has pgbench")
    return program


def small(name: str) -> Workload:
    """Of TPC-C the tables of a test; everything else is small with a scale of one."""
    return Tpcc(customers=60, items=1000) if name == "tpcc" else workload(name)


@contextlib.contextmanager
def meanwhile(what: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread; its error is the test's."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            what()
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """These processes of our server stand still."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def slow_count(outcome: LoadOutcome, seconds: float) -> int:
    """How many took so long."""
    return sum(count for upper_us, count in outcome.latencies.buckets() if upper_us > seconds * 1e6)


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_is_prepared_and_runs_and_damage_is_found(world: World, name: str) -> None:
    load = small(name)
    assert load.name == name
    load.prepare(world.address, scale=1, seed=1)
    assert load.findings(world.address) == []
    settings = LoadSettings(clients=CLIENTS, seconds=2.0, seed=1, warm_seconds=0.5)
    outcome = load.run(world.address, settings)
    assert outcome.transactions > 0
    assert outcome.errors == 0, outcome.extra
    assert outcome.latencies.count == outcome.transactions
    assert sum(second.transactions for second in outcome.series) == outcome.transactions
    assert len(outcome.series) == 2
    assert outcome.driver_cpu_seconds > 0
    assert 0 < outcome.longest_gap_seconds < 2
    assert load.findings(world.address) == []
    world.execute(DAMAGE.get(name, YCSB_DAMAGE))
    assert load.findings(world.address) != []


def test_figures_of_their_own_are_those_of_what_was_done(world: World) -> None:
    load = small("tpcc")
    load.prepare(world.address, scale=1, seed=1)
    outcome = load.run(world.address, LoadSettings(clients=CLIENTS, seconds=3.0, seed=1))
    assert outcome.extra["tpm_c"] == outcome.extra["new_order"] * 20
    kinds = ("new_order", "payment", "order_status", "delivery", "stock_level", "taken_back")
    assert sum(outcome.extra.get(kind, 0) for kind in kinds) == outcome.transactions


@pytest.mark.parametrize("driver", ["pgbench", "asyncpg"])
def test_an_open_loop_shows_a_pause_to_all_that_were_due_meanwhile(
    world: World, driver: str, request: pytest.FixtureRequest
) -> None:
    load: PgbenchLoad | AsyncpgTpcb = AsyncpgTpcb("x", Builtin.SELECT_ONLY)
    if driver == "pgbench":
        load = PgbenchLoad("x", Builtin.SELECT_ONLY, request.getfixturevalue("pgbench"))
    load.prepare(world.address, scale=1, seed=1)

    def pause() -> None:
        with stopped(world.wait_for_load()):
            time.sleep(PAUSE_SECONDS)

    settings = LoadSettings(clients=CLIENTS, seconds=4.0, seed=1, rate=RATE)
    with meanwhile(pause):
        outcome = load.run(world.address, settings)
    assert outcome.errors == 0, outcome.extra
    # Whoever was due in the first half of the pause has waited for the second half, which are some
    # fifty. A closed loop would have had one for each client.
    expected = RATE * PAUSE_SECONDS / 2
    assert slow_count(outcome, PAUSE_SECONDS / 2) >= expected / 2 > CLIENTS
    assert max(second.worst_ms for second in outcome.series) >= PAUSE_SECONDS * 1000 * 0.9
    assert outcome.longest_gap_seconds >= PAUSE_SECONDS * 0.9


def test_clients_that_lose_their_connections_open_others(world: World) -> None:
    load = workload("tpcb-asyncpg")
    load.prepare(world.address, scale=1, seed=1)

    def cut_off() -> None:
        for pid in world.wait_for_load():
            world.execute(f"select pg_terminate_backend({pid})")

    settings = LoadSettings(clients=CLIENTS, seconds=4.0, seed=1)
    with meanwhile(cut_off):
        outcome = load.run(world.address, settings)
    assert outcome.errors >= CLIENTS
    lost = sum(outcome.extra.get(f"errors_{name}", 0) for name in ("57P01", "broken"))
    assert lost == outcome.errors
    assert sum(second.errors for second in outcome.series) == outcome.errors
    assert outcome.series[-1].transactions > 0
    assert load.findings(world.address) == []


def test_clients_give_up_a_server_that_hangs(world: World) -> None:
    load = AsyncpgTpcb("x", Builtin.SELECT_ONLY)
    load.prepare(world.address, scale=1, seed=1)
    is_over = threading.Event()

    def hang() -> None:
        with stopped(world.wait_for_load()):
            assert is_over.wait(DEADLINE_SECONDS)

    with meanwhile(hang):
        try:
            outcome = load.run(world.address, LoadSettings(clients=CLIENTS, seconds=5.0, seed=1))
        finally:
            is_over.set()
    assert outcome.extra["errors_patience"] >= CLIENTS
    assert outcome.longest_gap_seconds >= 1.4  # a patience of 1.5 s
    assert outcome.series[-1].transactions > 0


def test_what_is_due_and_left_at_the_end_counts_as_slow(world: World) -> None:
    load = AsyncpgTpcb("x", Builtin.SELECT_ONLY)
    load.prepare(world.address, scale=1, seed=1)
    rate = 100_000.0  # no driver in Python keeps up with that
    outcome = load.run(world.address, LoadSettings(clients=2, seconds=1.0, seed=1, rate=rate))
    assert outcome.extra["unstarted"] > 0
    assert outcome.latencies.count == outcome.transactions + outcome.extra["unstarted"]
    assert outcome.latencies.count == pytest.approx(rate, rel=0.05)


def test_many_clients_are_several_processes_and_one_outcome(world: World) -> None:
    load = AsyncpgTpcb("x", Builtin.TPCB)
    load.prepare(world.address, scale=1, seed=1)
    outcome = load.run(world.address, LoadSettings(clients=20, seconds=2.0, seed=1))
    assert outcome.transactions > 0
    assert outcome.errors == 0, outcome.extra
    assert load.findings(world.address) == []


def test_both_drivers_load_tables_that_the_other_one_made(world: World, pgbench: Path) -> None:
    settings = LoadSettings(clients=2, seconds=1.0, seed=1)
    theirs, ours = PgbenchLoad("a", Builtin.TPCB, pgbench), AsyncpgTpcb("b", Builtin.TPCB)
    for maker in (theirs, ours):
        maker.prepare(world.address, scale=1, seed=1)
        found = measure(pgbench, world.address, settings, pairs=2)
        assert (len(found.closed), len(found.paced)) == (2, 2)
        assert found.rate > 0
        assert found.tps_ratio > 0
        assert found.cpu_ratio > 0
        assert ours.findings(world.address) == []


def test_a_server_that_is_not_there_is_said(pgbench: Path) -> None:
    (port,) = free_ports(1, random.Random())
    address = Address(host=HOST, port=port, user=USER, database="postgres", password=PASSWORD)
    settings = LoadSettings(clients=1, seconds=1.0, seed=1)
    with pytest.raises(LoadError, match="failed"):
        AsyncpgTpcb("x", Builtin.TPCB).run(address, settings)
    with pytest.raises(LoadError, match="failed with status 1"):
        PgbenchLoad("x", Builtin.SELECT_ONLY, pgbench).run(address, settings)


def test_tables_that_were_not_prepared_are_said(world: World) -> None:
    settings = LoadSettings(clients=1, seconds=1.0, seed=1)
    world.execute("drop table if exists usertable, sbtest1, bulk")
    world.execute("drop table if exists warehouse cascade")
    for name in ("ycsb-c", "write-only", "copy", "tpcc"):
        with pytest.raises(LoadError, match="prepare"):
            workload(name).run(world.address, settings)


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(LoadError, match="use one of tpcb, "):
        workload("tpc-z")
