"""How long no write is acknowledged when something dies, as eight writers see it.

A gap is the longest time between two acknowledgements, of which the later comes behind the blow.
The writers know nothing: they lose a connection, or their patience after a second and a half, and
look for the primary among all computes. Behind each blow the cluster becomes whole again first.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from bench.faults.cluster_target import LocalCluster
from bench.faults.nemesis import Nemesis, wait_whole
from bench.faults.plan import Action, Blow, Fault
from bench.faults.target import Kind, Role, TargetError
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .world import Writers, history_rows, local_cluster, target_of, writing

SCALE: Final = 4
BEFORE: Final = 200  # acknowledgements: commits flow
AFTER: Final = 100
PAUSE_S: Final = 8.0  # longer than the promise
WHOLE_DEADLINE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is hit, how often."""

    name: str
    blow: Blow | None  # None: a switchover
    rounds: int
    computes: int = 2


SCENARIOS: Final = (
    Scenario("primary_killed", Blow(Action.KILL, Kind.POSTGRES, Role.LEADING, 0), 30),
    Scenario("node_killed", Blow(Action.KILL, Kind.COMPUTE, Role.LEADING, 0), 10),
    Scenario("node_paused", Blow(Action.PAUSE, Kind.COMPUTE, Role.LEADING, 0), 5),
    Scenario("alone_killed", Blow(Action.KILL, Kind.POSTGRES, Role.LEADING, 0), 10, computes=1),
    Scenario("switchover", None, 10),
    Scenario("log_leader_killed", Blow(Action.KILL, Kind.LOG, Role.LEADING, 0), 10),
    Scenario("storage_killed", Blow(Action.KILL, Kind.STORAGE, Role.ANY, 0), 6),
)
QUICK_ROUNDS: Final = 3


def measure_gaps(place: Workspace, scenario: Scenario, *, quick: bool) -> Outcome:
    """All rounds of one scenario on one cluster."""
    return asyncio.run(_measured(place, scenario, quick=quick))


async def _measured(place: Workspace, scenario: Scenario, *, quick: bool) -> Outcome:
    rounds = min(scenario.rounds, QUICK_ROUNDS) if quick else scenario.rounds
    seen: list[tuple[float, int]] = []
    async with local_cluster(place, "--computes", str(scenario.computes)) as cluster:
        async with writing(cluster, scale=SCALE) as writers:
            for _ in range(rounds):
                seen.append(await _round(cluster, writers, scenario))
                await wait_whole(await target_of(cluster), deadline_s=WHOLE_DEADLINE_S)
        lost = writers.lost(await history_rows(cluster))
    pauses = tuple(pause for pause, _ in seen)
    failed = float(sum(failed for _, failed in seen))
    return Outcome(
        benchmark=scenario.name,
        settings={"rounds": rounds, "scale": SCALE, "acknowledged": len(writers.operations)},
        measurements=[
            Measurement(f"{scenario.name}_gap_s", "s", pauses),
            Measurement(f"{scenario.name}_worst_gap_s", "s", (max(pauses),)),
            Measurement(f"{scenario.name}_failed_statements", "", (failed,)),
            Measurement(f"{scenario.name}_rows_lost", "", (float(lost),)),
        ],
    )


async def _round(cluster: LocalCluster, writers: Writers, scenario: Scenario) -> tuple[float, int]:
    """One blow; the gap, and how many transactions were not acknowledged."""
    await writers.more(BEFORE)
    if scenario.blow is None:
        before_ns = time.monotonic_ns()
        await cluster.command("switchover")
    else:
        before_ns = await _strike(cluster, scenario.blow)
    await writers.more(AFTER)
    return writers.longest_pause_s(after_ns=before_ns), writers.failed_after(before_ns)


async def _strike(cluster: LocalCluster, blow: Blow) -> int:
    """Hit somebody; when. Who is paused goes on before this returns."""
    nemesis = Nemesis(await target_of(cluster))
    try:
        await nemesis.strike(Fault(0, PAUSE_S if blow.action is Action.PAUSE else 0, (blow,)))
    finally:
        await nemesis.heal()
    if not nemesis.happenings:
        raise TargetError(f"there was no {blow.role} {blow.kind} to {blow.action}")
    return nemesis.happenings[0].start_ns
