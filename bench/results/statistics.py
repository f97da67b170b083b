"""What rounds say: medians, ratios, and whether a difference is more than chance. Pure.

Rounds of one run are *paired*: trials of one round ran one after the other, so what the machine did
in that minute is in both, and their ratio is free of it. Two files are not paired.

Whether a difference is real is asked of ranks, because a shared machine makes outliers: Wilcoxon's
signed ranks for pairs, Mann and Whitney's for two files. Both are counted out exactly, so nothing
is drawn at random, and the same file always says the same. An interval holds the ratios that the
same test would not refuse; fewer rounds than the test needs have none.
"""

import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from bench.pagefault.report import Measurement

ALPHA: Final = 0.05  # a difference by chance in one of twenty comparisons
RATIO_MAX: Final = 1e9  # stands for "the other had none", where a ratio does not exist
EXACT_MAX: Final = 40  # values of both files; beyond it the normal distribution is as good


@dataclass(frozen=True, slots=True)
class Summary:
    """The rounds of one figure."""

    median: float
    low: float  # where the middle half begins; with few rounds all of them
    high: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How one thing compares with another; a ratio above 1: the first is larger."""

    ratio: float
    interval: tuple[float, float] | None  # None: too few rounds for any
    p: float
    rounds: int  # the fewest that either has
    rounds_needed: int

    @property
    def is_seen(self) -> bool:
        """Whether it is more than chance, as far as the test can tell."""
        return self.p <= ALPHA

    @property
    def is_too_short(self) -> bool:
        """Whether so few rounds could not have shown any difference."""
        return self.rounds < self.rounds_needed


def summary(values: Sequence[float]) -> Summary:
    """Median and middle half, as all benchmarks of this project print them."""
    measurement = Measurement("", "", tuple(values))
    return Summary(measurement.value, *measurement.spread, len(values))


def ratio(value: float, other: float) -> float:
    """One figure by another; both are at least 0."""
    if other > 0 and value > 0:
        return min(max(value / other, 1 / RATIO_MAX), RATIO_MAX)
    if other == value:
        return 1.0
    return RATIO_MAX if value > 0 else 1 / RATIO_MAX


def ratios_by_round(values: Mapping[int, float], others: Mapping[int, float]) -> dict[int, float]:
    """The ratio of each round that both have."""
    return {at: ratio(values[at], others[at]) for at in sorted(values.keys() & others.keys())}


def paired_difference(ratios: Sequence[float]) -> Difference:
    """What the ratios of the rounds of one run say."""
    logs = [math.log(one) for one in ratios]
    middle = statistics.median(logs)
    averages = sorted((a + b) / 2 for at, a in enumerate(logs) for b in logs[at:])
    return Difference(
        math.exp(middle),
        _interval(averages, _rank_sum_counts(range(1, len(logs) + 1)), middle),
        signed_rank_p(logs),
        len(logs),
        _fewest_pairs(),
    )


def unpaired_difference(values: Sequence[float], others: Sequence[float]) -> Difference:
    """What the rounds of two runs say."""
    middle = math.log(ratio(statistics.median(values), statistics.median(others)))
    gaps = sorted(math.log(ratio(one, other)) for one in values for other in others)
    sizes = len(values), len(others)
    is_exact = sum(sizes) <= EXACT_MAX
    return Difference(
        math.exp(middle),
        _interval(gaps, _rank_sums(*sizes), middle)
        if is_exact
        else _normal_interval(gaps, *sizes, middle),
        rank_sum_p(values, others),
        min(sizes),
        _fewest_of_two(max(sizes)),
    )


def signed_rank_p(logs: Sequence[float]) -> float:
    """How often chance alone would put ranks as far on one side: Wilcoxon, two-sided, exact."""
    moved = [value for value in logs if value]
    if not moved:
        return 1.0
    ranks = _doubled_ranks([abs(value) for value in moved])
    up = sum(rank for rank, value in zip(ranks, moved, strict=True) if value > 0)
    return _two_sided(_rank_sum_counts(ranks), up, Fraction(sum(ranks), 2))


def rank_sum_p(values: Sequence[float], others: Sequence[float]) -> float:
    """The same for two files: Mann and Whitney, two-sided; exact unless there are very many."""
    ranks = _doubled_ranks([*values, *others])
    mine = sum(ranks[: len(values)])
    mean = Fraction(sum(ranks) * len(values), len(ranks))
    if len(ranks) <= EXACT_MAX:
        return _two_sided(_sums_of_ranks(ranks, len(values)), mine, mean)
    deviation = _rank_sum_deviation(ranks, len(values))
    if not deviation:
        return 1.0
    return min(1.0, 2 * (1 - statistics.NormalDist().cdf(float(abs(mine - mean)) / deviation)))


def percentile_us(histogram: Iterable[tuple[int, int]], share: float) -> int:
    """The upper end of the bucket in which that share of all is reached; 0 when there is none."""
    buckets = list(histogram)
    wanted = share * sum(count for _, count in buckets)
    seen = 0
    for upper_us, count in buckets:
        seen += count
        if count and seen >= wanted:
            return upper_us
    return 0


def merged(histograms: Iterable[Iterable[tuple[int, int]]]) -> list[tuple[int, int]]:
    """The histogram of all of them together."""
    counts: dict[int, int] = {}
    for histogram in histograms:
        for upper_us, count in histogram:
            counts[upper_us] = counts.get(upper_us, 0) + count
    return sorted(counts.items())


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each, so that equal values, which share theirs, have whole ones too."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for at, value in enumerate(ordered, 1):
        first.setdefault(value, at)
        last[value] = at
    return [first[value] + last[value] for value in values]


def _rank_sum_counts(ranks: Iterable[int]) -> list[int]:
    """Of all ways to call each rank up or down: how many have which sum of those that are up."""
    counts = [1]
    for rank in ranks:
        longer = counts + [0] * rank
        for at, ways in enumerate(counts):
            longer[at + rank] += ways
        counts = longer
    return counts


def _sums_of_ranks(ranks: Iterable[int], size: int) -> list[int]:
    """Of all ways to choose so many of the ranks: how many have which sum."""
    ordered = list(ranks)
    total = sum(ordered)
    counts = [[0] * (total + 1) for _ in range(size + 1)]
    counts[0][0] = 1
    for rank in ordered:
        for chosen in range(size, 0, -1):
            row, fewer = counts[chosen], counts[chosen - 1]
            for at in range(total, rank - 1, -1):
                row[at] += fewer[at - rank]
    return counts[size]


@functools.cache  # the same few sizes for all figures of a file; EXACT_MAX bounds them
def _rank_sums(size: int, other_size: int) -> tuple[int, ...]:
    """The same of ranks without equal ones, from the least sum on."""
    counts = _sums_of_ranks(range(1, size + other_size + 1), size)
    return tuple(counts[size * (size + 1) // 2 :])


def _two_sided(counts: Sequence[int], seen: int, centre: Fraction) -> float:
    """The share of ways at least as far from the centre as what was seen."""
    distance = abs(seen - centre)
    as_far = sum(ways for at, ways in enumerate(counts) if abs(at - centre) >= distance)
    return as_far / sum(counts)


def _interval(
    candidates: Sequence[float], counts: Sequence[int], middle: float
) -> tuple[float, float] | None:
    """Between the candidates that the test, whose sums have these counts, would just not refuse."""
    refused = 0
    ways = 0
    limit = ALPHA / 2 * sum(counts)
    while refused < len(counts) and ways + counts[refused] <= limit:
        ways += counts[refused]
        refused += 1
    return _between(candidates, refused, middle)


def _normal_interval(
    gaps: Sequence[float], size: int, other_size: int, middle: float
) -> tuple[float, float] | None:
    deviation = math.sqrt(size * other_size * (size + other_size + 1) / 12)
    quantile = statistics.NormalDist().inv_cdf(1 - ALPHA / 2)
    return _between(gaps, int(size * other_size / 2 - quantile * deviation), middle)


def _between(
    candidates: Sequence[float], refused: int, middle: float
) -> tuple[float, float] | None:
    if refused < 1 or refused > len(candidates) // 2:
        return None
    # Where rounds are very lopsided the median may lie outside; a wider interval is no less true.
    low = min(candidates[refused - 1], middle)
    high = max(candidates[-refused], middle)
    return math.exp(low), math.exp(high)


def _rank_sum_deviation(doubled: Sequence[int], size: int) -> float:
    """The deviation of the sum of so many doubled ranks; equal values make it smaller."""
    number = len(doubled)
    mean = sum(doubled) / number
    variance = sum((rank - mean) ** 2 for rank in doubled) / (number - 1)
    return math.sqrt(variance * size * (number - size) / number)


def _fewest_pairs() -> int:
    """All rounds on one side happens by chance twice in 2^n."""
    return math.ceil(1 + math.log2(1 / ALPHA))


def _fewest_of_two(size: int) -> int:
    """How many rounds the shorter file needs beside so many of the longer one."""
    needed = 1
    while 2 / math.comb(needed + max(size, needed), needed) > ALPHA:
        needed += 1
    return needed
