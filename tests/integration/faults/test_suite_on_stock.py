"""The fault suite on stock servers: sound ones pass it, and what is unsafe is found out.

In scope: workloads through both drivers, the nemesis's signals and cuts, the last look, and for
each kind of harm a server that does it. Out of scope: our own cluster; `make nemesis` runs on it.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from fixtures.servers import Fleet

from bench.faults.clients import ClientPlan, Recorder, attempt, run_clients
from bench.faults.history import Insert, Level, Lists, Operation, Result
from bench.faults.list_append import list_append_findings
from bench.faults.nemesis import Nemesis, wait_whole
from bench.faults.plan import EVERYONE, Action, Blow, Fault
from bench.faults.sessions import BrokenError, Driver, Dsn, Session, connect
from bench.faults.stock_target import StockTarget, kept_running
from bench.faults.suite import Check, Load, Run, judged, persistent_connect, run_suite
from bench.faults.target import Component, Kind, Role
from bench.faults.workloads import (
    InsertWork,
    ListsWorkload,
    RowsWorkload,
    row_identifiers,
    setup_statements,
)
from bench.node_process import free_ports
from bench.proxy import Link, Way, proxies
from sqlnode.postgres import Postgres, PostgresSettings

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

T = TypeVar("T")
HERE = "host all all 127.0.0.1/32 trust"
KILL = (Blow(Action.KILL, Kind.POSTGRES, Role.ANY, EVERYONE),)
PAUSE = (Blow(Action.PAUSE, Kind.POSTGRES, Role.ANY, EVERYONE),)
DEADLINE_S = 60.0


def stock_server(fleet: Fleet, *, tcp_port: int | None = None, **settings: str) -> Postgres:
    """A server that keeps its promises, unless a setting says otherwise."""
    return fleet.server(
        "stock",
        settings=PostgresSettings(
            full_page_writes=True, tcp_port=tcp_port, tcp_rules=(HERE,), extra=settings
        ),
    )


def with_target(server: Postgres, scenario: Callable[[StockTarget], Awaitable[T]]) -> T:
    """Run a scenario on a server that is started again whenever it dies."""

    async def run() -> T:
        await server.start()
        async with kept_running(StockTarget(server)) as target:
            return await scenario(target)

    return asyncio.run(run())


async def set_up(target: StockTarget) -> tuple[Dsn, Session]:
    dsn = Dsn.parse(target.dsn)
    session = await connect(Driver.PSYCOPG, dsn, random.Random(1))
    for statement in setup_statements():
        await session.fetch(statement)
    return dsn, session


def anomalies(checks: list[Check]) -> Counter[str]:
    return Counter(finding.anomaly for check in checks for finding in check.findings)


def test_sound_server_passes_kills_and_pauses(fleet: Fleet) -> None:
    async def scenario(target: StockTarget) -> Run:
        return await run_suite(target, seconds=15, seed=3)  # a seed with faults of both kinds

    run = with_target(stock_server(fleet), scenario)
    checks = judged(run)
    assert not anomalies(checks), [finding for check in checks for finding in check.findings]
    assert {one.action for one in run.happenings} == {Action.KILL, Action.PAUSE}
    assert all(check.judged for check in checks)
    assert {one.process for one in run.operations if one.result is Result.OK} >= set(range(12))


def test_server_that_does_not_wait_for_its_disk_loses_rows_and_is_found_out(fleet: Fleet) -> None:
    server = stock_server(fleet, synchronous_commit="off", wal_writer_delay="10s")

    async def scenario(target: StockTarget) -> Run:
        load = Load({}, [ClientPlan(n, Driver.ASYNCPG, RowsWorkload()) for n in range(1)])
        nemesis = Nemesis(target)
        dsn, setting_up = await set_up(target)
        await setting_up.close()
        recorder, stop = Recorder(), asyncio.Event()
        clients = asyncio.create_task(run_clients(load.clients, dsn, recorder, stop, seed=1))
        await until(lambda: len(recorder.operations) > 200)
        await nemesis.strike(Fault(0, 0, KILL))
        await until(lambda: recorder.operations[-1].result is not Result.OK)
        stop.set()
        await clients
        await wait_whole(target)
        session = await persistent_connect(dsn, random.Random(1))
        rows = await row_identifiers(session)
        await session.close()
        return Run(1, [], 0, 1, recorder.operations, nemesis.happenings, rows)

    assert anomalies(judged(with_target(server, scenario))) == {"lost row": 1}


@pytest.mark.parametrize("real", [Level.READ_COMMITTED, Level.REPEATABLE_READ])
def test_weaker_level_than_was_claimed_is_found_out(fleet: Fleet, real: Level) -> None:
    """The same workload that a serializable server passes."""
    lists = ListsWorkload(real, claimed=Level.SERIALIZABLE)

    async def scenario(target: StockTarget) -> bool:
        dsn, session = await set_up(target)
        recorder, stop = Recorder(), asyncio.Event()
        plans = [ClientPlan(n, list(Driver)[n % 2], lists) for n in range(6)]
        clients = asyncio.create_task(run_clients(plans, dsn, recorder, stop, seed=1))
        await until(lambda: bool(found(recorder.operations)), look_s=0.5)
        stop.set()
        await clients
        await session.close()
        return bool(found(recorder.operations))

    def found(operations: list[Operation]) -> set[str]:
        history = [one for one in operations if isinstance(one, Lists)]
        named = {one.anomaly for one in list_append_findings(history, Level.SERIALIZABLE)}
        return named & {"G2", "G-single", "G-nonadjacent", "lost update"}

    assert with_target(stock_server(fleet), scenario)


@pytest.mark.parametrize("driver", Driver)
def test_insert_into_a_server_that_hangs_is_unknown_and_takes_no_longer_than_patience(
    fleet: Fleet, driver: Driver
) -> None:
    async def scenario(target: StockTarget) -> tuple[Operation, bool]:
        dsn, setting_up = await set_up(target)
        await setting_up.close()
        session = await connect(driver, dsn, random.Random(1))
        nemesis = Nemesis(target)
        pausing = asyncio.create_task(nemesis.strike(Fault(0, 1.0, PAUSE)))
        await asyncio.sleep(0.2)
        try:
            return await attempt(session, InsertWork(1), 0, patience_s=0.1)
        finally:
            await pausing
            await session.close()

    operation, is_usable = with_target(stock_server(fleet), scenario)
    assert operation.result is Result.UNKNOWN
    assert not is_usable


@dataclass(frozen=True, slots=True)
class ProxyLink:
    """A link of the tests' proxy, as the nemesis wants it."""

    link: Link

    def cut_there(self) -> None:
        """As the nemesis's Link has it."""
        self.link.cut(Way.THERE)

    def cut_back(self) -> None:
        """As the nemesis's Link has it."""
        self.link.cut(Way.BACK)

    def slow(self, seconds: float) -> None:
        """As the nemesis's Link has it."""
        self.link.delay(seconds)

    def mend(self) -> None:
        """As the nemesis's Link has it."""
        self.link.mend()
        self.link.delay(0)


@pytest.mark.parametrize(("action", "there"), [(Action.CUT_THERE, False), (Action.CUT_BACK, True)])
def test_one_way_cut_hides_the_answer_or_the_request(
    fleet: Fleet, action: Action, there: bool
) -> None:
    """Either way the client cannot know: the row is there exactly if the request could travel."""
    (port,) = free_ports(1, random.Random())
    server = stock_server(fleet, tcp_port=port)

    async def scenario(link: Link) -> tuple[Operation, list[int]]:
        await server.start()
        target = StockTarget(
            server,
            dsn=f"postgresql://postgres@127.0.0.1:{link.port}/postgres",
            links={"client": ProxyLink(link)},
        )
        _, session = await set_up(target)
        blow = Blow(action, Kind.LINK, Role.ANY, 0)
        nemesis = Nemesis(target)
        cutting = asyncio.create_task(nemesis.strike(Fault(0, 0.5, (blow,))))
        await asyncio.sleep(0.1)
        operation, _ = await attempt(session, InsertWork(1), 0, patience_s=0.2)
        direct = Dsn.parse(server.conninfo())
        looking = await connect(Driver.ASYNCPG, direct, random.Random(1))
        rows = await row_identifiers(looking)
        await looking.close()
        await cutting
        await session.close()
        return operation, rows

    with proxies() as world:
        operation, rows = asyncio.run(scenario(world.link(("127.0.0.1", port))))
    assert isinstance(operation, Insert)
    assert operation.result is Result.UNKNOWN
    assert bool(rows) == there


def test_replica_is_not_taken_for_the_primary(fleet: Fleet) -> None:
    server = stock_server(fleet, default_transaction_read_only="off")
    standby = fleet.server("standby", settings=PostgresSettings())
    (standby.data_dir / "standby.signal").touch()
    fleet.identity.give(standby.data_dir / "standby.signal")
    both = f"host={standby.run_dir},{server.run_dir} port={server.port},{server.port} user=postgres"

    async def scenario() -> None:
        await standby.start()
        for driver in Driver:
            with pytest.raises(BrokenError, match="no host takes writes"):
                await connect(driver, Dsn.parse(both), random.Random(1))
        await server.start()
        for driver in Driver:
            session = await connect(driver, Dsn.parse(both), random.Random(1))
            assert await session.fetch("select pg_is_in_recovery()") == [(False,)]
            await session.close()

    asyncio.run(scenario())


def test_deleted_directory_is_empty_and_its_processes_are_gone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("x")
    (tmp_path / "link").symlink_to("data")
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])

    class Compute(StockTarget):
        def __init__(self) -> None:
            pass

        async def components(self) -> list[Component]:
            return [
                Component(Kind.COMPUTE, "c", Role.ANY, (sleeper.pid,), "sleep", directory=tmp_path)
            ]

    blow = Blow(Action.DELETE, Kind.COMPUTE, Role.ANY, 0)
    try:
        asyncio.run(Nemesis(Compute()).strike(Fault(0, 0, (blow,))))
        assert list(tmp_path.iterdir()) == []
        assert sleeper.wait(DEADLINE_S) == -signal.SIGKILL
    finally:
        sleeper.kill()
        sleeper.wait()


def test_process_that_is_not_what_was_said_is_not_touched() -> None:
    """A number of a process may belong to somebody else by now: here it is the test itself."""

    class Wrong(StockTarget):
        def __init__(self) -> None:
            pass

        async def components(self) -> list[Component]:
            return [Component(Kind.POSTGRES, "x", Role.ANY, (os.getpid(),), mark="no such text")]

    asyncio.run(Nemesis(Wrong()).strike(Fault(0, 0, KILL)))


async def until(look: Callable[[], bool], *, look_s: float = 0.02) -> None:
    """Until something is true that nobody tells."""
    end_s = time.monotonic() + DEADLINE_S
    while not look():
        assert time.monotonic() < end_s, "it did not happen in time"
        await asyncio.sleep(look_s)
