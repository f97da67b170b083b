"""What rounds say of each other.

In scope: medians, ratios, both tests against slow references that count every case, and that an
interval and its test never contradict each other. Out of scope: how it is printed.
"""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results.statistics import (
    ALPHA,
    EXACT_MAX,
    RATIO_MAX,
    merged,
    paired_difference,
    percentile_us,
    rank_sum_p,
    ratio,
    ratios_by_round,
    signed_rank_p,
    summary,
    unpaired_difference,
)

FIGURES = st.integers(1, 20).map(float)  # few enough that some are equal
LOGS = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=9)


def middle_ranks(values: list[float]) -> list[float]:
    """Slowly: half of how many are below or at, and how many are strictly below."""
    return [
        (sum(other < value for other in values) + sum(other <= value for other in values) + 1) / 2
        for value in values
    ]


def slow_signed_rank_p(logs: list[float]) -> float:
    moved = [value for value in logs if value]
    ranks = middle_ranks([abs(value) for value in moved])
    centre = sum(ranks) / 2
    seen = sum(rank for rank, value in zip(ranks, moved, strict=True) if value > 0)
    sums = [
        sum(rank for rank, is_up in zip(ranks, ups, strict=True) if is_up)
        for ups in itertools.product((False, True), repeat=len(moved))
    ]
    return sum(abs(one - centre) >= abs(seen - centre) for one in sums) / len(sums)


def slow_rank_sum_p(values: list[float], others: list[float]) -> float:
    ranks = middle_ranks([*values, *others])
    centre = sum(ranks) * len(values) / len(ranks)
    seen = sum(ranks[: len(values)])
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, len(values))]
    return sum(abs(one - centre) >= abs(seen - centre) - 1e-9 for one in sums) / len(sums)


@given(LOGS)
def test_signed_ranks_are_counted_out(logs: list[float]) -> None:
    assert signed_rank_p(logs) == pytest.approx(slow_signed_rank_p(logs))


@given(st.lists(FIGURES, min_size=1, max_size=6), st.lists(FIGURES, min_size=1, max_size=5))
def test_rank_sums_are_counted_out(values: list[float], others: list[float]) -> None:
    assert rank_sum_p(values, others) == pytest.approx(slow_rank_sum_p(values, others))


@pytest.mark.parametrize(
    ("logs", "p"),
    [
        ([1.0, 2, 3, 4, 5], 0.0625),  # as in every table: five pairs cannot reach 0.05
        ([1.0, 2, 3, 4, 5, 6], 0.03125),
        ([-1.0, 2, 3, 4, 5, 6, 7], 0.03125),
        ([1.0, -1.0], 1.0),
        ([0.0, 0.0], 1.0),
    ],
)
def test_signed_ranks_of_the_tables(logs: list[float], p: float) -> None:
    assert signed_rank_p(logs) == pytest.approx(p)


def test_many_values_are_judged_by_the_normal_distribution() -> None:
    half = EXACT_MAX // 2
    values, others = [float(at) for at in range(half)], [at + 4.5 for at in range(half)]
    exact = rank_sum_p(values, others)
    beyond = rank_sum_p([*values, 10.1], [*others, 13.9])
    assert exact == pytest.approx(beyond, rel=0.3)
    assert rank_sum_p([1.0] * EXACT_MAX, [1.0] * EXACT_MAX) == 1.0
    seen = unpaired_difference([at + 1.0 for at in range(30)], [at + 101.0 for at in range(30)])
    assert seen.is_seen
    assert seen.interval is not None
    assert seen.interval[1] < 1


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=12, unique=True))
def test_interval_of_pairs_agrees_with_its_test(ratios: list[float]) -> None:
    logs = [math.log(one) for one in ratios]
    if len({abs(one) for one in logs} - {0.0}) < len(logs):
        return  # equal ranks: the interval is made for ranks that differ
    found = paired_difference(ratios)
    if found.interval is None:
        assert found.is_too_short
        assert not found.is_seen
        return
    low, high = found.interval
    assert low <= found.ratio <= high
    if found.is_seen:
        assert low >= 1 or high <= 1 or (low <= 1 <= high and found.ratio in (low, high))
    else:
        assert low <= 1 <= high


@given(
    st.lists(st.floats(1, 100), min_size=2, max_size=10),
    st.lists(st.floats(1, 100), min_size=2, max_size=10),
)
def test_interval_of_two_files_holds_the_ratio(values: list[float], others: list[float]) -> None:
    found = unpaired_difference(values, others)
    back = unpaired_difference(others, values)
    assert found.p == pytest.approx(back.p)
    assert found.ratio * back.ratio == pytest.approx(1)
    if found.interval is not None and back.interval is not None:
        assert found.interval[0] <= found.ratio <= found.interval[1]
        assert found.interval[0] * back.interval[1] == pytest.approx(1)


@given(st.lists(st.floats(0.5, 2), min_size=1, max_size=10), st.integers(1, 1000))
def test_a_unit_changes_no_ratio(values: list[float], by: int) -> None:
    others = list(reversed(values))
    plain = ratios_by_round(dict(enumerate(values)), dict(enumerate(others)))
    scaled = ratios_by_round(
        dict(enumerate(value * by for value in values)),
        dict(enumerate(value * by for value in others)),
    )
    assert list(plain.values()) == pytest.approx(list(scaled.values()))


@pytest.mark.parametrize("rounds", range(1, 12))
def test_so_many_rounds_as_are_called_needed_are(rounds: int) -> None:
    found = paired_difference([1.5 + at / 100 for at in range(rounds)])
    assert found.is_too_short == (rounds < 6)
    assert found.is_seen == (rounds >= 6)
    two = unpaired_difference(
        [2.0 + at for at in range(rounds)], [200.0 + at for at in range(rounds)]
    )
    assert two.is_seen == (not two.is_too_short) == (rounds >= 4)
    assert (two.interval is not None) == two.is_seen


def test_chance_alone_seldom_seems_a_difference() -> None:
    """Of all orders of eight rounds that differ by nothing, at most ALPHA are called different."""
    signs = list(itertools.product((-1, 1), repeat=8))
    called = sum(
        paired_difference([math.exp(sign * (at + 1)) for at, sign in enumerate(one)]).is_seen
        for one in signs
    )
    assert 0 < called <= ALPHA * len(signs)


def test_summary_is_the_median_and_the_middle_half() -> None:
    told = summary([5.0, 1.0, 100.0, 2.0, 3.0])
    assert (told.median, told.low, told.high, told.rounds) == (3.0, 2.0, 5.0, 5)


def test_only_rounds_that_both_have_are_compared() -> None:
    assert ratios_by_round({0: 2.0, 1: 3.0, 3: 1.0}, {1: 6.0, 2: 1.0, 0: 1.0}) == {0: 2.0, 1: 0.5}


def test_ratio_to_nothing_is_a_number() -> None:
    assert ratio(0, 0) == 1
    assert ratio(3, 0) == RATIO_MAX
    assert ratio(0, 3) == 1 / RATIO_MAX
    assert math.isfinite(paired_difference([RATIO_MAX, 1 / RATIO_MAX, 1.0]).ratio)


def test_percentiles_are_upper_ends_of_buckets() -> None:
    histogram = [(10, 50), (20, 45), (40, 4), (80, 1)]
    assert [percentile_us(histogram, share) for share in (0.5, 0.95, 0.99, 0.999)] == [
        10, 20, 40, 80,
    ]  # fmt: skip
    assert percentile_us([], 0.5) == 0
    assert percentile_us([(10, 0), (20, 1)], 0.0) == 20


@given(st.lists(st.dictionaries(st.integers(1, 9), st.integers(1, 9)), max_size=4))
def test_merged_histograms_count_everything(histograms: list[dict[int, int]]) -> None:
    found = merged(sorted(one.items()) for one in histograms)
    assert found == sorted(found)
    assert sum(count for _, count in found) == sum(sum(one.values()) for one in histograms)
