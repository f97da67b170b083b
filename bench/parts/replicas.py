"""New replicas of a small database and of a large one: how soon they answer, what they cost."""

from dataclasses import dataclass
from typing import Final

from bench.failover.__main__ import SUITE as CLUSTER
from bench.tool.bars import Promise
from bench.tool.work import Work

from .suites import Chosen, run_suites

CHOSEN: Final = (Chosen(suite=CLUSTER, names=("replicas",), quick_names=("replicas",)),)


@dataclass(frozen=True, slots=True)
class Replicas:
    """The part."""

    name: str = "replicas"
    summary: str = "new replicas of a small and of a large database"
    quick_minutes: float = 1.0
    promises: tuple[Promise, ...] = ()  # the suite's own

    def measure(self, work: Work) -> None:
        """As Part has it."""
        run_suites(work, self.name, CHOSEN)
