"""Fifty kills in a row, of anything at random, and what the fault suite's checkers say to it."""

import asyncio
import math
from typing import Final

from bench.faults.history import Insert, Result
from bench.faults.plan import kills_plan, offered
from bench.faults.report import violation_count, write_report
from bench.faults.suite import judged, run_suite
from bench.faults.target import TargetError
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .world import local_cluster, target_of

KILLS: Final = 50
KILLS_QUICK: Final = 8
SEED: Final = 5
INTERVAL_S: Final = 2.0


def measure_kills(place: Workspace, *, quick: bool) -> Outcome:
    """Kill, and judge."""
    return asyncio.run(_measured(place, kills=KILLS_QUICK if quick else KILLS))


async def _measured(place: Workspace, *, kills: int) -> Outcome:
    async with local_cluster(place) as cluster:
        target = await target_of(cluster)
        plan = kills_plan(SEED, kills, offered(await target.components()), interval_s=INTERVAL_S)
        run = await run_suite(target, seconds=math.inf, seed=SEED, plan=plan)
    checks = judged(run)
    write_report(place.directory / "kills", run, checks, strict=True)
    if run.complaint:
        raise TargetError(run.complaint)
    acknowledged = {
        one.identifier
        for one in run.operations
        if isinstance(one, Insert) and one.result is Result.OK
    }
    violations = float(violation_count(checks, strict=True))
    return Outcome(
        benchmark="random_kills",
        settings={"kills": len(run.happenings), "operations": len(run.operations)},
        measurements=[
            Measurement("random_kills_violations", "", (violations,)),
            Measurement("acknowledged_rows_lost", "", (float(len(acknowledged - set(run.rows))),)),
        ],
    )
