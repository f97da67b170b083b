"""What one process of a driver has seen, and how several make one outcome. Pure.

Times are seconds since the load began to count, so what came before is negative. A transaction of a
closed loop counts in the second in which it was acknowledged. One of an open loop counts if it was
due in time, whenever it was acknowledged.

Acknowledgements are also marked in slots of a millisecond each, because the longest time without
any has to be found over all processes, and a million of times would be much to hand over.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from .histogram import Histogram
from .load import LoadOutcome, Second

SLOTS_A_SECOND: Final = 1000


class LoadError(Exception):
    """A load cannot be put on; the text says what to do."""


@dataclass(slots=True)
class Tally:
    """Counts of one load. Invariant: `transactions` is the sum of the series'."""

    seconds: float
    latencies: Histogram = field(default_factory=Histogram)
    transactions: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)  # by SQLSTATE, or what happened instead
    retries: int = 0
    unstarted: int = 0  # of an open loop: due, and nobody was free until the end
    cpu_seconds: float = 0.0
    done: list[int] = field(init=False)  # these three have an entry for each second
    failed: list[int] = field(init=False)
    worst_us: list[int] = field(init=False)
    acknowledged: bytearray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        length = max(1, math.ceil(self.seconds))
        self.done, self.failed, self.worst_us = ([0] * length for _ in range(3))
        self.acknowledged = bytearray(math.ceil(self.seconds * SLOTS_A_SECOND))

    def acknowledge(
        self, at_seconds: float, latency_seconds: float, kind: str, *, due_seconds: float | None
    ) -> None:
        """A transaction was carried out; `due_seconds` is that of an open loop."""
        if 0 <= at_seconds < self.seconds:
            self.acknowledged[self._slot(at_seconds)] = 1
        counts_at = at_seconds if due_seconds is None else due_seconds
        if not 0 <= counts_at < self.seconds:
            return
        latency_us = round(latency_seconds * 1e6)
        second = self._second(at_seconds)
        self.transactions += 1
        self.kinds[kind] += 1
        self.latencies.record(latency_us)
        self.done[second] += 1
        self.worst_us[second] = max(self.worst_us[second], latency_us)

    def fail(self, at_seconds: float, name: str, *, due_seconds: float | None) -> None:
        """A transaction ended in an error."""
        counts_at = at_seconds if due_seconds is None else due_seconds
        if 0 <= counts_at < self.seconds:
            self.errors[name] += 1
            self.failed[self._second(at_seconds)] += 1

    def retry(self, at_seconds: float) -> None:
        """A transaction was tried again because of what another one did."""
        if 0 <= at_seconds < self.seconds:
            self.retries += 1

    def leave(self, due_seconds: float) -> None:
        """Nobody came to a transaction that was due: its latency is at least what it has waited."""
        if 0 <= due_seconds < self.seconds:
            self.unstarted += 1
            self.latencies.record(round((self.seconds - due_seconds) * 1e6))

    def merge(self, other: "Tally") -> None:
        """Count what another process of the same load has seen."""
        assert other.seconds == self.seconds, "processes of one load count for the same time"
        self.latencies.merge(other.latencies)
        self.transactions += other.transactions
        self.kinds += other.kinds
        self.errors += other.errors
        self.retries += other.retries
        self.unstarted += other.unstarted
        self.cpu_seconds += other.cpu_seconds
        for second in range(len(self.done)):
            self.done[second] += other.done[second]
            self.failed[second] += other.failed[second]
            self.worst_us[second] = max(
                self.worst_us[second],
                other.worst_us[second],
            )
        both = int.from_bytes(self.acknowledged) | int.from_bytes(other.acknowledged)
        self.acknowledged = bytearray(both.to_bytes(len(self.acknowledged)))

    def longest_gap_seconds(self) -> float:
        """Between two acknowledgements, to a millisecond; begin and end count as ones."""
        longest = at = 0
        while at < len(self.acknowledged):
            found = self.acknowledged.find(1, at)
            found = len(self.acknowledged) if found < 0 else found
            longest = max(longest, found - at)
            at = found + 1
        # Between slots n and m with nothing in them lie m - n ms, one more than empty slots.
        return min((longest + 1) / SLOTS_A_SECOND, self.seconds) if longest else 0.001

    def outcome(self, driver: str) -> LoadOutcome:
        """All of it, as a load's outcome."""
        extra = {f"errors_{name}": float(count) for name, count in sorted(self.errors.items())}
        if self.retries:
            extra["retries"] = float(self.retries)
        if self.unstarted:
            extra["unstarted"] = float(self.unstarted)
        return LoadOutcome(
            driver=driver,
            seconds=self.seconds,
            transactions=self.transactions,
            errors=self.errors.total(),
            latencies=self.latencies,
            series=self.series(),
            driver_cpu_seconds=self.cpu_seconds,
            longest_gap_seconds=self.longest_gap_seconds(),
            extra=extra,
        )

    def series(self) -> list[Second]:
        """One by one; what an open loop finished late is in the last one."""
        columns = zip(self.done, self.failed, self.worst_us, strict=True)
        return [Second(done, errors, worst_us / 1000) for done, errors, worst_us in columns]

    def _second(self, at_seconds: float) -> int:
        return min(max(int(at_seconds), 0), len(self.done) - 1)

    def _slot(self, at_seconds: float) -> int:
        return min(int(at_seconds * SLOTS_A_SECOND), len(self.acknowledged) - 1)
