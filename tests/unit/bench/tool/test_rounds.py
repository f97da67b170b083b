"""The plan of rounds: everybody has every turn, nobody always comes first, a seed replays it.

In scope: bench.tool.rounds. Out of scope: starting anything.
"""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.tool.rounds import Case, IdleCost, Step, arrangement, in_turns, orders, together

TARGETS = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=7, unique=True)
CASES = st.lists(
    st.builds(Case, st.sampled_from(["tpcb", "select-only"]), st.sampled_from([1, 8, 32])),
    min_size=1,
    max_size=6,
    unique=True,
)
ROUNDS = st.integers(min_value=1, max_value=9)
SEEDS = st.integers(min_value=0, max_value=2**32)


def test_two_targets_take_turns_as_abba() -> None:
    first, second = orders(["a", "b"], 1, seed=3)[0]
    assert orders(["a", "b"], 4, seed=3) == [
        [first, second],
        [second, first],
        [second, first],
        [first, second],
    ]


@given(TARGETS, SEEDS)
def test_everybody_has_every_place_equally_often(targets: list[str], seed: int) -> None:
    rounds = orders(targets, 2 * len(targets), seed)
    for place in range(len(targets)):
        assert Counter(order[place] for order in rounds) == dict.fromkeys(targets, 2)


@given(CASES, TARGETS, ROUNDS, SEEDS)
def test_both_plans_have_each_trial_once(
    cases: list[Case], targets: list[str], rounds: int, seed: int
) -> None:
    wanted = {(case, target, number) for case in cases for target in targets
              for number in range(rounds)}  # fmt: skip
    for plan in (list(together(cases, targets, rounds, seed)),
                 list(in_turns(cases, targets, rounds, seed))):  # fmt: skip
        assert len(plan) == len(wanted)
        assert {(step.case, step.target, step.round) for step in plan} == wanted


@given(CASES, TARGETS, ROUNDS, SEEDS)
def test_a_seed_replays_the_plan(
    cases: list[Case], targets: list[str], rounds: int, seed: int
) -> None:
    again = list(together(cases, targets, rounds, seed))
    assert list(together(cases, targets, rounds, seed)) == again


@given(CASES, TARGETS, ROUNDS, SEEDS)
def test_a_comparison_is_made_of_trials_in_a_row(
    cases: list[Case], targets: list[str], rounds: int, seed: int
) -> None:
    plan = list(together(cases, targets, rounds, seed))
    for start in range(0, len(plan), len(targets)):
        chunk = plan[start : start + len(targets)]
        assert len({(step.round, step.case) for step in chunk}) == 1
        assert [step.order for step in chunk] == list(range(len(targets)))


@given(CASES, TARGETS, ROUNDS, SEEDS)
def test_who_is_started_for_its_steps_is_started_once_a_round(
    cases: list[Case], targets: list[str], rounds: int, seed: int
) -> None:
    plan = list(in_turns(cases, targets, rounds, seed))
    stays: list[Step] = [plan[0]]
    for step in plan[1:]:
        if (step.round, step.target) != (stays[-1].round, stays[-1].target):
            stays.append(step)
    assert len(stays) == rounds * len(targets)


def test_a_workload_is_over_before_the_next_begins() -> None:
    cases = [Case("tpcb", 8), Case("select-only", 8), Case("tpcb", 32)]
    plan = list(together(cases, ["a", "b"], 3, seed=1))
    assert [step.case.workload for step in plan] == ["tpcb"] * 12 + ["select-only"] * 6


@pytest.mark.parametrize(
    ("idle_cores", "memory_mb", "is_together", "because"),
    [
        ((0.03, 0.03, 0.03), 100, True, "too little"),
        ((0.03, 0.03, 0.09), 100, False, "more than 5% of 2 cores"),
        # One is always the one that is measured, so the least does not count.
        ((0.09, 0.03), 100, True, "too little"),
        ((0.0, 0.0), 4000, False, "too much of the 8000 MB"),
    ],
)
def test_targets_stay_up_while_they_distort_nothing(
    idle_cores: tuple[float, ...], memory_mb: float, is_together: bool, because: str
) -> None:
    costs = {str(n): IdleCost(cores, memory_mb) for n, cores in enumerate(idle_cores)}
    decided = arrangement(costs, cores=2, free_mb=8000 if memory_mb == 4000 else 20_000)
    if memory_mb == 4000:
        assert sum(cost.memory_mb for cost in costs.values()) == 8000
    assert decided.is_together is is_together
    assert because in decided.reason
