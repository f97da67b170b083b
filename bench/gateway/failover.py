"""Two hundred sessions through the gateway, and the primary is killed.

All sessions ask their next statement as soon as the blow has fallen. An answer counts from the
blow, so it contains all of the failover. A session whose connection is closed is lost; one that
gets an error instead of an answer has a failed statement; one whose settings, prepared statements
or committed rows are not there any more has lost its state.

The bar is on the death of the postmaster, which its agent notices. When the agent dies with it,
nobody says that the primary is gone, and the cluster waits for the end of its lease (1.8 s): that
is measured, too, under `failover_node_*`, and has no bar. `*_promotion_s` is when a replica became
the primary, which no gateway can make shorter.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
import psycopg

from bench.failover.world import target_of
from bench.faults.nemesis import Nemesis, wait_whole
from bench.faults.plan import Action, Blow, Fault
from bench.faults.sessions import Row
from bench.faults.target import Kind, Role, TargetError
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .extra_gateway import with_own_gateway
from .guests import COMMAND_DEADLINE_S, SCHEMA, TABLE, Guest, open_guest
from .world import Stage, staged, status_of

SESSIONS: Final = 200
ROUNDS: Final = 5
ROUNDS_QUICK: Final = 1
CONNECTIONS_MAX: Final = 400  # of a compute: in session mode each session has one of its own
LIMITS: Final = {"pool_links": 300, "links": 350}
WHOLE_DEADLINE_S: Final = 120.0
QUIET_S: Final = 1.0
SAID_MAX: Final = 3
PROMOTION_LOOK_S: Final = 0.01

BLOWS: Final = {
    "failover": Blow(Action.KILL, Kind.POSTGRES, Role.LEADING, 0),
    "failover_node": Blow(Action.KILL, Kind.COMPUTE, Role.LEADING, 0),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What one session saw of one blow."""

    answer_s: float  # from the blow to the answer, or to whatever came instead
    is_connected: bool
    error: str = ""
    is_state_there: bool = True


@dataclass(frozen=True, slots=True)
class Round:
    """What all sessions saw of one blow."""

    seen: Sequence[Seen]
    promotion_s: float


def measure_failover(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """Some blows of each kind, before the same sessions."""
    return asyncio.run(_failover(place, arguments))


async def _failover(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    rounds = ROUNDS_QUICK if arguments.quick else ROUNDS
    measurements: list[Measurement] = []
    said: set[str] = set()
    async with (
        staged(place, arguments, connections_max=CONNECTIONS_MAX) as first,
        with_own_gateway(first, limits=LIMITS) as stage,
    ):
        await stage.run(
            *SCHEMA,
            f"insert into {TABLE} select i, 0 from generate_series(0, {SESSIONS}) i",  # noqa: S608  # constants
        )
        for name, blow in BLOWS.items():
            found = [await _round(stage, blow) for _ in range(rounds)]
            said |= {one.error for each in found for one in each.seen if one.error}
            measurements += judged(name, found)
    settings: dict[str, object] = {"sessions": SESSIONS, "rounds": rounds}
    if said:
        settings["errors"] = sorted(said)[:SAID_MAX]
    return Outcome(benchmark="failover", settings=settings, measurements=measurements)


async def _round(stage: Stage, blow: Blow) -> Round:
    """New sessions, a blow, what they saw; the cluster is whole again at the end."""
    async with contextlib.AsyncExitStack() as ends:
        status = await status_of(stage.cluster)
        ports = [one.port for one in status.computes if one.role == "replica"]
        replicas = [await ends.enter_async_context(await stage.session(port)) for port in ports]
        guests = await asyncio.gather(*(open_guest(stage, n) for n in range(SESSIONS)))
        for guest in guests:
            ends.push_async_callback(guest.close)
        await asyncio.gather(*(guest.settle() for guest in guests))
        await asyncio.sleep(QUIET_S)
        start_ns = await _strike(stage, blow)
        promotion = asyncio.create_task(_promotion_s(replicas, start_ns))
        seen = await asyncio.gather(*(_see(guest, start_ns) for guest in guests))
        promotion_s = await promotion
    await wait_whole(await target_of(stage.cluster), deadline_s=WHOLE_DEADLINE_S)
    return Round(seen, promotion_s)


async def _promotion_s(replicas: Sequence[psycopg.AsyncConnection[Row]], start_ns: int) -> float:
    """From the blow until one of the replicas is none any more."""
    async with asyncio.timeout(WHOLE_DEADLINE_S):
        while True:
            for replica in replicas:
                with contextlib.suppress(psycopg.OperationalError):  # it is being started anew
                    cursor = await replica.execute("select pg_is_in_recovery()")
                    if await cursor.fetchone() == (False,):
                        return _seconds_since(start_ns)
            await asyncio.sleep(PROMOTION_LOOK_S)


def _seconds_since(start_ns: int) -> float:
    return (time.monotonic_ns() - start_ns) / 1e9


async def _strike(stage: Stage, blow: Blow) -> int:
    """Hit the primary; when."""
    nemesis = Nemesis(await target_of(stage.cluster))
    await nemesis.strike(Fault(0, 0, (blow,)))
    if not nemesis.happenings:
        raise TargetError("there was no primary to kill")
    return nemesis.happenings[0].start_ns


async def _see(guest: Guest, start_ns: int) -> Seen:
    error, is_state_there = "", True
    try:
        async with asyncio.timeout(COMMAND_DEADLINE_S):
            is_state_there = await guest.ask()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error, OSError) as failure:
        error = f"{guest.kind}: {str(failure).strip() or repr(failure)}"
    return Seen(_seconds_since(start_ns), guest.is_connected, error, is_state_there)


def judged(name: str, rounds: Sequence[Round]) -> list[Measurement]:
    """The worst answer of each round; how many of all sessions lost what."""
    seen = [one for each in rounds for one in each.seen]
    worst_s = tuple(max(one.answer_s for one in each.seen) for each in rounds)

    def counted(what: str, count: int) -> Measurement:
        return Measurement(f"{name}_{what}", "", (float(count),))

    return [
        Measurement(f"{name}_worst_answer_s", "s", (max(worst_s),)),
        Measurement(f"{name}_round_worst_s", "s", worst_s),
        Measurement(f"{name}_answer_s", "s", tuple(one.answer_s for one in seen)),
        Measurement(f"{name}_promotion_s", "s", tuple(one.promotion_s for one in rounds)),
        counted("connections_lost", sum(not one.is_connected for one in seen)),
        counted("failed_statements", sum(bool(one.error) for one in seen)),
        counted("states_lost", sum(not one.is_state_there for one in seen)),
    ]
