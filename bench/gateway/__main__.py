"""Measure the gateway beside direct connections and pgbouncer, and say which promises are kept.

    python -P -m bench.gateway [--only NAME ...] [--quick] [--control] [--json FILE]
                               [--version N | --pg-bin DIR]

Each NAME has a cluster of its own, started by `seawall up --ha`. Exit status 1 when a bar is
missed, 2 when something could not be measured.
"""

import argparse
import subprocess
import sys
from typing import Final

import asyncpg
import psycopg

from bench.faults.target import TargetError
from bench.node_process import NodeError
from bench.pagefault.pgbench import PgbenchError
from bench.pagefault.report import Outcome
from bench.pagefault.workspace import Workspace
from bench.runner import Suite, run_suite

from .bars import BARS
from .connects import measure_connects
from .cost import measure_cpu, measure_latency
from .failover import measure_failover
from .idle import measure_idle
from .light_client import LightClientError
from .routing import measure_routing
from .stale import measure_stale

MEASURES: Final = {
    "cpu": measure_cpu,
    "latency": measure_latency,
    "routing": measure_routing,
    "stale": measure_stale,
    "failover": measure_failover,
    "idle": measure_idle,
    "connects": measure_connects,
}

REFUSALS: Final = (
    LightClientError,
    NodeError,
    PgbenchError,
    TargetError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    psycopg.Error,
    subprocess.TimeoutExpired,
    OSError,
)


def measure(name: str, place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """Carry one benchmark out."""
    try:
        return MEASURES[name](place, arguments)
    except BaseExceptionGroup as group:
        raise first_of(group) from group


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first; the others of a group of tasks ended because of it."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def remark(_bar: str, arguments: argparse.Namespace) -> str:
    """Nobody may take the control for the gateway."""
    return "control: a pgbouncer in the gateway's place" if arguments.control else ""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--control",
        action="store_true",
        help="a second pgbouncer in the gateway's place: what the benchmark makes of two equals",
    )


SUITE: Final = Suite(
    name="gateway",
    summary="Measure the gateway beside direct connections and pgbouncer.",
    bars=BARS,
    names=tuple(MEASURES),
    measure=measure,
    refusals=REFUSALS,
    add_arguments=_add_arguments,
    facts=lambda arguments: {"control": arguments.control},
    remark=remark,
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
