"""Measure the faulting blocks, print the figures, and say which promises are kept.

    python -P -m bench.pagefault [--only NAME ...] [--quick] [--json FILE]
                                 [--version N | --pg-bin DIR]

Exit status 1 when a bar is missed, 2 when something could not be measured. bench/README.md explains
the benchmarks. Takes 8 minutes, with --quick 2.
"""

import argparse
import sys
from typing import Final

import psycopg

from bench.runner import Suite, run_suite
from sqlnode.initdb import InitdbError
from sqlnode.lazy_compute import BrokerProcessError
from sqlnode.postgres import PostgresError
from sqlnode.privileges import PrivilegeError
from sqlnode.servers import ServerError

from .bars import BARS
from .faulting import BenchmarkError, measure_fault, measure_prefetch, measure_scan
from .images import WideImage, make_image_of_files, make_pgbench_image, make_wide_image
from .opening import OpeningError, measure_cold_start, measure_writable
from .overhead import measure_overhead
from .pgbench import PgbenchError
from .report import Outcome
from .warm_process import WarmBrokerError
from .workspace import Workspace

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

    def __init__(self) -> None:
        self._wide: WideImage | None = None

    def measure(self, name: str, place: Workspace, arguments: argparse.Namespace) -> Outcome:
        """Measure one of NAMES."""
        quick = arguments.quick
        match name:
            case "cold_start_1600" | "cold_start_20000":
                files = int(name.removeprefix("cold_start_"))
                image = make_image_of_files(place, files=files)
                outcome = measure_cold_start(place, image, files=files, quick=quick)
            case "writable":
                outcome = measure_writable(place, make_pgbench_image(place), quick=quick)
            case "prefetch":
                outcome = measure_prefetch(place, self._wide_image(place), quick=quick)
            case "scan":
                outcome = measure_scan(place, self._wide_image(place), quick=quick)
            case "fault":
                outcome = measure_fault(place, self._wide_image(place), quick=quick)
            case "overhead":
                outcome = measure_overhead(place, quick=quick)
            case _:
                raise AssertionError(f"{name} is none of {NAMES}")
        return outcome

    def _wide_image(self, place: Workspace) -> WideImage:
        if self._wide is None:
            self._wide = make_wide_image(place, blocks=WIDE_BLOCKS, touched=TOUCHED_BLOCKS)
        return self._wide


SUITE: Final = Suite(
    name="pagefault",
    summary="Measure the faulting blocks, print the figures, and say which promises are kept.",
    bars=BARS,
    names=NAMES,
    measure=Benches().measure,
    refusals=REFUSALS,
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
