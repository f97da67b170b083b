"""What seeds have found, each as the shortest story that shows it.

A seed means another run whenever the simulation or the core changes, so a finding does not stay a
seed: it becomes a story of a few steps, told to real cores by hand.
"""

from unit.raft.group import Group

from raft.messages import Append
from raft.settings import RaftSettings
from raft.types import Config, Entry, Role


def test_removed_leader_whose_removal_nobody_has_is_still_elected() -> None:
    group = Group(4)
    leader = group.elect(1)
    removal = leader.propose_config(Config(frozenset({2, 3, 4})))
    group.nodes[1].drain()
    group.cut(1)
    group.nodes[1].crash()
    group.nodes[4].crash()  # for ever: one of four
    group.nodes[1].restart()
    group.heal()
    group.pass_time(6 * group.settings.election_ticks)
    assert group[2].commit_index > removal
    assert group[2].config == Config(frozenset({2, 3, 4}))
    assert group[1].role is Role.FOLLOWER
    assert group.leaders() in ([2], [3])


def test_member_that_knows_its_removal_is_committed_does_not_campaign() -> None:
    group = Group(3)
    group.elect(1)
    removal = Entry(2, 1, 0, config=Config(frozenset({1, 2})))
    group.send(
        Append(sender=1, to=3, term=1, prev_index=1, prev_term=1, entries=(removal,), commit=2)
    )
    group.tick(3, 10 * group.settings.election_ticks)
    assert group.role(3) is Role.FOLLOWER


def test_peer_with_a_full_window_is_restored_when_the_log_is_trimmed_past_it() -> None:
    group = Group(3, settings=RaftSettings(inflight_messages_max=2))
    leader = group.elect(1)
    group.cut(3)
    group.propose(1, 5)
    group.deliver_all()
    group.nodes[1].trim(leader.commit_index)
    group.heal()
    group.settle()
    assert group[3].last_index == leader.last_index
