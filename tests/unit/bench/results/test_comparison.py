"""Targets beside each other, and two files. In scope: what is compared, said, refused and lost.

Out of scope: the tests themselves (test_statistics.py).
"""

import msgspec
import pytest
from unit.bench.result_sets import result_set, trial, with_trials

from bench.results.comparison import (
    Comparison,
    between,
    heads,
    losses,
    pairs,
    printed,
    settings_of,
    within,
    words,
)
from bench.results.record import ResultSet
from bench.results.statistics import paired_difference

NAMES = ("before", "after")


def rounds(target: str, *values: float, name: str = "tps") -> list[object]:
    return [trial(target, at, **{name: value}) for at, value in enumerate(values)]


def one(result: ResultSet) -> Comparison:
    (found,) = within(result)
    return found


def of(*trials: list[object]) -> ResultSet:
    return with_trials([each for some in trials for each in some])  # type: ignore[misc]  # Trials


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["seawall-ha", "stock", "patroni"], [("seawall-ha", "stock"), ("seawall-ha", "patroni")]),
        (["seawall-ha", "seawall-small", "stock"],
         [("seawall-ha", "stock"), ("seawall-small", "stock")]),
        (["seawall-ha", "seawall-small"], [("seawall-small", "seawall-ha")]),
        (["stock", "patroni"], [("patroni", "stock")]),
        (["stock"], []),
        ([], []),
    ],
)  # fmt: skip
def test_ours_are_held_against_peers(targets: list[str], expected: list[tuple[str, str]]) -> None:
    assert pairs(targets) == expected


def test_ratios_are_of_one_round() -> None:
    found = one(of(rounds("seawall-ha", 90, 190, 45), rounds("stock", 100, 200, 50)))
    assert found.ratios == (0.9, 0.95, 0.9)
    assert (found.target, found.peer, found.figure) == ("seawall-ha", "stock", "tps")
    assert found.value.median == 90


def test_round_that_one_of_them_lacks_is_left_out() -> None:
    found = one(of(rounds("seawall-ha", 90, 190), rounds("stock", 100)))
    assert found.ratios == (0.9,)
    assert within(of(rounds("seawall-ha", 90))) == []


@pytest.mark.parametrize(
    ("ratios", "direction", "text"),
    [
        ([1.1] * 6, 1, "better by 10.0% (10.0 to 10.0%, p=0.031)"),
        ([1.1] * 6, -1, "worse by 10.0% (10.0 to 10.0%, p=0.031)"),
        ([0.9] * 6, 1, "worse by 10.0% (10.0 to 10.0%, p=0.031)"),
        ([0.9] * 6, 0, "less by 10.0% (10.0 to 10.0%, p=0.031)"),
        ([0.05] * 6, -1, "better: ratio 0.050 (0.050 to 0.050, p=0.031)"),
        ([0.5] * 3, 1, "no difference seen (rounds too few: 6 needed): ratio 0.500 (p=0.250)"),
        ([0.9, 1.1, 0.8, 1.3, 0.95, 1.2, 1.0], 1,
         "no difference seen: ratio 1.000 (0.872 to 1.200, p=0.844)"),
    ],
)  # fmt: skip
def test_words_say_what_may_be_said(ratios: list[float], direction: int, text: str) -> None:
    assert words(paired_difference(ratios), direction) == text


def test_losses_are_worse_than_a_peer_and_the_worst_comes_first() -> None:
    found = losses(within(result_set()))
    assert {(loss.target, loss.peer) for loss in found} == {("seawall-ha", "stock")} | {
        ("seawall-ha", "stock-sync") for loss in found if loss.figure == "errors"
    }
    assert [loss.badness for loss in found] == sorted(
        (loss.badness for loss in found), reverse=True
    )
    assert found[0].badness > 1


def test_a_peer_that_loses_is_no_loss() -> None:
    assert losses(within(of(rounds("seawall-ha", 100), rounds("stock", 90)))) == []
    assert losses(within(of(rounds("stock", 100), rounds("patroni", 90)))) == []
    assert len(losses(within(of(rounds("seawall-ha", 90), rounds("stock", 100))))) == 1


def test_an_error_in_one_round_of_many_is_a_loss() -> None:
    """Its median is 0 like the peer's, so the median alone would hide it."""
    found = losses(
        within(
            of(
                rounds("seawall-ha", 0, 0, 3, 0, 0, name="errors"),
                rounds("stock", 0, 0, 0, 0, 0, name="errors"),
            )
        )
    )
    assert [loss.words for loss in found] == [
        "0.600 a round on average against 0 (p=1.000; no difference seen)"
    ]


def test_figures_without_a_direction_are_no_losses() -> None:
    result = of(
        rounds("seawall-ha", 9, name="transactions"), rounds("stock", 1, name="transactions")
    )
    assert len(within(result)) == 1
    assert losses(within(result)) == []


def test_noisy_comparison_is_refused_unless_it_is_asked_for() -> None:
    comparisons = within(result_set(others_cores=1.0))
    refused = printed(comparisons, names=NAMES, is_noise_allowed=False)
    assert all("seawall-ha / " not in line for line in refused)
    assert sum("not compared: other programs took" in line for line in refused) == 8
    allowed = printed(comparisons, names=NAMES, is_noise_allowed=True)
    figures = [line for line in allowed if "seawall-ha / " in line]
    assert len(figures) == len(comparisons)
    assert all(line.endswith("[noisy]") for line in figures)


def test_printed_comparison_has_medians_spread_words_and_rounds() -> None:
    comparisons = within(of(rounds("seawall-ha", 90, 190, 45), rounds("stock", 100, 200, 50)))
    assert printed(comparisons, names=NAMES, is_noise_allowed=False) == [
        "tps tpcb, 8 clients",
        "  seawall-ha / stock, tps: 90.00 (45.00 to 190.0); 100.0 (50.00 to 200.0); no difference"
        " seen (rounds too few: 6 needed): ratio 0.900 (p=0.250); rounds 0.900 0.950 0.900",
    ]


def test_chance_is_told_of_where_much_is_compared() -> None:
    lines = printed(within(result_set()), names=NAMES, is_noise_allowed=False)
    assert lines[-1] == "Of 40 comparisons, about 2 seem different by chance alone."


def test_two_files_are_compared_target_by_target() -> None:
    found = between(result_set(), result_set(seed=2, ours=1.5))
    seen = {(each.target, each.figure) for each in found if each.difference.is_seen}
    assert ("seawall-ha", "tps") in seen
    assert all(each.target == each.peer and not each.ratios for each in found)
    faster = next(each for each in found if each.target == "seawall-ha" and each.figure == "tps")
    assert faster.ratio > 1
    assert faster.words.startswith("better by")
    (line, *_) = printed([faster], names=NAMES, is_noise_allowed=False)[1:]
    assert line.startswith("  seawall-ha, tps: after ")
    assert "; before " in line


def test_a_file_beside_itself_shows_no_difference() -> None:
    found = between(result_set(), result_set())
    assert found
    assert not any(each.difference.is_seen for each in found)
    assert all(each.ratio == 1 for each in found)


def test_what_only_one_file_has_is_not_compared() -> None:
    first, second = of(rounds("stock", 1)), of(rounds("stock", 1), rounds("patroni", 1))
    assert [each.target for each in between(first, second)] == ["stock"]
    assert between(of(), second) == []


def test_noise_in_either_file_refuses() -> None:
    quiet, noisy = result_set(), result_set(others_cores=1.0)
    for pair in ((quiet, noisy), (noisy, quiet)):
        assert all(each.noise.is_too_much for each in between(*pair))
    assert not any(each.noise.is_too_much for each in between(quiet, quiet))


def test_files_of_different_machines_and_settings_say_so() -> None:
    first = result_set(rounds=1)
    trials = [msgspec.structs.replace(each, settings={"scale": 50}) for each in first.trials]
    second = msgspec.structs.replace(
        first, machine={**first.machine, "cores": 64}, trials=trials, is_quick=True
    )
    lines = heads(first, second, names=NAMES)
    assert lines[0].startswith("before: commit 0123456789ab+, started 2026-11-27")
    assert lines[1].endswith(", quick")
    assert "The machines differ, and so may all figures: cores 2 and 64." in lines
    assert "tps tpcb, 8 clients was not done with the same settings." in lines
    assert len(heads(first, first, names=NAMES)) == 2


def test_settings_come_in_the_order_in_which_they_were_done() -> None:
    titles = [setting.title for setting in settings_of(result_set(rounds=1).trials)]
    assert titles[:3] == ["tpcb, 1 client", "tpcb, 8 clients", "tpcb, 32 clients"]
    assert titles[-1] == "reads"
