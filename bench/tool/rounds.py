"""Who is measured when. Pure.

The machine is shared and changes its speed from minute to minute, so no target is measured alone
and then the next: each *round* has every target once, and what is compared are figures of the same
round. The order changes from round to round, so that nobody always comes first: a shuffle by the
seed, then each pair of rounds forwards and backwards, and one place further in the next pair. With
two targets that is ABBA BAAB.

All targets of a comparison are up all the time where that disturbs no measurement; `arrangement`
decides and says why. Else each is started for its own steps and stopped again, in every round.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# What the targets that rest may use of the machine while another is measured: so much can they
# distort its figures at most, and less than rounds differ on a shared machine.
IDLE_SHARE_MAX: Final = 0.05
# Of the memory that is free. Loaded, targets grow, and the page cache wants its part.
MEMORY_SHARE_MAX: Final = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """What is done to each target once a round."""

    workload: str
    clients: int


@dataclass(frozen=True, slots=True)
class Step:
    """One trial."""

    round: int
    order: int  # among the targets of its round and case
    target: str
    case: Case


@dataclass(frozen=True, slots=True)
class IdleCost:
    """What a target takes while nobody uses it."""

    cores: float
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Whether all targets stay up, and why."""

    is_together: bool
    reason: str


def orders(targets: Sequence[str], rounds: int, seed: int) -> list[list[str]]:
    """The targets of each round, in their order."""
    shuffled = list(targets)
    random.Random(seed).shuffle(shuffled)  # noqa: S311  # no secret: a seed replays the plan
    found = []
    for number in range(rounds):
        shift = (number // 2) % max(1, len(shuffled))
        order = shuffled[shift:] + shuffled[:shift]
        found.append(order if number % 2 == 0 else order[::-1])
    return found


def together(
    cases: Sequence[Case], targets: Sequence[str], rounds: int, seed: int
) -> Iterator[Step]:
    """The steps when all are up: a workload's rounds one after the other, then the next one's.

    So its tables are made once, and the targets' turns are as close as they can be.
    """
    for workload in dict.fromkeys(case.workload for case in cases):
        for number, order in enumerate(orders(targets, rounds, seed)):
            for case in (one for one in cases if one.workload == workload):
                for place, target in enumerate(order):
                    yield Step(number, place, target, case)


def in_turns(
    cases: Sequence[Case], targets: Sequence[str], rounds: int, seed: int
) -> Iterator[Step]:
    """The steps when one is up at a time: each has all its cases of a round in a row."""
    for number, order in enumerate(orders(targets, rounds, seed)):
        for place, target in enumerate(order):
            for case in cases:
                yield Step(number, place, target, case)


def arrangement(
    costs: Mapping[str, IdleCost],
    *,
    cores: int,
    free_mb: float,
    idle_share_max: float = IDLE_SHARE_MAX,
) -> Arrangement:
    """Decide by what all but one of them take: one is always the one that is measured."""
    idle_cores = _all_but_least(cost.cores for cost in costs.values())
    memory_mb = sum(cost.memory_mb for cost in costs.values())
    told = f"at rest {len(costs)} targets use {idle_cores:.3f} cores and {memory_mb:.0f} MB"
    if memory_mb > MEMORY_SHARE_MAX * free_mb:
        return Arrangement(
            is_together=False, reason=f"{told}: too much of the {free_mb:.0f} MB that are free"
        )
    if idle_cores > idle_share_max * cores:
        return Arrangement(
            is_together=False,
            reason=f"{told}: more than {idle_share_max:.0%} of {cores} cores",
        )
    return Arrangement(is_together=True, reason=f"{told}: too little to distort each other")


def _all_but_least(values: Iterator[float]) -> float:
    """The most that rests while one is measured."""
    ordered = sorted(values)
    return sum(ordered[1:])
