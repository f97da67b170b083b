"""Claims about changes of the members: section 6 of the paper, chapter 4 of the dissertation, and
the flaw of single-server changes that was found after it.

In scope: which change is taken when, whose votes and acknowledgements count, who steps down.
"""

from collections.abc import Iterable

import pytest
from unit.raft.group import Group

from raft.errors import ConfigRefusedError
from raft.membership import Membership
from raft.messages import Append
from raft.types import Config, Entry, HardState, Persisted, Role, Snapshot


def config(voters: Iterable[int], learners: Iterable[int] = ()) -> Config:
    return Config(frozenset(voters), frozenset(learners))


def change(group: Group, leader: int, new: Config) -> None:
    """Propose a configuration and let everybody have it."""
    group[leader].propose_config(new)
    group.settle()


def test_config_is_in_effect_as_soon_as_it_is_in_the_log() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.cut(2, 3)
    index = leader.propose_config(config({1, 2}))
    assert leader.config == config({1, 2})
    assert leader.config_index == index
    assert leader.commit_index < index


def test_config_is_rolled_back_when_its_entry_is_cut() -> None:
    group = Group(3)
    group.elect(1)
    group.cut(1)
    group[1].propose_config(config({1, 2}))
    group.nodes[1].drain()
    for me in (2, 3):
        group[me].leader_unreachable()
    group[2].campaign()
    group.deliver_all()
    group.heal()
    group.settle()
    assert group[1].config == config({1, 2, 3})
    assert group[1].config_index == 0


def test_leader_changes_nothing_before_an_entry_of_its_own_term_is_committed() -> None:
    group = Group(3)
    group.cut(3)
    group[1].campaign()
    group.nodes[1].drain()
    for _ in range(2):
        group.deliver((1, 2))
        group.deliver((2, 1))
    assert group.role(1) is Role.LEADER
    with pytest.raises(ConfigRefusedError, match="new"):
        group[1].propose_config(config({1, 2}))
    group.settle()
    change(group, 1, config({1, 2}))
    assert group[2].config == config({1, 2})


def test_one_change_is_in_flight_at_a_time() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.propose_config(config({1, 2}))
    with pytest.raises(ConfigRefusedError, match="under way"):
        leader.propose_config(config({1}))


@pytest.mark.parametrize(
    "new",
    [
        config({1, 2, 3}),
        config({1}),
        config({1, 2, 4}),
        config({1, 2}, {4}),
        config({1, 2, 3, 4, 5}),
        config({1, 2, 3}, {4, 5}),
        config(()),
    ],
)
def test_change_of_other_than_one_member_is_refused(new: Config) -> None:
    group = Group(3)
    leader = group.elect(1)
    with pytest.raises(ConfigRefusedError):
        leader.propose_config(new)
    assert leader.last_index == 1


@pytest.mark.parametrize("ids", [((1,), (1,)), ((0,), ()), ((1,), (-2,))])
def test_config_with_a_member_twice_or_a_bad_id_cannot_be_made(
    ids: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    with pytest.raises(ValueError, match="member"):
        config(*ids)


def test_learner_gets_everything_and_counts_for_nothing() -> None:
    group = Group(2, learners=1)
    leader = group.elect(1)
    group.cut(2)
    group.propose(1)
    group.deliver_all()
    assert leader.progress()[3].match_index == 2
    assert leader.commit_index == 1


def test_empty_replica_joins_as_a_learner_and_is_promoted() -> None:
    group = Group(1)
    leader = group.elect(1)
    group.propose(1, 3)
    group.add(2)
    change(group, 1, config({1}, {2}))
    assert group.nodes[2].terms == [1] * 5
    change(group, 1, config({1, 2}))
    group.cut(2)
    group.propose(1)
    assert leader.commit_index == 6  # needs 2 now


def test_empty_replica_can_start_from_a_snapshot() -> None:
    group = Group(1)
    group.elect(1)
    group.propose(1, 3)
    group.nodes[1].trim(3)
    group.add(2)
    change(group, 1, config({1}, {2}))
    group.settle()
    assert group[2].start_index == 3
    assert group[2].config == config({1}, {2})


def test_new_majority_counts_at_once() -> None:
    group = Group(2)
    leader = group.elect(1)
    group.cut(2)
    index = leader.propose_config(config({1}))
    group.nodes[1].drain()
    assert leader.commit_index == index


def test_removed_leader_leads_until_its_removal_is_committed_without_it() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.propose_config(config({2, 3}))
    group.nodes[1].drain()
    group.deliver((1, 2))
    group.deliver((2, 1))
    assert group.role(1) is Role.LEADER
    group.deliver((1, 3))
    group.deliver((3, 1))
    assert group.role(1) is Role.FOLLOWER
    group.deliver_all()
    assert group.leaders() == [2]  # it was asked to take over


def test_commit_before_its_removal_does_not_end_a_removed_leaders_lead() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.propose(1)
    index = leader.propose_config(config({2, 3}))
    group.nodes[1].drain()
    for me in (2, 3):
        group.deliver((1, me), 1)
        group.deliver((me, 1))
    assert leader.commit_index == index - 1
    assert group.role(1) is Role.LEADER


def test_trimmed_config_is_what_a_rollback_finds() -> None:
    first, second, third = config({1}), config({1}, {2}), config({1, 2})
    membership = Membership(
        Persisted(HardState(), Snapshot(0, 0, first), configs=((2, second), (5, third)))
    )
    membership.trimmed(2)
    assert membership.config == third
    membership.truncate_from(5)
    assert membership.config == second


def test_leader_demoted_to_learner_steps_down() -> None:
    group = Group(3)
    group.elect(1)
    change(group, 1, config({2, 3}, {1}))
    assert group.role(1) is Role.FOLLOWER
    assert group.leaders() == [2]


def test_member_removed_without_knowing_cannot_disturb() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.cut(3)
    change(group, 1, config({1, 2}))
    group.heal()
    group.pass_time(10 * group.settings.election_ticks)
    assert group[3].config == config({1, 2, 3})
    assert (leader.role, leader.term) == (Role.LEADER, 1)


def test_member_that_knows_of_its_removal_does_not_campaign() -> None:
    group = Group(3)
    group.elect(1)
    removal = Entry(2, 1, 0, config=config({1, 2}))
    group.send(
        Append(sender=1, to=3, term=1, prev_index=1, prev_term=1, entries=(removal,), commit=2)
    )
    group.tick(3, 10 * group.settings.election_ticks)
    assert group.role(3) is Role.FOLLOWER
    assert group[3].leader == 0


def test_restart_finds_the_configurations_of_its_log() -> None:
    group = Group(3)
    group.elect(1)
    group.add(4)
    change(group, 1, config({1, 2, 3}, {4}))
    group.propose(1, 2)
    group.settle()
    group.nodes[2].crash()
    group.nodes[2].restart()
    assert group[2].config == config({1, 2, 3}, {4})
    assert group[2].config_index == 2
    group.settle()
    group.nodes[2].trim(3)
    assert (group[2].config, group[2].config_index) == (config({1, 2, 3}, {4}), 0)
    group.nodes[2].crash()
    group.nodes[2].restart()
    assert group[2].config == config({1, 2, 3}, {4})


def test_group_grows_from_one_to_five_and_back() -> None:
    group = Group(1)
    group.elect(1)
    for me in range(2, 6):
        group.add(me)
        change(group, 1, config(range(1, me), {me}))
        change(group, 1, config(range(1, me + 1)))
    for me in range(5, 1, -1):
        change(group, 1, config(range(1, me)))
    assert group[1].commit_index == group[1].last_index
    assert group[1].config == config({1})
