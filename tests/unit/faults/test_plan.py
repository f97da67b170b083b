"""The nemesis's schedule: one seed is one schedule, and it keeps its own rules.

In scope: pure planning, and who is hit by a blow. Out of scope: signals; see
tests/integration/faults.
"""

from pathlib import Path

import pytest

from bench.faults.plan import (
    ACTIONS,
    EVERYONE,
    FIRST_S,
    LASTING,
    TOUCHES_LOG,
    Action,
    Blow,
    make_plan,
    offered,
)
from bench.faults.target import Component, Kind, Role

SECONDS = 120.0
SEEDS = range(50)


def component(kind: Kind, name: str, role: Role = Role.FOLLOWING) -> Component:
    return Component(kind, name, role)


LOGS = [
    component(Kind.LOG, "log-1"),
    component(Kind.LOG, "log-2", Role.LEADING),
    component(Kind.LOG, "log-3"),
]


def test_seed_replays_the_schedule_and_another_one_does_not() -> None:
    assert make_plan(1, SECONDS, ACTIONS) == make_plan(1, SECONDS, ACTIONS)
    assert make_plan(1, SECONDS, ACTIONS) != make_plan(2, SECONDS, ACTIONS)


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_follow_each_other_and_end_in_time(seed: int) -> None:
    end_s = FIRST_S
    for fault in make_plan(seed, SECONDS, ACTIONS):
        assert fault.at_s >= end_s
        end_s = fault.at_s + fault.lasts_s
        assert end_s <= SECONDS
        assert (fault.lasts_s > 0) == any(blow.action in LASTING for blow in fault.blows)


@pytest.mark.parametrize("seed", SEEDS)
def test_minority_of_the_log_is_hit_unless_all_are_killed(seed: int) -> None:
    for fault in make_plan(seed, SECONDS, ACTIONS):
        hits = [blow for blow in fault.blows if blow.kind in TOUCHES_LOG]
        assert len(hits) <= 1
        assert all(blow.action is Action.KILL for blow in hits if blow.pick == EVERYONE)


def test_everything_that_is_offered_happens_sometimes() -> None:
    happened = {
        (blow.kind, blow.action)
        for seed in SEEDS
        for fault in make_plan(seed, SECONDS, ACTIONS)
        for blow in fault.blows
    }
    assert happened == {(kind, action) for kind, actions in ACTIONS.items() for action in actions}


def test_nothing_but_what_is_offered_happens() -> None:
    offer = offered([component(Kind.LOG, "log-1"), component(Kind.COMPUTE, "compute-1")])
    assert Action.DELETE not in offer[Kind.COMPUTE]  # it has no directory
    assert Action.DELETE not in offer[Kind.LOG]
    kinds = {b.kind for seed in SEEDS for f in make_plan(seed, SECONDS, offer) for b in f.blows}
    assert kinds == {Kind.LOG, Kind.COMPUTE}


def test_directory_is_deleted_only_where_there_is_one() -> None:
    there = Component(Kind.LOG, "log-1", Role.FOLLOWING, directory=Path("/nowhere"))
    assert Action.DELETE in offered([there, *LOGS])[Kind.LOG]


def test_system_that_offers_nothing_is_left_alone() -> None:
    assert make_plan(1, SECONDS, {}) == []


@pytest.mark.parametrize(
    ("blow", "names"),
    [
        (Blow(Action.KILL, Kind.LOG, Role.LEADING, 7), ["log-2"]),
        (Blow(Action.KILL, Kind.LOG, Role.FOLLOWING, 0), ["log-1"]),
        (Blow(Action.KILL, Kind.LOG, Role.FOLLOWING, 3), ["log-3"]),
        (Blow(Action.KILL, Kind.LOG, Role.ANY, EVERYONE), ["log-1", "log-2", "log-3"]),
        (Blow(Action.KILL, Kind.STORAGE, Role.ANY, 1), []),
    ],
)
def test_victims_have_the_kind_and_the_role(blow: Blow, names: list[str]) -> None:
    assert [victim.name for victim in blow.victims(LOGS)] == names


def test_somebody_is_hit_when_nobody_has_the_role() -> None:
    followers = [log for log in LOGS if log.role is not Role.LEADING]
    blow = Blow(Action.KILL, Kind.LOG, Role.LEADING, 0)
    assert [victim.name for victim in blow.victims(followers)] == ["log-1"]
