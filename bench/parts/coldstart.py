"""How soon something answers that has nothing on its disk: a compute, and a whole cluster."""

from dataclasses import dataclass
from typing import Final

from bench.failover.__main__ import SUITE as CLUSTER
from bench.pagefault.__main__ import SUITE as PAGEFAULT
from bench.tool.bars import Promise
from bench.tool.work import Work

from .suites import Chosen, run_suites

CHOSEN: Final = (
    Chosen(
        suite=PAGEFAULT,
        names=("cold_start_1600", "cold_start_20000", "writable"),
        quick_names=("cold_start_1600", "writable"),
    ),
    Chosen(suite=CLUSTER, names=("up", "idle"), quick_names=("up",)),
)


@dataclass(frozen=True, slots=True)
class ColdStart:
    """The part."""

    name: str = "coldstart"
    summary: str = "a compute without data to its first answer; a cluster from nothing"
    quick_minutes: float = 1.0
    promises: tuple[Promise, ...] = ()  # the suites' own

    def measure(self, work: Work) -> None:
        """As Part has it."""
        run_suites(work, self.name, CHOSEN)
