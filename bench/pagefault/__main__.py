"""Measure the faulting blocks, print the figures, and say which promises are kept.

    python -P -m bench.pagefault [--only NAME ...] [--quick] [--json FILE]
                                 [--version N | --pg-bin DIR]

Exit status 1 when a bar is missed, 2 when something could not be measured. bench/README.md explains
the benchmarks. Takes 8 minutes, with --quick 2.
"""

import argparse
import datetime
import json
import os
import signal
import sys
from functools import cached_property
from pathlib import Path
from typing import Final

import psycopg

from sqlnode.initdb import InitdbError
from sqlnode.lazy_compute import BrokerProcessError
from sqlnode.postgres import PostgresError
from sqlnode.privileges import PrivilegeError, choose_identity
from sqlnode.server_copy import runnable_server
from sqlnode.servers import ServerBinaries, ServerError, choose_server

from .faulting import BenchmarkError, measure_fault, measure_prefetch, measure_scan
from .images import WideImage, make_image_of_files, make_pgbench_image, make_wide_image
from .machine import machine_facts, usage
from .opening import OpeningError, measure_cold_start, measure_writable
from .overhead import measure_overhead
from .pgbench import PgbenchError
from .report import Outcome, Report, bar_line, table, with_facts
from .warm_process import WarmBrokerError
from .workspace import Workspace, workspace

WIDE_BLOCKS: Final = 64_000  # 524 MB
TOUCHED_BLOCKS: Final = 50_000

# In the order in which they run.
NAMES: Final = (
    "cold_start_1600",
    "cold_start_20000",
    "writable",
    "prefetch",
    "scan",
    "fault",
    "overhead",
)

REFUSALS: Final = (
    BenchmarkError,
    BrokerProcessError,
    InitdbError,
    OpeningError,
    PgbenchError,
    PostgresError,
    PrivilegeError,
    ServerError,
    WarmBrokerError,
    psycopg.Error,
)


class Benches:
    """Every benchmark; what several of them need is made once, when first needed."""

    def __init__(self, place: Workspace, *, quick: bool) -> None:
        self._place = place
        self._quick = quick

    def run(self, name: str) -> Outcome:
        """Measure one of NAMES."""
        place, quick = self._place, self._quick
        match name:
            case "cold_start_1600" | "cold_start_20000":
                files = int(name.removeprefix("cold_start_"))
                image = make_image_of_files(place, files=files)
                outcome = measure_cold_start(place, image, files=files, quick=quick)
            case "writable":
                outcome = measure_writable(place, make_pgbench_image(place), quick=quick)
            case "prefetch":
                outcome = measure_prefetch(place, self._wide, quick=quick)
            case "scan":
                outcome = measure_scan(place, self._wide, quick=quick)
            case "fault":
                outcome = measure_fault(place, self._wide, quick=quick)
            case "overhead":
                outcome = measure_overhead(place, quick=quick)
            case _:
                raise AssertionError(f"{name} is none of {NAMES}")
        return outcome

    @cached_property
    def _wide(self) -> WideImage:
        return make_wide_image(self._place, blocks=WIDE_BLOCKS, touched=TOUCHED_BLOCKS)


def main() -> int:
    """Run what the arguments choose."""
    arguments = _arguments()
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
            report, failures = _run(place, arguments)
    except (PrivilegeError, ServerError) as refusal:
        print(f"bench.pagefault: {refusal}", file=sys.stderr)
        return 2
    for bar, measurement in report.judged():
        print(bar_line(bar, measurement))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    else:
        print(json.dumps(report.as_json()))
    if failures:
        return 2
    return 0 if report.is_passed else 1


def _run(place: Workspace, arguments: argparse.Namespace) -> tuple[Report, int]:
    """Each benchmark in turn; how many could not be measured. One that fails stops no other."""
    report = Report(_facts(place.binaries, arguments))
    benches = Benches(place, quick=arguments.quick)
    failures = 0
    for name in arguments.only or NAMES:
        before = usage()
        try:
            outcome = benches.run(name)
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
        report.outcomes.append(outcome)
        print("\n".join(table(outcome)), flush=True)
    return report, failures


def _facts(binaries: ServerBinaries, arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "benchmark": "pagefault",
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "postgres": str(binaries.version),
        "psycopg": psycopg.__version__,
        "machine": machine_facts(),
    }


def _arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -P -m bench.pagefault", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="few rounds: under two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--version", type=int, metavar="N", help="major version of PostgreSQL")
    chosen.add_argument("--pg-bin", type=Path, metavar="DIR", help="directory of its programs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
