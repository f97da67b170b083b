"""The nemesis's schedule: what is hit when, and for how long; one seed, one schedule. Pure.

Faults come one after the other with calm times in between, because a system that never is whole
shows only that it waits. One fault may hit several components of different kinds at once. Of the
log at most one node at a time is hit, which is the minority it must live without, except by
"everybody at once": then nothing goes on until they are back, and nothing may be lost. A cut, a
full disk and a slow network may hit a log node, too, so of these there is one at a time.

The plan does not know names or pids, which change: a blow says a kind, a role, and a number that
picks one of those who have it when the time has come.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from .target import Component, Kind, Role

CALM_S: Final = (1.0, 4.0)
LASTING_S: Final = (0.3, 5.0)
DISK_S: Final = (4.0, 10.0)  # what was preallocated has to be used up before anybody notices
SLOW_S: Final = 0.1  # that a piece takes longer on a slow link
FIRST_S: Final = 2.0  # so that there is something to compare with
SEVERAL: Final = 0.25  # how many faults hit several kinds at once
EVERYBODY: Final = 0.1  # how many kill all of a kind
BLOWS_MAX: Final = 3
PICKS: Final = 1 << 16


class Action(StrEnum):
    """What is done to a component."""

    KILL = "kill"  # SIGKILL
    PAUSE = "pause"  # SIGSTOP, and SIGCONT later
    DELETE = "delete"  # SIGKILL, and its directory is deleted before it is up again
    CUT = "cut"  # a link, both ways
    CUT_THERE = "cut there"
    CUT_BACK = "cut back"
    SLOW = "slow"  # a link, both ways
    FILL = "fill"  # a disk


CUTS: Final = (Action.CUT, Action.CUT_THERE, Action.CUT_BACK, Action.SLOW)
LASTING: Final = frozenset({Action.PAUSE, Action.FILL, *CUTS})

Offer = Mapping[Kind, Sequence[Action]]

# What makes sense for each kind.
ACTIONS: Final[Offer] = {
    Kind.POSTGRES: (Action.KILL, Action.PAUSE),
    Kind.AGENT: (Action.KILL, Action.PAUSE),
    Kind.COMPUTE: (Action.KILL, Action.PAUSE, Action.DELETE),
    Kind.LOG: (Action.KILL, Action.PAUSE, Action.DELETE),
    Kind.STORAGE: (Action.KILL, Action.PAUSE, Action.DELETE),
    Kind.LINK: CUTS,
    Kind.NETWORK: CUTS,
    Kind.DISK: (Action.FILL,),
}
# Of these one at a time: two of them could be two log nodes.
TOUCHES_LOG: Final = frozenset({Kind.LOG, Kind.LINK, Kind.NETWORK, Kind.DISK})
# What is started again after a kill.
PROCESSES: Final = frozenset(
    {Kind.POSTGRES, Kind.AGENT, Kind.COMPUTE, Kind.LOG, Kind.STORAGE},
)


@dataclass(frozen=True, slots=True)
class Blow:
    """Who is hit, and how."""

    action: Action
    kind: Kind
    role: Role
    pick: int  # EVERYONE, or which of those who have the kind and the role

    def victims(self, components: Sequence[Component]) -> list[Component]:
        """Those who are hit, of all that are there. Whoever has the role is down: somebody else."""
        alike = sorted((c for c in components if c.kind is self.kind), key=lambda c: c.name)
        if self.pick == EVERYONE:
            return alike
        suited = [c for c in alike if self.role in {Role.ANY, c.role}] or alike
        return [suited[self.pick % len(suited)]] if suited else []


EVERYONE: Final = -1


@dataclass(frozen=True, slots=True)
class Fault:
    """Blows at one time; those that last end together."""

    at_s: float
    lasts_s: float  # 0: nothing lasts
    blows: tuple[Blow, ...]


def offered(components: Sequence[Component]) -> Offer:
    """What can be done to a system that has these."""
    kinds = {component.kind for component in components}
    offer = {kind: ACTIONS[kind] for kind in Kind if kind in kinds}
    deletable = {component.kind for component in components if component.directory}
    return {
        kind: tuple(a for a in actions if a is not Action.DELETE or kind in deletable)
        for kind, actions in offer.items()
    }


def make_plan(seed: int, seconds: float, offer: Offer) -> list[Fault]:
    """Faults that begin and end within so many seconds."""
    rng = random.Random(seed)  # noqa: S311  # a seed replays the plan
    plan: list[Fault] = []
    at_s = FIRST_S
    while at_s < seconds and offer:
        blows = _blows(rng, offer)
        lasts = any(blow.action in LASTING for blow in blows)
        fills = any(blow.action is Action.FILL for blow in blows)
        range_s = DISK_S if fills else LASTING_S
        lasts_s = min(rng.uniform(*range_s), seconds - at_s) if lasts else 0.0
        plan.append(Fault(at_s, lasts_s, blows))
        at_s += lasts_s + rng.uniform(*CALM_S)
    return plan


def _blows(rng: random.Random, offer: Offer) -> tuple[Blow, ...]:
    kinds = list(offer)
    if rng.uniform(0, 1) < EVERYBODY:
        kind = _choice(rng, [kind for kind in kinds if kind in PROCESSES] or kinds)
        action = Action.KILL if Action.KILL in offer[kind] else offer[kind][0]
        return (Blow(action, kind, Role.ANY, EVERYONE),)
    several = rng.uniform(0, 1) < SEVERAL
    count = min(rng.randint(2, BLOWS_MAX), len(kinds)) if several else 1
    chosen: list[Kind] = []
    for kind in rng.sample(kinds, len(kinds)):
        is_second = kind in TOUCHES_LOG and not TOUCHES_LOG.isdisjoint(chosen)
        if len(chosen) < count and not is_second:
            chosen.append(kind)
    return tuple(
        Blow(_choice(rng, offer[kind]), kind, _choice(rng, list(Role)), rng.randrange(PICKS))
        for kind in chosen
    )


T = TypeVar("T")


def _choice(rng: random.Random, among: Sequence[T]) -> T:
    return among[rng.randrange(len(among))]


def kills_plan(seed: int, count: int, offer: Offer, *, interval_s: float) -> list[Fault]:
    """So many kills, one after the other, of anything that can be killed."""
    rng = random.Random(seed)  # noqa: S311  # a seed replays the plan
    kinds = [kind for kind, actions in offer.items() if Action.KILL in actions]
    plan = []
    for number in range(count):
        kind, role = _choice(rng, kinds), _choice(rng, list(Role))
        blow = Blow(Action.KILL, kind, role, rng.randrange(PICKS))
        plan.append(Fault(FIRST_S + number * interval_s, 0.0, (blow,)))
    return plan
