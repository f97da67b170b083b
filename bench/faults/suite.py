"""One run: workloads on a target while a nemesis breaks it, a last look at all data, a judgement.

    run = await run_suite(target, seconds=60, seed=1)
    checks = judged(run)                # pure: the same history gives the same judgement

Not only what is lost counts: a target that is not whole again at the end, or has not done a single
thing, has failed as well.
"""

import asyncio
import functools
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from .clients import ClientPlan, Recorder, attempt, run_clients
from .dependencies import Finding
from .history import Balances, Insert, Level, Lists, Operation, Result
from .invariants import bank_findings, durability_findings
from .list_append import list_append_findings
from .nemesis import Happening, Nemesis, wait_whole
from .plan import Fault, make_plan, offered
from .sessions import BrokenError, Driver, Dsn, RefusedError, Session, connect
from .target import Target, TargetError
from .workloads import (
    ACCOUNTS,
    MONEY,
    BalancesWork,
    BankWorkload,
    ListsWorkload,
    RowsWorkload,
    Work,
    Workload,
    row_identifiers,
    setup_statements,
)

PAUSE_S: Final = 0.005  # of a client between two works: the machine has to do more than that
CALM_AFTER_S: Final = 2.0  # clients go on for so long once everything is healed
CONNECT_DEADLINE_S: Final = 30.0
CONNECT_PAUSE_S: Final = 0.2
SET_UP_TRIES_MAX: Final = 5
LAST_LOOK_TRIES_MAX: Final = 20
LAST_LOOK_PATIENCE_S: Final = 60.0
LAST_PROCESS: Final = 1000  # who looks at the end


@dataclass(slots=True)
class Load:
    """The workloads of a run, and which client does what."""

    lists: dict[Level, ListsWorkload]
    clients: list[ClientPlan]

    @classmethod
    def standard(cls) -> "Load":
        """Twelve clients, most of them on lists, half of them through each driver."""
        lists = {level: ListsWorkload(level) for level in Level}
        shares: list[tuple[Workload, int]] = [
            (lists[Level.SERIALIZABLE], 4),
            (lists[Level.REPEATABLE_READ], 2),
            (lists[Level.READ_COMMITTED], 2),
            (BankWorkload(), 2),
            (RowsWorkload(), 2),
        ]
        workloads = [workload for workload, count in shares for _ in range(count)]
        drivers = list(Driver)
        return cls(
            lists,
            [ClientPlan(n, drivers[n % len(drivers)], work) for n, work in enumerate(workloads)],
        )


@dataclass(slots=True)
class Run:
    """All that happened."""

    seed: int
    plan: list[Fault]
    start_ns: int
    end_ns: int = 0
    operations: list[Operation] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    whole_after_s: float = 0.0
    notes: list[str] = field(default_factory=list)  # what was not done, for people
    complaint: str = ""  # why the target was not whole at the end, or could not be looked at


@dataclass(frozen=True, slots=True)
class Check:
    """What one checker has found."""

    name: str
    judged: int  # how many operations were acknowledged
    findings: tuple[Finding, ...]

    def violations(self, *, strict: bool) -> list[Finding]:
        """What counts: without `strict` an order that is not the clock's is good enough."""
        return [finding for finding in self.findings if strict or not finding.is_realtime]


async def run_suite(
    target: Target,
    *,
    seconds: float,
    seed: int,
    load: Load | None = None,
    plan: list[Fault] | None = None,
    pause_s: float = PAUSE_S,
) -> Run:
    """Break a target for so long, by the seed's plan or another; heal it; look at everything."""
    load = load or Load.standard()
    dsn = Dsn.parse(target.dsn)
    rng = random.Random(f"{seed}/suite")  # noqa: S311  # protects nothing
    await carry_out(dsn, setup_statements(), rng)
    if plan is None:
        plan = make_plan(seed, seconds, offered(await target.components()))
    run = Run(seed, plan, time.monotonic_ns())
    recorder, stop, nemesis = Recorder(run.operations), asyncio.Event(), Nemesis(target)
    run.happenings = nemesis.happenings
    clients = asyncio.create_task(
        run_clients(load.clients, dsn, recorder, stop, seed=seed, pause_s=pause_s)
    )
    try:
        await _break_and_heal(run, nemesis, seconds)
    except TargetError as error:
        run.complaint = str(error)
    finally:
        await nemesis.heal()
        stop.set()
        await clients
    run.end_ns = time.monotonic_ns()
    try:
        await _last_look(run, dsn, load, rng)
    except (BrokenError, RefusedError, TargetError) as error:
        run.complaint = run.complaint or f"the last look at the data failed: {error}"
    return run


async def _break_and_heal(run: Run, nemesis: Nemesis, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    await nemesis.run(run.plan, seconds=seconds)
    if end_s < math.inf:  # else the plan's end is the end
        await asyncio.sleep(max(0.0, end_s - loop.time()))
    await nemesis.heal()
    run.whole_after_s = await wait_whole(nemesis.target)
    await asyncio.sleep(CALM_AFTER_S)


async def carry_out(dsn: Dsn, statements: Sequence[str], rng: random.Random) -> None:
    """Run statements in order, again from the first one when a primary is lost meanwhile."""
    for tries_left in reversed(range(SET_UP_TRIES_MAX)):
        session = await persistent_connect(dsn, rng)
        try:
            for statement in statements:
                await session.fetch(statement)
        except BrokenError:
            if not tries_left:
                raise
        else:
            return
        finally:
            await session.close()


async def persistent_connect(dsn: Dsn, rng: random.Random) -> Session:
    """A session, once there is a primary; BrokenError after a while."""
    give_up_s = time.monotonic() + CONNECT_DEADLINE_S
    while True:
        try:
            return await connect(Driver.PSYCOPG, dsn, rng)
        except BrokenError:
            if time.monotonic() > give_up_s:
                raise
        await asyncio.sleep(CONNECT_PAUSE_S)


async def _last_look(run: Run, dsn: Dsn, load: Load, rng: random.Random) -> None:
    """Read every list, all accounts and all rows."""
    session = await persistent_connect(dsn, rng)
    try:
        for lists in load.lists.values():
            run.operations.append(await _looked(session, lists.last_work))
        run.operations += [
            await _looked(session, functools.partial(BalancesWork, level)) for level in Level
        ]
        run.rows = await row_identifiers(session)
    finally:
        await session.close()


async def _looked(session: Session, make: Callable[[], Work]) -> Operation:
    """One work that must succeed in the end: a serializable read may be refused for a while."""
    error = ""
    for _ in range(LAST_LOOK_TRIES_MAX):
        operation, _ = await attempt(session, make(), LAST_PROCESS, patience_s=LAST_LOOK_PATIENCE_S)
        if operation.result is Result.OK:
            return operation
        error = operation.error
    raise TargetError(f"a read at the end never succeeded: {error}")


def judged(run: Run) -> list[Check]:
    """All checkers on all that happened. Pure."""
    checks = []
    for level in Level:
        lists = [o for o in run.operations if isinstance(o, Lists) and o.level is level]
        checks.append(_check(f"lists, {level}", lists, list_append_findings(lists, level)))
    looks = [one for one in run.operations if isinstance(one, Balances)]
    checks.append(_check("bank", looks, bank_findings(looks, total=MONEY, accounts=ACCOUNTS)))
    inserts = [one for one in run.operations if isinstance(one, Insert)]
    # Without the last look nothing can be said about what is lost.
    if not run.complaint:
        checks.append(_check("rows", inserts, durability_findings(inserts, run.rows)))
    else:
        checks.append(Check("the end", 0, (Finding("not whole", run.complaint),)))
    return checks


def _check(name: str, history: Sequence[Operation], findings: Iterable[Finding]) -> Check:
    judged_count = sum(one.result is Result.OK for one in history)
    return Check(name, judged_count, tuple(findings))
