"""Buckets of latencies against the values themselves.

In scope: the error of a percentile, merging, the form in which results keep it. Out of scope: who
records what.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.loads.histogram import (
    MAX_US,
    RELATIVE_ERROR_MAX,
    Histogram,
    bucket_index,
    bucket_lower_us,
    bucket_upper_us,
)

VALUES = st.integers(min_value=1, max_value=MAX_US)
LATENCIES = st.one_of(VALUES, st.integers(min_value=1, max_value=100_000))
LISTS = st.lists(LATENCIES, min_size=1, max_size=300)


def recorded(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(VALUES)
def test_a_value_lies_in_its_bucket_and_near_its_end(value: int) -> None:
    index = bucket_index(value)
    assert bucket_lower_us(index) <= value <= bucket_upper_us(index)
    assert bucket_upper_us(index) - value <= value * RELATIVE_ERROR_MAX


@given(VALUES)
def test_buckets_leave_no_gap_and_do_not_overlap(value: int) -> None:
    index = bucket_index(value)
    assert bucket_lower_us(index + 1) == bucket_upper_us(index) + 1


@given(LISTS, st.one_of(st.sampled_from([0, 50, 99, 99.9, 100]), st.floats(0, 100)))
def test_a_percentile_is_the_exact_one_and_at_most_one_percent_more(
    values: list[int], percent: float
) -> None:
    rank = max(1, math.ceil(round(percent * len(values) / 100, 6)))
    exact = sorted(values)[rank - 1]
    found = recorded(values).percentile(percent)
    assert exact <= found <= exact * 1.01


@given(LISTS, LISTS)
def test_merged_is_what_one_would_have_recorded(some: list[int], others: list[int]) -> None:
    histogram = recorded(some)
    histogram.merge(recorded(others))
    assert histogram == recorded(some + others)
    assert histogram.count == len(some) + len(others)


@given(LISTS)
def test_buckets_ascend_and_make_the_same_histogram(values: list[int]) -> None:
    histogram = recorded(values)
    buckets = histogram.buckets()
    assert buckets == sorted(buckets)
    assert sum(count for _, count in buckets) == len(values)
    assert Histogram.from_buckets(buckets) == histogram


@given(LISTS)
def test_the_mean_is_within_a_percent(values: list[int]) -> None:
    exact = sum(values) / len(values)
    assert recorded(values).mean_us() == pytest.approx(exact, rel=0.01)


def test_small_values_are_exact_and_nothing_is_below_a_microsecond_or_above_the_end() -> None:
    assert [recorded([value]).percentile(50) for value in (0, 1, 2, 255)] == [1, 1, 2, 255]
    assert recorded([10 * MAX_US]).percentile(50) >= MAX_US


def test_percentile_of_three_values_is_by_nearest_rank() -> None:
    histogram = recorded([10, 20, 30])
    assert [histogram.percentile(p) for p in (0, 33, 34, 50, 67, 100)] == [10, 10, 20, 20, 30, 30]
    assert histogram.percentile_ms(50) == 0.02


def test_of_nothing_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing was recorded"):
        Histogram().percentile(50)
    with pytest.raises(ValueError, match="nothing was recorded"):
        Histogram().mean_us()


def test_what_is_no_percentage_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 100"):
        recorded([1]).percentile(101)
