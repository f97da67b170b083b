"""Measure storage nodes, print the figures, and say which promises are kept.

    python -P -m bench.storage [--only NAME ...] [--quick] [--json FILE]
                               [--version N | --pg-bin DIR]

Exit status 1 when a bar is missed, 2 when something could not be measured. Everything happens below
a directory in /tmp that is removed at the end; every process is ended.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Final

import psycopg

from bench.log.control import ClusterError
from bench.log.sides import SideError
from bench.node_process import NodeError
from bench.pagefault.pgbench import PgbenchError
from bench.pagefault.report import Outcome
from bench.pagefault.workspace import Workspace
from bench.runner import Suite, run_suite
from fabric.rpc_errors import RpcError
from sqlnode.initdb import InitdbError
from sqlnode.page_source import SourceError
from sqlnode.postgres import PostgresError

from .bars import BARS
from .bulk_copy import measure_copy
from .control import StorageControlError
from .cuts import measure_cuts
from .idle import measure_idle
from .materialise import measure_materialise
from .reads import measure_reads
from .space import measure_space
from .world import WorldError

MEASURES: Final[Mapping[str, Callable[..., Outcome]]] = {
    "materialise": measure_materialise,
    "copy": measure_copy,
    "reads": measure_reads,
    "space": measure_space,
    "idle": measure_idle,
    "cuts": measure_cuts,
}

REFUSALS: Final = (
    ClusterError,
    InitdbError,
    NodeError,
    PgbenchError,
    PostgresError,
    RpcError,
    SideError,
    SourceError,
    StorageControlError,
    WorldError,
    psycopg.Error,
    subprocess.TimeoutExpired,
)


def measure(name: str, place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """Carry one benchmark out."""
    return MEASURES[name](place, quick=arguments.quick)


SUITE: Final = Suite(
    name="storage",
    summary="Measure storage nodes, print the figures, and say which promises are kept.",
    bars=BARS,
    names=tuple(MEASURES),
    measure=measure,
    refusals=REFUSALS,
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
