"""Bars: what is met, what counts for the exit status of a quick run, what is printed.

In scope: bench.tool.bars, and the exit status. Out of scope: how values come about.
"""

import math

import pytest

from bench.pagefault.report import Bar
from bench.tool.bars import (
    PROMISES,
    Promise,
    bar_line,
    counting_misses,
    judge,
    promise_of,
    status_of,
)

BETWEEN = Promise(name="agreement", low=0.95, high=1.05)
ROBUST = Promise(name="gap", high=0.1, counts_when_quick=True)
WEAK = Promise(name="speed", low=10)


@pytest.mark.parametrize(
    ("promise", "value", "is_met"),
    [
        (BETWEEN, 0.95, True), (BETWEEN, 1.05, True), (BETWEEN, 0.94, False),
        (BETWEEN, 1.06, False), (BETWEEN, math.nan, False),
        (ROBUST, 0.1, True), (ROBUST, 0.11, False), (ROBUST, math.nan, False),
        (WEAK, 10, True), (WEAK, 9, False), (WEAK, math.nan, False),
    ],
)  # fmt: skip
def test_promise_holds_up_to_its_ends(promise: Promise, value: float, is_met: bool) -> None:
    assert promise.is_met(value) is is_met


def test_conditions_are_short() -> None:
    assert [one.condition for one in (BETWEEN, ROBUST, WEAK)] == ["0.95..1.05", "<=0.1", ">=10"]


@pytest.mark.parametrize("at_least", [True, False])
def test_bar_of_a_suite_stays_the_same_bar(at_least: bool) -> None:
    bar = Bar(name="x", target=3, at_least=at_least)
    assert promise_of(bar).condition == bar.condition
    assert [promise_of(bar).is_met(value) for value in (2, 3, 4)] == [
        bar.is_met(value) for value in (2, 3, 4)
    ]


def test_what_was_not_measured_is_not_judged() -> None:
    assert [one.name for one in judge([BETWEEN, WEAK], {"speed": 1.0})] == ["speed"]


def test_line_says_what_programs_look_for() -> None:
    assert bar_line(ROBUST.judged(0.05)) == "BAR gap 0.050 <=0.1 ok"
    assert bar_line(WEAK.judged(1.0), remark="why") == "BAR speed 1.000 >=10 MISSED (why)"


def test_a_quick_run_fails_by_robust_bars_alone() -> None:
    missed = [WEAK.judged(1.0), ROBUST.judged(1.0)]
    assert counting_misses(missed, [WEAK, ROBUST], is_quick=False) == ["speed", "gap"]
    assert counting_misses(missed, [WEAK, ROBUST], is_quick=True) == ["gap"]


@pytest.mark.parametrize(
    ("value", "is_quick", "unmeasured", "status"),
    [(10, False, 0, 0), (1, False, 0, 1), (1, True, 0, 0), (10, False, 1, 2), (1, False, 1, 2)],
)
def test_exit_status_is_that_of_all_benchmarks(
    value: float, is_quick: bool, unmeasured: int, status: int
) -> None:
    judged = [WEAK.judged(value)]
    assert status_of(judged, [WEAK], is_quick=is_quick, unmeasured=unmeasured) == status


def test_bars_of_the_issue_are_there() -> None:
    conditions = {one.name: one.condition for one in PROMISES}
    assert conditions["failover_vs_patroni"] == "<=0.1"
    assert conditions["failover_vs_patroni_tuned"] == "<=0.333"
    assert conditions["driver_agreement"] == "0.95..1.05"
    assert conditions["all_quick_minutes"] == "<=15"
