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


def test_member_that_does_not_know_its_promotion_is_elected_if_only_its_log_is_new_enough() -> None:
    """Found by the simulation: three voters, and a learner that two leaders knew differently.

    Leader 1 promotes 4, and nobody else hears of it. Leader 3 begins the next term, its first
    entry reaches only 4, and it dies for ever: one of four. Now 4 refuses 1 and 2, whose logs are
    older, 1 refuses 2, and 4 is no voter by its own log.
    """
    group = Group(3, learners=1)
    group.elect(1).propose_config(Config(frozenset({1, 2, 3, 4})))
    group.nodes[1].drain()
    group.cut(1)
    group.tick(2, group.settings.election_ticks)  # it waits for 1 no longer
    group[3].campaign()
    group.nodes[3].drain()
    for link in ((3, 2), (2, 3), (3, 2), (2, 3)):  # pre-vote and vote
        group.deliver(link)
    assert group.role(3) is Role.LEADER
    group.deliver((3, 4))
    group.wire.clear()
    group.nodes[3].crash()
    group.heal()
    group.pass_time(8 * group.settings.election_ticks)
    leaders = [me for me in (1, 2, 4) if group.role(me) is Role.LEADER]
    assert len(leaders) == 1
    group.propose(leaders[0])
    group.settle()
    assert {group[me].commit_index for me in (1, 2, 4)} == {group[4].last_index}
