"""When the transactions of an open loop are due. Pure.

    schedule = Schedule(rate=500.0, seed=1)
    due = schedule.take()       # seconds since the load began; sleep until then, if it is not yet

Arrivals are those of a Poisson process, as pgbench's `--rate` has them, so that both drivers put
the same load on a target: many users who know nothing of each other. A fixed spacing would hide
that a queue forms where two arrive at once, and would beat with whatever else is periodic.

The schedule knows nothing of how long a transaction takes. A client that has become free takes what
is due next, also when that is long past, and latencies count from the due time: a server that
pauses for a second makes everybody late who was due in that second, as it would with users. (A
closed loop asks nothing meanwhile, and counts one slow answer for each client: coordinated
omission.)
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Schedule:
    """Due times in order; each is taken once."""

    rate: float  # a second
    seed: int | str
    _last_seconds: float = field(init=False, default=0.0)
    _rng: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"a rate of {self.rate} is no open loop: use more than 0 a second")
        self._rng = random.Random(self.seed)  # noqa: S311  # replays, protects nothing

    def take(self) -> float:
        """The next due time, past or future, for whoever waits until then."""
        self._last_seconds += self._rng.expovariate(self.rate)
        return self._last_seconds

    def take_until(self, end_seconds: float) -> Iterator[float]:
        """All that are left before a moment: at the end, what nobody came to."""
        while (due_seconds := self.take()) < end_seconds:
            yield due_seconds
