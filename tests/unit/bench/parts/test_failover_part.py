"""What the failover part makes of gaps: the bars, the marks, the longest pause.

In scope: the pure sides of bench.parts.failover and bench.parts.writers. Out of scope: servers,
see tests/integration/bench/test_tool.py.
"""

import time

import pytest

from bench.parts.failover import blows_of, judged_values, marks_of
from bench.parts.writers import Journal, Writers
from bench.results.record import Trial
from bench.targets.target import Blow, TargetError
from bench.tool.options import Options


def trial(target: str, blow: Blow, gap_seconds: float, number: int = 0) -> Trial:
    return Trial(
        part="failover", target=target, workload=blow, round=number, order=0, clients=8,
        figures={"gap_seconds": gap_seconds},
    )  # fmt: skip


def writers_with(times: list[float], failures: list[float] | None = None) -> Writers:
    journal = Journal(
        acknowledged=[(at_s, 0, n) for n, at_s in enumerate(times)],
        failed=[(at_s, "gone") for at_s in failures or []],
    )
    return Writers(rate=100.0, start_s=times[0], journal=journal)


def test_bars_are_ratios_of_medians_for_each_way_to_kill() -> None:
    trials = [
        *(trial("seawall-ha", Blow.POSTGRES_KILLED, gap, n) for n, gap in enumerate([1, 0.4, 0.5])),
        *(trial("patroni", Blow.POSTGRES_KILLED, gap, n) for n, gap in enumerate([10, 8, 30])),
        trial("seawall-ha", Blow.NODE_KILLED, 2.0),
        trial("patroni-tuned", Blow.NODE_KILLED, 20.0),
        trial("patroni", Blow.NODE_STOPPED, 1.0),
        trial("seawall-ha", Blow.NODE_STOPPED, 1.0),
    ]
    assert judged_values(trials) == {
        "failover_vs_patroni": pytest.approx(0.05),
        "failover_vs_patroni_tuned_node_killed": pytest.approx(0.1),
    }


def test_nothing_is_judged_without_a_peer() -> None:
    assert judged_values([trial("seawall-ha", Blow.POSTGRES_KILLED, 1.0)]) == {}


def test_a_gap_counts_when_it_ends_behind_the_blow() -> None:
    start_s = time.monotonic() - 20
    # A pause of 5 s before the blow is none of its; the one of 3 s began before it and counts.
    writers = writers_with([start_s + t for t in (0, 5, 6, 9, 9.5, 10.5)] + [time.monotonic()])
    writers.journal.acknowledged.pop()
    writers.journal.acknowledged += [(start_s + 10.5 + t / 100, 0, 100 + t) for t in range(1, 950)]
    assert writers.longest_gap(after_s=start_s + 7) == pytest.approx(3.0)


def test_a_gap_that_has_not_ended_counts_up_to_now() -> None:
    now_s = time.monotonic()
    writers = writers_with([now_s - 30, now_s - 29])
    assert writers.longest_gap(after_s=now_s - 28) >= 29


def test_failures_are_those_behind_the_blow() -> None:
    writers = writers_with([0.0, 1.0], failures=[0.5, 2.0, 3.0])
    assert writers.failed_after(1.5) == 2


def test_series_has_a_point_for_each_second_of_acknowledgements_and_failures() -> None:
    writers = writers_with([100.0, 100.5, 102.1], failures=[101.3])
    assert [(one.transactions, one.errors) for one in writers.series()] == [(2, 0), (0, 1), (1, 0)]


def test_marks_are_the_blow_and_the_end_of_the_longest_gap() -> None:
    writers = writers_with([10.0, 11.0, 11.2, 13.0, 13.1])
    marks = marks_of(writers, 10.5, 11.1, Blow.NODE_KILLED)
    assert [(mark.at_seconds, mark.text) for mark in marks] == [
        (1.1, "node_killed"),
        (3.0, "writes are acknowledged again"),
    ]


def test_a_word_that_is_no_blow_is_refused_with_those_that_are() -> None:
    with pytest.raises(TargetError, match="earthquake is no blow: choose from postgres_killed"):
        blows_of(Options(workloads=("earthquake",)))


def test_a_quick_run_kills_postmasters() -> None:
    assert blows_of(Options(is_quick=True)) == [Blow.POSTGRES_KILLED]
    assert blows_of(Options()) == list(Blow)
