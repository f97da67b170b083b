"""What is printed of trials: medians, spread, and ratios that are of one round.

In scope: bench.tool.tables. Out of scope: whether ratios may be printed at all.
"""

from bench.results.record import Trial
from bench.tool.tables import (
    Comparison,
    groups,
    over_rounds,
    ratio_lines,
    ratios,
    target_lines,
)

TPCB = ("tpcb", 8)


def trial(target: str, number: int, *, workload: str = "tpcb", **figures: float) -> Trial:
    return Trial(
        part="tps", target=target, workload=workload, round=number, order=0, clients=8,
        figures=figures,
    )  # fmt: skip


TRIALS = [
    # Written down in another order than that of the rounds.
    trial("ours", 1, tps=10.0),
    trial("ours", 0, tps=100.0),
    trial("ours", 2, tps=40.0),
    trial("stock", 0, tps=50.0),
    trial("stock", 1, tps=20.0),
    trial("stock", 2, tps=40.0),
]


def test_a_ratio_is_of_one_round_and_not_of_medians() -> None:
    found = ratios(TRIALS, TPCB, "tps", subject="ours", peer="stock")
    assert found is not None
    assert found.rounds == (2.0, 0.5, 1.0)


def test_a_round_that_one_of_two_lacks_has_no_ratio() -> None:
    found = ratios([*TRIALS[:3], TRIALS[4]], TPCB, "tps", subject="ours", peer="stock")
    assert found is not None
    assert found.rounds == (0.5,)
    assert ratios(TRIALS[:3], TPCB, "tps", subject="ours", peer="stock") is None


def test_a_peer_that_did_nothing_has_no_ratio() -> None:
    zero = [trial("ours", 0, tps=1.0), trial("stock", 0, tps=0.0)]
    assert ratios(zero, TPCB, "tps", subject="ours", peer="stock") is None


def test_rounds_come_in_their_order() -> None:
    found = over_rounds(TRIALS, TPCB, "ours", "tps")
    assert found is not None
    assert found.rounds == (100.0, 10.0, 40.0)


def test_groups_are_kept_apart() -> None:
    mixed = [*TRIALS, trial("ours", 0, workload="select-only", tps=7.0)]
    assert groups(mixed) == [TPCB, ("select-only", 8)]
    assert over_rounds(mixed, ("select-only", 8), "ours", "tps") is not None


def test_table_has_a_line_for_each_target() -> None:
    printed = target_lines(TRIALS, TPCB, ("tps", "p99_ms"))
    assert [line.split()[0] for line in printed] == ["tpcb,", "ours", "stock"]
    assert "40.00 (10.00 to 100.0)" in printed[1]
    assert printed[1].endswith("3 rounds")
    assert "p99_ms" not in printed[0]  # nobody has it


def test_ratios_have_a_line_for_each_peer_with_every_round() -> None:
    trials = [*TRIALS, trial("tuned", 0, tps=10.0)]
    printed = ratio_lines(trials, TPCB, Comparison("ours", "tps"))
    assert [line.partition(",")[0].strip() for line in printed] == ["ours / stock", "ours / tuned"]
    assert "1.000 (0.500 to 2.000); rounds 2.000 0.500 1.000; " in printed[0]
    assert "no difference seen" in printed[0]


def test_who_lacks_a_figure_has_a_dash() -> None:
    some = [trial("ours", 0, p99_ms=1.0), trial("stock", 0)]
    assert [line.split()[1] for line in target_lines(some, TPCB, ("p99_ms",))[1:]] == [
        "1.000",
        "-",
    ]
