"""Our own driver beside pgbench: what becomes trials, and which driver is said to be used.

In scope: the pure side of bench.parts.agreeing. Out of scope: running drivers.
"""

import pytest

from bench.loads.agreement import Agreement, Pair, Round
from bench.loads.tpcb import Builtin
from bench.parts.agreeing import cpu_judgement, trials_of


def test_each_pair_is_a_round_with_the_order_in_which_it_was_run() -> None:
    pair = Pair(
        ours=Round(per_s=90.0, cpu_us=40.0, p50_ms=3.0), pgbench=Round(per_s=100.0, cpu_us=10.0)
    )
    agreement = Agreement(Builtin.TPCB, 8, closed=[pair, pair], rate=50.0, paced=[pair])
    trials = trials_of(agreement, "stock", others_cores=0.1)
    assert [(one.workload, one.round, one.order, one.target) for one in trials] == [
        ("tpcb on stock", 0, 0, "own-driver"),
        ("tpcb on stock", 0, 1, "pgbench"),
        ("tpcb on stock", 1, 1, "own-driver"),
        ("tpcb on stock", 1, 0, "pgbench"),
        ("tpcb on stock at a rate", 0, 0, "own-driver"),
        ("tpcb on stock at a rate", 0, 1, "pgbench"),
    ]
    assert trials[0].figures == {
        "tps": 90.0,
        "p50_ms": 3.0,
        "driver_cpu_us_per_transaction": 40.0,
    }
    assert [one.settings for one in trials[3:5]] == [{}, {"rate": 50.0}]


@pytest.mark.parametrize(
    ("cpu_ratio", "condition"),
    [(1.0, "<=1.1"), (1.1, "<=1.1"), (4.0, "<=1.1 or pgbench is used")],
)
def test_a_driver_that_is_too_dear_is_said_to_be(cpu_ratio: float, condition: str) -> None:
    judged = cpu_judgement(cpu_ratio)
    assert (judged.condition, judged.value) == (condition, cpu_ratio)
