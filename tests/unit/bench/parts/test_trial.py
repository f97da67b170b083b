"""What becomes of a load: figures with their units, and whose processor time they are.

In scope: bench.parts.trial, and what tps and lag make of options. Out of scope: loads.
"""

import pytest

from bench.loads.histogram import Histogram
from bench.loads.load import LoadOutcome, LoadSettings, Second
from bench.parts.lag import judged_values, rates_of, workload_of
from bench.parts.tps import CASES_QUICK, cases_of
from bench.parts.trial import figures_of, trial_of
from bench.results.record import Trial
from bench.targets.target import TargetError
from bench.tool.options import Options
from bench.tool.rounds import Case, Step

SETTINGS = LoadSettings(clients=8, seconds=4.0, seed=3, warm_seconds=1.0)


def outcome(transactions: int = 100) -> LoadOutcome:
    latencies = Histogram()
    for number in range(transactions):
        latencies.record(1000 * (number + 1))
    return LoadOutcome(
        driver="pgbench", seconds=4.0, transactions=transactions, errors=2, latencies=latencies,
        series=[Second(25, 1, 3.0)], driver_cpu_seconds=0.5, longest_gap_seconds=0.25,
        extra={"tpmc": 12.0},
    )  # fmt: skip


def test_figures_are_of_what_counted() -> None:
    figures = figures_of(outcome(), SETTINGS, cpu_seconds=2.5)
    assert figures["tps"] == 25.0
    assert figures["errors"] == 2.0
    assert figures["tpmc"] == 12.0
    assert figures["longest_gap_seconds"] == 0.25
    assert figures["p50_ms"] == pytest.approx(50, rel=0.02)
    assert figures["p99_ms"] == pytest.approx(99, rel=0.02)
    # Four fifths of the target's 2.5 s were behind the warm-up: 20 ms for each of the hundred.
    assert figures["cpu_ms_per_transaction"] == pytest.approx(20.0)
    assert figures["driver_cpu_ms_per_transaction"] == pytest.approx(5.0)


def test_a_load_that_did_nothing_has_no_latency_and_no_cost() -> None:
    figures = figures_of(outcome(0), SETTINGS, cpu_seconds=2.5)
    assert figures["tps"] == 0.0
    assert not {"p50_ms", "cpu_ms_per_transaction"} & figures.keys()


def test_a_trial_says_where_it_belongs_and_how_it_was_made() -> None:
    step = Step(2, 1, "stock", Case("tpcb", 8))
    trial = trial_of("tps", step, outcome(), SETTINGS, cpu_seconds=1.0, others_cores=0.3)
    assert (trial.part, trial.target, trial.workload, trial.clients) == ("tps", "stock", "tpcb", 8)
    assert (trial.round, trial.order, trial.others_cores) == (2, 1, 0.3)
    assert trial.settings == {"driver": "pgbench", "seconds": 4.0, "warm_seconds": 1.0, "seed": 3}
    assert [(point.transactions, point.errors) for point in trial.series] == [(25, 1)]
    assert sum(count for _, count in trial.histogram) == 100


def test_cases_are_the_usual_ones_unless_something_is_said() -> None:
    assert cases_of(Options(is_quick=True)) == list(CASES_QUICK)
    assert cases_of(Options(is_quick=True, workloads=("tpcb",))) == [Case("tpcb", 8)]
    assert cases_of(Options(workloads=("simple-update",))) == [
        Case("simple-update", 8),
        Case("simple-update", 32),
    ]
    assert cases_of(Options(workloads=("copy",))) == [Case("copy", 8)]
    assert cases_of(Options(workloads=("copy", "tpcc"), clients=(1, 2))) == [
        Case("copy", 1), Case("copy", 2), Case("tpcc", 1), Case("tpcc", 2),
    ]  # fmt: skip


def test_rates_are_numbers() -> None:
    assert rates_of(Options()) == [1000, 2000, 5000, 10_000]
    assert rates_of(Options(workloads=("300",))) == [300]
    for word in ("tpcb", "0", "-1", "1e3"):
        with pytest.raises(TargetError, match="is no rate"):
            rates_of(Options(workloads=(word,)))


def test_lag_is_judged_at_a_thousand_writes_a_second() -> None:
    trials = [
        Trial(part="lag", target=target, workload=workload_of(rate), round=number, order=0,
              figures={"lag_p99_ms": lag_ms})
        for number, (target, rate, lag_ms) in enumerate(
            [("seawall-ha", 1000, 5.0), ("seawall-ha", 1000, 7.0), ("seawall-ha", 2000, 90.0),
             ("stock-async", 1000, 1.0)]
        )
    ]  # fmt: skip
    assert judged_values(trials) == {"lag_p99_ms_at_1000": 6.0}
    assert judged_values(trials[2:]) == {}
