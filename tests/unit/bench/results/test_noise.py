"""When a machine was too noisy. In scope: the limits, and what is said. Out of scope: measuring."""

import msgspec
import pytest
from unit.bench.result_sets import trial

from bench.results.noise import NOISY_CORES, judge, limit_cores
from bench.results.record import Trial


def trials(*others: float) -> list[Trial]:
    return [
        msgspec.structs.replace(trial("stock", at, tps=1.0), others_cores=cores)
        for at, cores in enumerate(others)
    ]


def test_quiet_trials_are_not_refused() -> None:
    noise = judge(trials(0.1, 0.0, NOISY_CORES), 2)
    assert not noise.is_too_much
    assert noise.refusal == ""
    assert noise.sentence.startswith("Other programs never took more than 0.20 cores")


@pytest.mark.parametrize(
    ("others", "is_refused"),
    [
        ((1.0, 0, 0, 0), False),  # a quarter does not reach the middle half
        ((1.0, 1.0, 0, 0), True),
        ((1.0,), True),
        ((), False),
        ((0.21, 0.21, 0.21), True),
        ((0.2, 0.2, 0.2), False),
    ],
)
def test_more_than_a_quarter_of_noisy_trials_are_refused(
    others: tuple[float, ...], is_refused: bool
) -> None:
    assert judge(trials(*others), 2).is_too_much == is_refused


def test_refusal_is_one_sentence_that_says_what_to_do() -> None:
    refusal = judge(trials(1.25, 0.5), 2).refusal
    assert refusal == (
        "not compared: other programs took more than 0.20 cores during 2 of 2 trials, at worst"
        " 1.25; measure again on a quiet machine, or say --noisy"
    )


@pytest.mark.parametrize(
    ("cores", "limit"),
    [(1, 0.2), (2, 0.2), (64, 6.4), ("two", 0.2), (None, 0.2), (-4, 0.2)],
)
def test_limit_grows_with_the_machine(cores: object, limit: float) -> None:
    assert limit_cores(cores) == pytest.approx(limit)
