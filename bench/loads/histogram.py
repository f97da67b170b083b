"""Counts of latencies in buckets that grow with what they hold. Pure.

    histogram.record(1_250)            # microseconds
    histogram.percentile(99.9)         # the upper end of the bucket that it lies in

A power of two is cut into 128 buckets of the same width, so a bucket's upper end is at most 1/128
above anything in it, from a microsecond up to hours. Two histograms have the same buckets, and so
they can be merged and compared exactly.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

RELATIVE_ERROR_MAX: Final = 1 / 128
MAX_US: Final = 36_000_000_000  # ten hours; whatever took longer counts as so much

_SUB_BITS: Final = 7  # 2**7 buckets to a power of two


@dataclass(slots=True)
class Histogram:
    """How often what was counted fell into each bucket."""

    counts: dict[int, int] = field(default_factory=dict)  # by the number of the bucket

    @classmethod
    def from_buckets(cls, buckets: Iterable[tuple[int, int]]) -> Self:
        """The histogram that gave these `buckets`."""
        histogram = cls()
        for upper_us, count in buckets:
            histogram.record(upper_us, count)
        return histogram

    @property
    def count(self) -> int:
        """How many were recorded."""
        return sum(self.counts.values())

    def record(self, value_us: int, count: int = 1) -> None:
        """Count a value of 1 µs or more; less counts as 1 µs."""
        index = bucket_index(value_us)
        self.counts[index] = self.counts.get(index, 0) + count

    def merge(self, other: "Histogram") -> None:
        """Count all of another's as well."""
        for index, count in other.counts.items():
            self.counts[index] = self.counts.get(index, 0) + count

    def buckets(self) -> list[tuple[int, int]]:
        """Upper end in microseconds and count of each bucket that has any, ascending."""
        return [(bucket_upper_us(index), self.counts[index]) for index in sorted(self.counts)]

    def percentile(self, percent: float) -> int:
        """Microseconds that so many percent did not exceed; at most 1 % more than exactly that.

        By nearest rank: 50 of three values is the second of them. ValueError if there are none.
        """
        if not 0 <= percent <= 100:  # noqa: PLR2004  # a percentage
            raise ValueError(f"{percent} is not a percentage: ask for 0 to 100")
        total = self.count
        if not total:
            raise ValueError("nothing was recorded, so there are no percentiles: look at the count")
        # A product of floats may be a hair above the whole number that it stands for.
        rank = max(1, math.ceil(round(percent * total / 100, 6)))
        for index in sorted(self.counts):
            rank -= self.counts[index]
            if rank <= 0:
                return bucket_upper_us(index)
        raise AssertionError("a rank is at most the count")

    def percentile_ms(self, percent: float) -> float:
        """The same in milliseconds."""
        return self.percentile(percent) / 1000

    def mean_us(self) -> float:
        """The mean, by the middles of the buckets; ValueError if there is nothing."""
        total = self.count
        if not total:
            raise ValueError("nothing was recorded, so there is no mean: look at the count")
        weighted = sum(
            (bucket_lower_us(index) + bucket_upper_us(index)) / 2 * count
            for index, count in self.counts.items()
        )
        return weighted / total


def bucket_index(value_us: int) -> int:
    """The number of the bucket that holds a value."""
    value_us = min(max(value_us, 1), MAX_US)
    shift = max(0, value_us.bit_length() - _SUB_BITS - 1)
    return (shift << _SUB_BITS) + (value_us >> shift)


def bucket_upper_us(index: int) -> int:
    """The greatest value of a bucket."""
    shift, sub = _split(index)
    return ((sub + 1) << shift) - 1


def bucket_lower_us(index: int) -> int:
    """The least value of a bucket."""
    shift, sub = _split(index)
    return sub << shift


def _split(index: int) -> tuple[int, int]:
    """Below 256 a bucket is one value; above it, the shift is what the index has too much."""
    shift = max(0, (index >> _SUB_BITS) - 1)
    return shift, index - (shift << _SUB_BITS)
