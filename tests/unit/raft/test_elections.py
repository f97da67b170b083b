"""Claims about elections: sections 5.1, 5.2 and 5.4.1 of the paper, 4.2.3, 6.2, 9.6 and 3.10 of the
dissertation.

In scope: who votes for whom and when, terms, pre-votes, check-quorum, transfer. The order of single
messages is told by the transcripts of tests/scenarios/raft.
"""

import pytest
from unit.raft.group import Group

from raft.errors import BusyError, ConfigRefusedError, NotLeaderError
from raft.messages import Append, TimeoutNow, VoteReply, VoteRequest
from raft.settings import RaftSettings
from raft.types import HardState, Role


def vote_request(to: int, term: int, **changes: int | bool) -> VoteRequest:
    """A request of member 2, with an empty log."""
    fields = {"last_index": 0, "last_term": 0, **changes}
    return VoteRequest(sender=2, to=to, term=term, **fields)  # type: ignore[arg-type]  # flags too


def answers(group: Group, me: int) -> list[VoteReply]:
    """What a member has answered to vote requests."""
    group.nodes[me].drain()
    sent = [m for m in group.wire if isinstance(m, VoteReply) and m.sender == me]
    group.wire.clear()
    return sent


def test_members_start_as_followers_of_nobody() -> None:
    group = Group(3)
    assert {node.raft.role for node in group.nodes.values()} == {Role.FOLLOWER}
    assert group[1].leader == 0
    assert group[1].term == 0


def test_follower_that_hears_nothing_starts_an_election() -> None:
    group = Group(3)
    group.pass_time(group.settings.election_ticks)
    assert group.leaders() == [1]  # its timeout is the shortest
    assert [group[me].term for me in (1, 2, 3)] == [1, 1, 1]


def test_follower_that_hears_heartbeats_starts_none() -> None:
    group = Group(3)
    group.elect(1)
    group.pass_time(10 * group.settings.election_ticks)
    assert group.leaders() == [1]
    assert group[2].term == 1


def test_candidate_wins_with_the_votes_of_a_majority() -> None:
    group = Group(5)
    group.cut(4, 5)
    group.elect(1)
    assert group.role(1) is Role.LEADER


def test_candidate_without_a_majority_stays_one_and_tries_again() -> None:
    group = Group(5)
    group.cut(3, 4, 5)
    group.pass_time(5 * group.settings.election_ticks)
    assert group.leaders() == []
    group.heal()
    group.pass_time(2 * group.settings.election_ticks)
    assert len(group.leaders()) == 1


def test_member_votes_once_in_a_term_and_repeats_its_vote() -> None:
    group = Group(3)
    group[1].step(vote_request(1, 5))
    assert [reply.granted for reply in answers(group, 1)] == [True]
    group[1].step(VoteRequest(sender=3, to=1, term=5, last_index=0, last_term=0))
    assert [reply.granted for reply in answers(group, 1)] == [False]
    group[1].step(vote_request(1, 5))
    assert [reply.granted for reply in answers(group, 1)] == [True]


def test_follower_of_a_leader_gives_no_vote_in_its_term() -> None:
    group = Group(3)
    group.send(Append(sender=3, to=1, term=4, prev_index=0, prev_term=0, commit=0))
    answers(group, 1)
    group[1].step(vote_request(1, 4))
    assert [reply.granted for reply in answers(group, 1)] == [False]
    assert group[1].leader == 3


def test_pre_vote_for_a_term_that_is_not_new_is_refused() -> None:
    group = Group(3)
    group.send(vote_request(1, 5))
    answers(group, 1)
    group[1].step(vote_request(1, 5, is_pre=True))
    assert [reply.granted for reply in answers(group, 1)] == [False]


def test_older_write_does_not_make_the_candidates_vote_durable() -> None:
    group = Group(1)
    group.nodes[1].is_disk_slow = True
    group.send(Append(sender=2, to=1, term=1, prev_index=0, prev_term=0, commit=0))
    group[1].campaign()
    group.nodes[1].drain()
    group.nodes[1].persist(1)
    assert group.role(1) is Role.CANDIDATE
    group.nodes[1].persist(1)
    assert group.role(1) is Role.LEADER


def test_vote_survives_a_crash() -> None:
    group = Group(3)
    group.send(vote_request(1, 5))
    group.nodes[1].crash()
    group.nodes[1].restart()
    assert (group[1].term, group[1].vote) == (5, 2)
    answers(group, 1)
    group[1].step(VoteRequest(sender=3, to=1, term=5, last_index=0, last_term=0))
    assert [reply.granted for reply in answers(group, 1)] == [False]


def test_vote_is_not_sent_before_it_is_durable() -> None:
    group = Group(3)
    group.nodes[1].is_disk_slow = True
    group.send(vote_request(1, 5))
    assert group.wire == []
    group.nodes[1].persist()
    assert [reply.granted for reply in answers(group, 1)] == [True]


def test_candidate_counts_its_own_vote_only_when_it_is_durable() -> None:
    group = Group(1)
    group.nodes[1].is_disk_slow = True
    group[1].campaign()
    group.nodes[1].drain()
    assert group.role(1) is Role.CANDIDATE
    group.nodes[1].persist()
    assert group.role(1) is Role.LEADER


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [(1, 1, False), (3, 1, True), (4, 1, True), (1, 2, True), (9, 0, False)],
)
def test_vote_goes_only_to_a_log_that_is_as_up_to_date(
    last_index: int, last_term: int, granted: bool
) -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, 2)  # entry 3 of term 1 is the last
    group.settle()
    for is_pre in (True, False):
        group[3].leader_unreachable()
        request = vote_request(3, 7, last_index=last_index, last_term=last_term, is_pre=is_pre)
        group[3].step(request)
        assert [reply.granted for reply in answers(group, 3)] == [granted]


def test_leader_or_candidate_of_an_older_term_becomes_a_follower() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.send(Append(sender=2, to=1, term=4, prev_index=0, prev_term=0, commit=0))
    assert (leader.role, leader.term, leader.leader) == (Role.FOLLOWER, 4, 2)


def test_candidate_follows_the_leader_of_its_term() -> None:
    group = Group(3)
    group.cut(3)
    group[1].campaign()
    group.nodes[1].drain()
    group.deliver((1, 2))
    group.deliver((2, 1))
    assert group.role(1) is Role.CANDIDATE
    group.send(Append(sender=2, to=1, term=1, prev_index=0, prev_term=0, commit=0))
    assert (group[1].role, group[1].leader) == (Role.FOLLOWER, 2)


def test_message_of_an_older_term_changes_nothing_but_is_answered() -> None:
    group = Group(3)
    group.send(vote_request(1, 5))
    group.wire.clear()
    group.send(Append(sender=3, to=1, term=4, prev_index=0, prev_term=0, commit=0))
    group.send(vote_request(1, 3))
    assert (group[1].term, group[1].vote, group[1].leader) == (5, 2, 0)
    assert [message.term for message in group.wire] == [5, 5]


def test_pre_vote_raises_nobodys_term_and_promises_nothing() -> None:
    group = Group(3)
    group.send(vote_request(1, 9, is_pre=True))
    assert [(reply.granted, reply.term) for reply in answers(group, 1)] == [(True, 9)]
    group.send(VoteRequest(sender=3, to=1, term=9, last_index=0, last_term=0, is_pre=True))
    assert [reply.granted for reply in answers(group, 1)] == [True]
    assert (group[1].term, group[1].vote) == (0, 0)


def test_grants_of_an_older_pre_vote_do_not_count() -> None:
    group = Group(3)
    group.send(vote_request(1, 5))  # goes to term 5
    group[1].campaign()
    for term in (5, 7):
        group[1].step(VoteReply(sender=2, to=1, term=term, is_pre=True, granted=True))
        assert group.role(1) is Role.PRE_CANDIDATE
    group[1].step(VoteReply(sender=2, to=1, term=6, is_pre=True, granted=True))
    assert group.role(1) is Role.CANDIDATE


def test_members_that_hear_from_a_leader_ignore_candidates() -> None:
    group = Group(3)
    group.elect(1)
    for to in (1, 3):
        for is_pre in (True, False):
            group.send(vote_request(to, 9, last_index=9, last_term=1, is_pre=is_pre))
            assert answers(group, to) == []
            assert group[to].term == 1
    group.send(vote_request(3, 9, last_index=9, last_term=1, is_transfer=True))
    assert [reply.granted for reply in answers(group, 3)] == [True]


def test_leader_that_hears_from_no_majority_steps_down() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.cut(1)
    group.pass_time(group.settings.election_ticks - 2)
    assert group.role(1) is Role.LEADER
    group.pass_time(2)
    assert group.role(1) is Role.FOLLOWER
    with pytest.raises(NotLeaderError) as refused:
        leader.propose(1, None)
    assert refused.value.leader == 0


def test_leader_that_hears_from_a_bare_majority_stays() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.cut(2)
    group.pass_time(5 * group.settings.election_ticks)
    assert group.role(1) is Role.LEADER
    assert [known.is_active for known in leader.progress().values()] == [False, True]


def test_learner_and_empty_replica_never_campaign() -> None:
    group = Group(1, learners=1)
    group.add(3)
    for me in (2, 3):
        group[me].campaign()
        group.tick(me, 100)
        assert group.role(me) is Role.FOLLOWER
    assert group.wire == []


def test_follower_told_of_a_broken_connection_campaigns_within_few_ticks() -> None:
    group = Group(3)
    group.elect(1)
    group.nodes[1].crash()
    for me in (2, 3):
        group[me].leader_unreachable()
        assert group[me].leader == 0
    group.pass_time(group.settings.hurry_ticks)
    assert group.leaders() == [1, 2]  # 1 is down, and was the leader when it went


def test_leader_found_again_ends_the_hurry() -> None:
    group = Group(3)
    group.elect(1)
    group[2].leader_unreachable()
    group.tick(1, 2)
    group.deliver_all()
    group.tick(2, group.settings.election_ticks - 1)
    assert (group[2].role, group[2].leader) == (Role.FOLLOWER, 1)


def test_target_of_a_transfer_takes_over_when_it_has_everything() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.propose(1)
    leader.transfer(3)
    group.nodes[1].drain()
    assert not [message for message in group.wire if isinstance(message, TimeoutNow)]
    group.deliver_all()
    assert group.leaders() == [3]
    assert group[3].term_at(2) == 1


def test_leader_takes_no_proposals_during_a_transfer() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.cut(3)
    group.propose(1)
    leader.transfer(3)
    with pytest.raises(BusyError):
        leader.propose(1, None)
    with pytest.raises(BusyError):
        leader.propose_config(leader.config)
    group.pass_time(group.settings.election_ticks)
    assert group.propose(1) == [3]


def test_transfer_goes_to_voters_only_and_to_ourselves_is_done() -> None:
    group = Group(2, learners=1)
    leader = group.elect(1)
    for to in (3, 9):
        with pytest.raises(ConfigRefusedError):
            leader.transfer(to)
    leader.transfer(1)
    assert group.propose(1) == [2]


def test_only_the_leader_can_make_a_member_campaign() -> None:
    group = Group(3)
    group.elect(1)
    group.send(TimeoutNow(sender=3, to=2, term=1))
    assert group.role(2) is Role.FOLLOWER
    assert group[2].refused_messages == 1
    group.send(TimeoutNow(sender=1, to=2, term=1))
    assert group.role(2) is Role.CANDIDATE


def test_campaign_of_a_leader_is_nothing() -> None:
    group = Group(1)
    leader = group.elect(1)
    leader.campaign()
    assert group.role(1) is Role.LEADER


def test_restart_keeps_the_term_and_needs_an_election() -> None:
    group = Group(3)
    group.elect(1)
    group.nodes[1].crash()
    group.nodes[1].restart()
    assert (group[1].role, group[1].term) == (Role.FOLLOWER, 1)
    assert group.nodes[1].disk.hard_state == HardState(1, 1)


def test_randomised_timeouts_lie_between_one_and_two_election_timeouts() -> None:
    settings = RaftSettings(election_ticks=4, heartbeat_ticks=1, hurry_ticks=1, lease_drift_ticks=1)
    group = Group(3, settings=settings)
    group.tick(1, 3)
    assert group.role(1) is Role.FOLLOWER
    group.tick(1)
    assert group.role(1) is Role.PRE_CANDIDATE


def test_two_that_ask_at_the_same_time_do_not_get_in_each_others_way() -> None:
    group = Group(3)
    group.cut(3)
    group[1].campaign()
    group[2].campaign()
    group.settle()
    assert group.leaders() == [2]


def test_the_longer_log_goes_first_of_two_that_ask_at_the_same_time() -> None:
    group = Group(3)
    group.elect(3)
    group.cut(2)
    group.propose(3, 1)
    group.settle()
    group.heal()
    group.cut(3)
    for member in (1, 2):
        group[member].leader_unreachable()
        group[member].campaign()
    group.settle()
    assert (group.role(1), group.role(2)) == (Role.LEADER, Role.FOLLOWER)
