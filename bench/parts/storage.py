"""Storage nodes: how fast WAL becomes pages, how fast pages are read, what they take."""

from dataclasses import dataclass
from typing import Final

from bench.storage.__main__ import SUITE as STORAGE
from bench.tool.bars import Promise
from bench.tool.work import Work

from .suites import Chosen, run_suites

CHOSEN: Final = (Chosen(suite=STORAGE, names=tuple(STORAGE.names), quick_names=("reads", "cuts")),)


@dataclass(frozen=True, slots=True)
class Storage:
    """The part."""

    name: str = "storage"
    summary: str = "storage nodes: cuts, pages, space, idling"
    quick_minutes: float = 1.0
    promises: tuple[Promise, ...] = ()  # the suite's own

    def measure(self, work: Work) -> None:
        """As Part has it."""
        run_suites(work, self.name, CHOSEN)
