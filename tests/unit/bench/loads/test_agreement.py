"""The verdict on the two drivers, from rounds that are given."""

import pytest

from bench.loads.agreement import Agreement, Pair, Round, round_of
from bench.loads.tally import LoadError, Tally
from bench.loads.tpcb import Builtin


def agreement(*ratios: tuple[float, float]) -> Agreement:
    pairs = [Pair(Round(100 * tps, 10 * cpu), Round(100.0, 10.0)) for tps, cpu in ratios]
    # The closed loops of a driver that is dear are far apart, and are not what is judged.
    closed = [Pair(Round(70.0, pair.ours.cpu_us), pair.pgbench) for pair in pairs]
    return Agreement(Builtin.TPCB, 8, closed, 50.0, pairs)


def test_medians_of_pairs_count_so_one_bad_round_does_not() -> None:
    found = agreement((1.0, 1.0), (0.2, 9.0), (1.02, 1.05))
    assert found.tps_ratio == pytest.approx(1.0)
    assert found.closed_ratio == pytest.approx(0.7)
    assert found.cpu_ratio == pytest.approx(1.05)
    assert found.verdict().endswith("either may be used")


@pytest.mark.parametrize(
    ("tps", "cpu", "words"),
    [
        (1.0, 3.2, "agrees with pgbench (TPS ratio 1.000); in a closed loop"),
        (0.7, 3.2, "reaches 0.700 of it and costs 3.20 times"),
        (1.06, 1.0, "differs from"),
        (0.96, 1.11, "agrees with"),
    ],
)
def test_a_driver_that_costs_more_or_says_something_else_is_not_used(
    tps: float, cpu: float, words: str
) -> None:
    verdict = agreement((tps, cpu)).verdict()
    assert words in verdict
    assert verdict.endswith("pgbench is used where there is one")


def test_a_round_that_did_nothing_compares_with_nothing() -> None:
    with pytest.raises(LoadError, match="nothing to compare"):
        round_of(Tally(1.0).outcome("asyncpg"))
