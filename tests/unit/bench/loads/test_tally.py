"""What a driver counts: warm-up, seconds, gaps, several processes; and when an open loop is due.

Out of scope: clients and servers.
"""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.loads.open_loop import Schedule
from bench.loads.tally import Tally

# The schedule.


def test_a_schedule_replays_and_another_seed_makes_another_one() -> None:
    def of(seed: int) -> list[float]:
        return list(Schedule(100.0, seed).take_until(1.0))

    assert of(1) == of(1)
    assert of(1) != of(2)


def test_a_schedule_has_its_rate_and_the_spread_of_a_poisson_process() -> None:
    dues = list(Schedule(1000.0, 1).take_until(50.0))
    assert len(dues) == pytest.approx(50_000, rel=0.02)
    assert dues == sorted(dues)
    gaps = [later - earlier for earlier, later in itertools.pairwise(dues)]
    # Of an exponential distribution mean and deviation are the same; of a fixed spacing it is 0.
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


def test_who_takes_late_gets_what_was_due_meanwhile() -> None:
    late, prompt = Schedule(10.0, 1), Schedule(10.0, 1)
    assert [late.take() for _ in range(5)] == [prompt.take() for _ in range(5)]


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no open loop"):
        Schedule(0.0, 1)


# The tally.


def test_what_comes_before_and_after_the_time_does_not_count_in_a_closed_loop() -> None:
    tally = Tally(2.0)
    for at_seconds in (-0.1, 0.0, 1.5, 2.0):
        tally.acknowledge(at_seconds, 0.01, "a", due_seconds=None)
        tally.fail(at_seconds, "40001", due_seconds=None)
    outcome = tally.outcome("x")
    assert (outcome.transactions, outcome.errors) == (2, 2)
    assert [(s.transactions, s.errors) for s in outcome.series] == [(1, 1), (1, 1)]
    assert outcome.extra == {"errors_40001": 2.0}


def test_in_an_open_loop_counts_what_was_due_in_time_whenever_it_ends() -> None:
    tally = Tally(2.0)
    tally.acknowledge(0.5, 0.6, "a", due_seconds=-0.1)  # was due in the warm-up
    tally.acknowledge(2.5, 0.6, "a", due_seconds=1.9)
    outcome = tally.outcome("x")
    assert outcome.transactions == 1
    assert outcome.latencies.percentile(50) == pytest.approx(600_000, rel=0.01)
    assert [s.transactions for s in outcome.series] == [0, 1]


def test_what_nobody_came_to_has_at_least_the_latency_that_it_has_waited() -> None:
    tally = Tally(2.0)
    tally.leave(0.5)
    tally.leave(-0.5)
    outcome = tally.outcome("x")
    assert outcome.transactions == 0
    assert outcome.extra == {"unstarted": 1.0}
    assert outcome.latencies.percentile(50) == pytest.approx(1_500_000, rel=0.01)


TIMES = st.lists(st.integers(min_value=0, max_value=2999), max_size=30)


@given(TIMES)
def test_the_longest_gap_is_right_to_two_milliseconds(times_ms: list[int]) -> None:
    tally = Tally(3.0)
    for ms in times_ms:
        tally.acknowledge(ms / 1000 + 0.0005, 0.001, "a", due_seconds=None)
    ends = [0.0, *(ms + 0.5 for ms in sorted(times_ms)), 3000.0]
    exact_ms = max(b - a for a, b in itertools.pairwise(ends))
    assert tally.longest_gap_seconds() * 1000 == pytest.approx(exact_ms, abs=2)


def test_a_load_without_an_acknowledgement_is_one_gap() -> None:
    assert Tally(3.0).longest_gap_seconds() == 3.0


EVENTS = st.lists(
    st.tuples(
        st.floats(min_value=-1, max_value=4), st.floats(min_value=0, max_value=2), st.booleans()
    ),
    max_size=30,
)


@given(EVENTS, EVENTS)
def test_processes_make_what_one_would_have_made(
    some: list[tuple[float, float, bool]], others: list[tuple[float, float, bool]]
) -> None:
    def of(events: list[tuple[float, float, bool]]) -> Tally:
        tally = Tally(2.5)
        for at_seconds, latency_seconds, is_good in events:
            if is_good:
                tally.acknowledge(at_seconds, latency_seconds, "a", due_seconds=None)
            else:
                tally.fail(at_seconds, "broken", due_seconds=None)
        return tally

    merged = of(some)
    merged.merge(of(others))
    assert merged == of(some + others)
    assert sum(s.transactions for s in merged.series()) == merged.transactions
