"""Measure the replicated log, print the figures, and say which promises are kept.

    python -P -m bench.log [--only NAME ...] [--quick] [--minutes M] [--json FILE]
                           [--version N | --pg-bin DIR]

Exit status 1 when a bar is missed, 2 when something could not be measured. Everything happens below
a directory in /tmp that is removed at the end; every process is ended.
"""

import argparse
import subprocess
import sys
from typing import Final

import psycopg

from bench.pagefault.pgbench import PgbenchError
from bench.pagefault.report import Outcome
from bench.pagefault.workspace import Workspace
from bench.runner import Suite, run_suite
from sqlnode.initdb import InitdbError
from sqlnode.postgres import PostgresError

from .bars import BARS
from .control import ClusterError
from .failover import measure_failover
from .footprint import measure_memory, measure_restart
from .latency import measure_copy, measure_latency
from .nodes import NodeError
from .sides import SideError
from .tpcb import measure_stock_tpcb, measure_tpcb
from .writers import WritersStuckError

MEASURES: Final = {
    "latency": measure_latency,
    "copy": measure_copy,
    "failover": measure_failover,
    "restart": measure_restart,
    "tpcb": measure_tpcb,
    "stock_tpcb": measure_stock_tpcb,
}
# In the order in which they run by default.
NAMES: Final = ("latency", "copy", "failover", "restart", "tpcb", "memory")
ASKED_FOR: Final = ("stock_tpcb",)  # what there is to beat; holds nothing against a bar
MINUTES: Final = 0.5  # of pgbench before memory is looked at; the promise is about 10

REFUSALS: Final = (
    ClusterError,
    InitdbError,
    NodeError,
    PgbenchError,
    PostgresError,
    SideError,
    WritersStuckError,
    psycopg.Error,
    subprocess.TimeoutExpired,
)


def measure(name: str, place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """Carry one benchmark out."""
    if name == "memory":
        return measure_memory(place, minutes=arguments.minutes)
    return MEASURES[name](place, quick=arguments.quick)


def remark(bar: str, arguments: argparse.Namespace) -> str:
    """Memory is promised for a longer time than it is looked at by default."""
    if bar != "node_memory_mib":
        return ""
    return f"after {arguments.minutes:g} minutes of the 10 that are promised"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, metavar="M", help="of pgbench, for `memory`"
    )


SUITE: Final = Suite(
    name="log",
    summary="Measure the replicated log, print the figures, and say which promises are kept.",
    bars=BARS,
    names=NAMES,
    asked_for=ASKED_FOR,
    measure=measure,
    refusals=REFUSALS,
    add_arguments=_add_arguments,
    facts=lambda arguments: {"minutes": arguments.minutes},
    remark=remark,
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
