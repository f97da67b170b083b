"""What a part is given to work with, and what it says of itself. No logic but the clock."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from bench.pagefault.workspace import Workspace

from .bars import Promise
from .options import Options
from .progress import Progress
from .record import Record

ROUNDS_MIN: Final = 2  # whatever they take: one round alone has no spread


@dataclass(slots=True, kw_only=True)
class Work:
    """One part's run."""

    options: Options
    place: Workspace
    record: Record
    progress: Progress
    budget_seconds: float | None = None  # of a quick run: when it is over, rounds are left out
    start_s: float = field(default_factory=time.monotonic)
    left_out: set[tuple[str, int]] = field(default_factory=set)

    def has_time(self) -> bool:
        """Whether another round may begin."""
        return self.budget_seconds is None or time.monotonic() - self.start_s < self.budget_seconds

    def leaves_out(self, part: str, number: int) -> bool:
        """Whether a round is left out, because the time of a quick run is over."""
        if number < ROUNDS_MIN or self.has_time():
            return False
        if (part, number) not in self.left_out:
            self.left_out.add((part, number))
            self.remark(
                f"{part}: round {number + 1} is not complete: the time of a quick run is over"
            )
        return True

    def fail(self, text: str) -> None:
        """Say that something could not be measured; the run goes on, and fails."""
        self.record.unmeasured += 1
        self.remark(text)

    def remark(self, text: str) -> None:
        """Say that something is less than it could be; no reason to fail."""
        self.record.failures.append(text)
        self.progress.warn(text)


class Part(Protocol):
    """One question that the tool answers."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def summary(self) -> str:
        """One line."""

    @property
    def quick_minutes(self) -> float:
        """What it may take with --quick on two cores."""

    @property
    def promises(self) -> Sequence[Promise]:
        """The bars that it is held against."""

    def measure(self, work: Work) -> None:
        """Record what there is, print it, and judge it."""
