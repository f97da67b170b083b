"""What the parts of the tool promise, and how a promise is judged. Pure.

A bar that was not measured is neither met nor missed. With `--quick` most bars are printed and
written, but only those that are robust enough count for the exit status: too little was measured
to judge by the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.pagefault.report import Bar, figure
from bench.results.record import Judgement

QUICK_REMARK: Final = "quick: too little was measured to judge by"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a figure has to be: at least, at most, or in between."""

    name: str
    low: float | None = None
    high: float | None = None
    counts_when_quick: bool = False

    def is_met(self, value: float) -> bool:
        """Whether it is kept; what is not a number keeps nothing."""
        is_high_enough = self.low is None or value >= self.low
        is_low_enough = self.high is None or value <= self.high
        return value == value and is_high_enough and is_low_enough  # noqa: PLR0124  # NaN

    @property
    def condition(self) -> str:
        """As it is printed: `>=0.98`, `0.95..1.05`."""
        if self.low is None:
            return f"<={self.high:g}"
        return f">={self.low:g}" if self.high is None else f"{self.low:g}..{self.high:g}"

    def judged(self, value: float) -> Judgement:
        """Hold it against what was measured."""
        return Judgement(self.name, value, self.condition, self.is_met(value))


def promise_of(bar: Bar) -> Promise:
    """The bar of one of the suites."""
    return Promise(
        name=bar.name,
        low=bar.target if bar.at_least else None,
        high=None if bar.at_least else bar.target,
    )


# Exit statuses.
OK: Final = 0
MISSED: Final = 1
UNMEASURED: Final = 2

FAILOVER_VS_PATRONI: Final = "failover_vs_patroni"
DRIVER_AGREEMENT: Final = "driver_agreement"
HARNESS_CPU: Final = "harness_cpu_of_pgbench"
ALL_QUICK_MINUTES: Final = "all_quick_minutes"

PROMISES: Final = (
    # Of the medians of the time without an acknowledged write, after a kill -9 of the primary's
    # postmaster; and the same when the agent beside it is killed, too.
    Promise(name=FAILOVER_VS_PATRONI, high=0.1, counts_when_quick=True),
    Promise(name=f"{FAILOVER_VS_PATRONI}_tuned", high=0.333, counts_when_quick=True),
    # The latter are close to their bars, because a lease of ours is a constant 1.8 s: two rounds of
    # a quick run cannot tell.
    Promise(name=f"{FAILOVER_VS_PATRONI}_node_killed", high=0.1),
    Promise(name=f"{FAILOVER_VS_PATRONI}_tuned_node_killed", high=0.333),
    # Transactions a second of our own TPC-B client by pgbench's. What it costs is judged beside
    # it: a driver that is too dear keeps the promise where pgbench is used instead.
    Promise(name=DRIVER_AGREEMENT, low=0.95, high=1.05),
    Promise(name=ALL_QUICK_MINUTES, high=15, counts_when_quick=True),
)


def judge(promises: Iterable[Promise], values: Mapping[str, float]) -> list[Judgement]:
    """The promises about what was measured, in their own order."""
    return [one.judged(values[one.name]) for one in promises if one.name in values]


def counting_misses(
    judgements: Iterable[Judgement], promises: Sequence[Promise], *, is_quick: bool
) -> list[str]:
    """The names of the missed bars that make a run fail."""
    robust = {one.name for one in promises if one.counts_when_quick}
    missed = [one.name for one in judgements if not one.is_met]
    return [name for name in missed if not is_quick or name in robust]


def bar_line(judgement: Judgement, *, remark: str = "") -> str:
    """For people and for programs that look for lines starting with BAR."""
    verdict = "ok" if judgement.is_met else "MISSED"
    told = f" ({remark})" if remark else ""
    return f"BAR {judgement.name} {figure(judgement.value)} {judgement.condition} {verdict}{told}"


def status_of(
    judgements: Sequence[Judgement],
    promises: Sequence[Promise],
    *,
    is_quick: bool,
    unmeasured: int,
) -> int:
    """2: something could not be measured; 1: a bar is missed; 0 else. Pure."""
    if unmeasured:
        return UNMEASURED
    return MISSED if counting_misses(judgements, promises, is_quick=is_quick) else OK
