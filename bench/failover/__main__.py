"""Measure what clients of a whole cluster see, and say which promises are kept.

    python -P -m bench.failover [--only NAME ...] [--quick] [--large-mb N] [--json FILE]
                                [--version N | --pg-bin DIR]

Each NAME has a cluster of its own, started by `seawall up --ha`. `make bench-failover` runs what
breaks things, `make bench-elastic` the rest. Exit status 1 when a bar is missed, 2 when something
could not be measured.
"""

import argparse
import subprocess
import sys
from typing import Final

import psycopg

from bench.faults.sessions import BrokenError, RefusedError
from bench.faults.target import TargetError
from bench.log.sides import SideError
from bench.pagefault.pgbench import PgbenchError
from bench.pagefault.report import Outcome
from bench.pagefault.workspace import Workspace
from bench.runner import Suite, run_suite
from sqlnode.initdb import InitdbError
from sqlnode.postgres import PostgresError

from .bars import BARS
from .elastic import LARGE_MB, LARGE_MB_QUICK, measure_lag, measure_replicas
from .footprint import measure_idle, measure_up
from .gaps import SCENARIOS, measure_gaps
from .kills import measure_kills
from .throughput import measure_throughput

GAPS: Final = {scenario.name: scenario for scenario in SCENARIOS}
OTHERS: Final = {
    "random_kills": measure_kills,
    "lag": measure_lag,
    "up": measure_up,
    "idle": measure_idle,
    "throughput": measure_throughput,
}

REFUSALS: Final = (
    BrokenError,
    InitdbError,
    PgbenchError,
    PostgresError,
    RefusedError,
    SideError,
    TargetError,
    psycopg.Error,
    subprocess.TimeoutExpired,
)


def measure(name: str, place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """Carry one benchmark out."""
    if name in GAPS:
        return measure_gaps(place, GAPS[name], quick=arguments.quick)
    if name == "replicas":
        return measure_replicas(place, large_mb=_large_mb(arguments), quick=arguments.quick)
    return OTHERS[name](place, quick=arguments.quick)


def _large_mb(arguments: argparse.Namespace) -> int:
    chosen: int | None = arguments.large_mb
    return chosen or (LARGE_MB_QUICK if arguments.quick else LARGE_MB)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--large-mb", type=int, metavar="N", help=f"the large database; the bar is on {LARGE_MB}"
    )


def remark(bar: str, arguments: argparse.Namespace) -> str:
    """The promise about large databases is about one size."""
    large_mb = _large_mb(arguments)
    if bar != "new_replica_large_over_small" or large_mb == LARGE_MB:
        return ""
    return f"with {large_mb} MB instead of {LARGE_MB}"


SUITE: Final = Suite(
    name="failover",
    summary="Measure what clients of a whole cluster see, and say which promises are kept.",
    bars=BARS,
    names=(*GAPS, "random_kills", "replicas", "lag", "up", "idle", "throughput"),
    measure=measure,
    refusals=REFUSALS,
    add_arguments=_add_arguments,
    remark=remark,
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
