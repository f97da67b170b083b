"""Measure storage nodes, print the figures, and say which promises are kept.

    python -P -m bench.storage [--only NAME ...] [--quick] [--json FILE]
                               [--version N | --pg-bin DIR]

Exit status 1 when a bar is missed, 2 when something could not be measured. Everything happens below
a directory in /tmp that is removed at the end; every process is ended.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psycopg

from bench.log.control import ClusterError
from bench.log.sides import SideError
from bench.node_process import NodeError
from bench.pagefault.machine import machine_facts, usage
from bench.pagefault.pgbench import PgbenchError
from bench.pagefault.report import Outcome, bar_line, table, with_facts
from bench.pagefault.workspace import Workspace, workspace
from fabric.logs import LogSettings, configure
from fabric.rpc_errors import RpcError
from sqlnode.initdb import InitdbError
from sqlnode.page_source import SourceError
from sqlnode.postgres import PostgresError
from sqlnode.privileges import PrivilegeError, choose_identity
from sqlnode.server_copy import runnable_server
from sqlnode.servers import ServerError, choose_server

from .bars import as_json, is_passed, judged
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


def main() -> int:
    """Run what the arguments choose."""
    arguments = _arguments()
    configure(LogSettings(level="warning"), component="bench", stream=sys.stderr)
    # Terminated as well as interrupted, servers are stopped and files removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        identity = choose_identity()
        server = choose_server(
            arguments.version,
            pg_bin=arguments.pg_bin,
            search_path=os.environ.get("PATH", os.defpath),
        )
        with workspace(runnable_server(server, identity), identity) as place:
            outcomes, failures = _run(place, arguments)
            facts = _facts(place, arguments)
    except (PrivilegeError, ServerError) as refusal:
        print(f"bench.storage: {refusal}", file=sys.stderr)
        return 2
    for bar, measurement in judged(outcomes):
        print(bar_line(bar, measurement) + remark(quick=arguments.quick))
    report = json.dumps(as_json(facts, outcomes), indent=2 if arguments.json else None)
    if arguments.json is not None:
        arguments.json.write_text(report + "\n", encoding="utf-8")
    else:
        print(report)
    if failures:
        return 2
    return 0 if is_passed(outcomes) else 1


def _run(place: Workspace, arguments: argparse.Namespace) -> tuple[list[Outcome], int]:
    """Each benchmark in turn; how many could not be measured. One that fails stops no other."""
    outcomes = []
    failures = 0
    for name in arguments.only or MEASURES:
        before = usage()
        try:
            outcome = MEASURES[name](place, quick=arguments.quick)
        except REFUSALS as refusal:
            failures += 1
            print(f"{name} could not be measured: {refusal}", file=sys.stderr)
            continue
        after = usage()
        outcome = with_facts(
            outcome,
            took_s=round(after.at_s - before.at_s, 1),
            others_cores=round(after.others_since(before), 2),
        )
        outcomes.append(outcome)
        print("\n".join(table(outcome)), flush=True)
    return outcomes, failures


def remark(*, quick: bool) -> str:
    """What a bar's line must say beside the figure, so that nobody takes it for more than it is."""
    return " (quick: too little was measured to judge by)" if quick else ""


def _facts(place: Workspace, arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "benchmark": "storage",
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "postgres": str(place.binaries.version),
        "psycopg": psycopg.__version__,
        "machine": machine_facts(),
    }


def _arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -P -m bench.storage", description=__doc__.splitlines()[0]
    )
    names = tuple(MEASURES)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--version", type=int, metavar="N", help="major version of PostgreSQL")
    chosen.add_argument("--pg-bin", type=Path, metavar="DIR", help="directory of its programs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
