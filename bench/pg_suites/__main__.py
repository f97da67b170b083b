"""Run PostgreSQL's own suites against a whole cluster, and compare storage with a stock standby.

    python -P -m bench.pg_suites [--quick] [--sources DIR] [--report DIR] [--json FILE]
                                 [--version N | --pg-bin DIR]

The server must be a package of Debian's: its source package has the suites, and is fetched once.
Exit status 1 when something differs that docs/compatibility.md does not explain, 2 when something
could not be run.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

import psycopg

from bench.faults.target import TargetError
from bench.pagefault.report import Outcome
from bench.pagefault.workspace import Workspace
from bench.runner import Suite, run_suite
from bench.storage.world import WorldError
from fabric.rpc_errors import RpcError
from sqlnode.page_source import SourceError
from sqlnode.postgres import PostgresError

from .bars import BARS
from .pages import PagesError
from .running import SuiteError
from .sources import SourcesError
from .suites import NAME, measure_suites

REFUSALS: Final = (
    PagesError,
    PostgresError,
    RpcError,
    SourceError,
    SourcesError,
    SuiteError,
    TargetError,
    WorldError,
    psycopg.Error,
)


def measure(name: str, place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """There is only one: everything is of one cluster."""
    assert name == NAME, f"{name} is not {NAME}"
    return measure_suites(place, arguments)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sources", type=Path, metavar="DIR",
        help="a directory with the built suites, `regress` and `isolation`; nothing is fetched",
    )  # fmt: skip
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="where differences are kept, if there are any"
    )


SUITE: Final = Suite(
    name="pg_suites",
    summary="Run PostgreSQL's own suites against a whole cluster.",
    bars=BARS,
    names=(NAME,),
    measure=measure,
    refusals=REFUSALS,
    add_arguments=_add_arguments,
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
