"""Claims about reads: section 8 of the paper, 6.4 of the dissertation; the lease and its limits."""

from dataclasses import replace

import pytest
from unit.raft.group import Group

from raft.errors import NotLeaderError
from raft.messages import Append, AppendReply
from raft.settings import RaftSettings
from raft.types import Role

LEASE = RaftSettings(lease_reads=True)
LEASE_TICKS = LEASE.election_ticks - LEASE.lease_drift_ticks


def test_read_is_confirmed_by_a_round_of_heartbeats() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.read_index(7)
    group.nodes[1].drain()
    assert group.nodes[1].reads == []
    group.deliver_all()
    assert group.nodes[1].reads == [(7, leader.commit_index)]


def test_reads_between_two_readys_share_a_round() -> None:
    group = Group(3)
    leader = group.elect(1)
    for context in range(5):
        leader.read_index(context)
    group.nodes[1].drain()
    assert len(group.wire) == 2
    group.deliver_all()
    assert group.nodes[1].reads == [(context, 1) for context in range(5)]


def test_read_of_a_single_voter_needs_nobody() -> None:
    group = Group(1)
    group.elect(1).read_index(7)
    group.nodes[1].drain()
    assert group.nodes[1].reads == [(7, 1)]


def test_answers_to_an_earlier_round_do_not_confirm_a_read() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.tick(1, group.settings.heartbeat_ticks)
    group.deliver((1, 2))
    leader.read_index(7)
    group.nodes[1].drain()
    group.deliver((2, 1))
    assert group.nodes[1].reads == []


def test_refusal_confirms_a_round_too() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.propose(1)
    group.drop((1, 2))
    group.drop((1, 3))
    leader.read_index(7)
    group.nodes[1].drain()
    group.deliver((1, 2))
    group.deliver((2, 1))
    assert group.nodes[1].reads == [(7, 1)]


def test_lost_round_is_confirmed_by_a_later_one() -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.read_index(7)
    group.nodes[1].drain()
    group.wire.clear()
    group.settle()
    assert group.nodes[1].reads == [(7, 1)]


def test_new_leader_answers_no_read_before_its_first_commit() -> None:
    group = Group(3)
    group.cut(3)
    group[1].campaign()
    group.nodes[1].drain()
    for _ in range(2):
        group.deliver((1, 2))
        group.deliver((2, 1))
    leader = group[1]
    assert group.role(1) is Role.LEADER
    assert not leader.is_leader_ready
    leader.read_index(7)
    leader.step(AppendReply(sender=2, to=1, term=1, match_index=0, context=1))
    group.nodes[1].drain()
    assert group.nodes[1].reads == []
    group.deliver_all()
    assert leader.is_leader_ready
    assert group.nodes[1].reads == [(7, 1)]


def test_deposed_leader_confirms_nothing() -> None:
    group = Group(3)
    group.elect(1)
    group.cut(1)
    group[1].read_index(7)
    for me in (2, 3):
        group[me].leader_unreachable()
    group[2].campaign()
    group.deliver_all()
    group.heal()
    group.settle()
    group.settle()
    assert group.role(1) is Role.FOLLOWER
    assert group.nodes[1].reads == []
    with pytest.raises(NotLeaderError):
        group[1].read_index(8)


def test_learners_do_not_confirm_reads() -> None:
    group = Group(2, learners=2)
    leader = group.elect(1)
    group.cut(2)
    leader.read_index(7)
    group.deliver_all()
    assert group.nodes[1].reads == []


def test_lease_answers_reads_without_messages() -> None:
    group = Group(3, settings=LEASE)
    leader = group.elect(1)
    assert leader.has_lease
    leader.read_index(7)
    group.nodes[1].drain()
    assert group.nodes[1].reads == [(7, 1)]
    assert group.wire == []


def test_lease_ends_by_itself_before_the_followers_promise() -> None:
    group = Group(3, settings=LEASE)
    leader = group.elect(1)  # the last round began and was confirmed at the newest tick
    group.cut(1)
    group.tick(1, LEASE_TICKS - 1)
    assert leader.has_lease
    group.tick(1)
    assert not leader.has_lease
    for me in (2, 3):
        group[me].leader_unreachable()
        group[me].campaign()
        assert group.role(me) is Role.FOLLOWER


def test_lease_counts_from_when_its_round_began() -> None:
    group = Group(3, settings=LEASE)
    leader = group.elect(1)
    group.cut(3)
    group.tick(1, 2)
    late = [m for m in group.take((1, 2)) if isinstance(m, Append)]
    group.drop((1, 2))
    group.tick(1, LEASE_TICKS)
    assert not leader.has_lease
    group.send(late[-1])  # answers arrive, of a round that began LEASE_TICKS ago
    group.deliver((2, 1))
    assert not leader.has_lease


def test_new_leader_has_no_lease_before_its_first_commit() -> None:
    group = Group(3, settings=LEASE)
    group.cut(3)
    group[1].campaign()
    group.nodes[1].drain()
    for _ in range(2):
        group.deliver((1, 2))
        group.deliver((2, 1))
    group[1].step(AppendReply(sender=2, to=1, term=1, match_index=0, context=1))
    assert group.role(1) is Role.LEADER
    assert not group[1].has_lease
    group.settle()
    assert group[1].has_lease


def test_late_answer_does_not_take_back_an_answer_to_a_newer_round() -> None:
    group = Group(5)
    leader = group.elect(1)
    leader.read_index(7)
    group.nodes[1].drain()
    context = max(message.context for message in group.wire if isinstance(message, Append))
    group.wire.clear()
    new = AppendReply(sender=2, to=1, term=1, match_index=1, context=context)
    for reply in (new, replace(new, context=context - 1), replace(new, sender=3)):
        assert group.nodes[1].reads == []
        group.send(reply)
    assert group.nodes[1].reads == [(7, 1)]


def test_there_is_no_lease_unless_the_followers_promise_it() -> None:
    group = Group(3)
    assert not group.elect(1).has_lease


def test_restarted_follower_keeps_the_promise_it_may_have_given() -> None:
    group = Group(3, settings=LEASE)
    group.elect(1)
    group.nodes[2].crash()
    group.nodes[2].restart()
    group[2].campaign()
    assert group.role(2) is Role.FOLLOWER
    group[3].leader_unreachable()
    group.tick(3, 2 * LEASE.election_ticks)  # its leader is silent
    group.deliver((3, 2))
    assert not [m for m in group.wire if m.sender == 2]
    group.tick(2, LEASE.election_ticks)
    group[2].campaign()
    assert group.role(2) is Role.PRE_CANDIDATE


def test_transfer_ends_the_lease_for_the_whole_term() -> None:
    group = Group(3, settings=LEASE)
    leader = group.elect(1)
    leader.transfer(2)
    group.nodes[1].drain()
    group.wire.clear()  # nobody can know whether the message to take over was lost
    group.cut(2)
    group.pass_time(2 * LEASE.election_ticks)
    assert group.role(1) is Role.LEADER
    assert not leader.has_lease


def test_rest_ends_the_lease_until_ticks_come_again() -> None:
    group = Group(3, settings=LEASE)
    leader = group.elect(1)
    leader.rest()
    assert not leader.has_lease
    leader.read_index(7)
    group.deliver_all()
    assert group.nodes[1].reads == [(7, 1)]  # by a round
    assert not leader.has_lease
    group.settle()
    assert leader.has_lease
