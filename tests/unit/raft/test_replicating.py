"""Claims about the log: section 5.3, 5.4 and 7 of the paper, and how we send ahead.

In scope: what is appended, acknowledged, committed, overwritten, restored; limits on what is sent.
"""

from dataclasses import replace

import pytest
from unit.raft.group import Group

from raft.errors import BusyError, NotLeaderError
from raft.messages import Append, AppendReply, Restore
from raft.progress import PeerState
from raft.settings import RaftSettings
from raft.types import Config, Entry, Snapshot

OF_TWO = Config(frozenset({1, 2}))


def append(to: int, **fields: object) -> Append:
    """An Append of member 1 in term 1 to a member with an empty log."""
    sound: dict[str, object] = {
        "sender": 1,
        "term": 1,
        "prev_index": 0,
        "prev_term": 0,
        "commit": 0,
    }
    return Append(to=to, **{**sound, **fields})  # type: ignore[arg-type]  # each test names them


def entries(first: int, *terms: int) -> tuple[Entry, ...]:
    """Entries of these terms, one after the other."""
    return tuple(Entry(index, term, 1) for index, term in enumerate(terms, first))


def replies(group: Group, me: int) -> list[AppendReply]:
    """What a member has answered since the last time."""
    group.nodes[me].drain()
    sent = [m for m in group.wire if isinstance(m, AppendReply) and m.sender == me]
    group.wire.clear()
    return sent


def test_leader_begins_its_term_with_an_empty_entry() -> None:
    group = Group(3)
    group.elect(1)
    assert group.nodes[3].log.entries_after == [Entry(1, 1, 0)]


def test_entry_is_committed_when_a_majority_has_it() -> None:
    group = Group(5)
    leader = group.elect(1)
    group.cut(4, 5)
    group.propose(1)
    group.deliver((1, 2))
    group.deliver((2, 1))
    assert leader.commit_index == 1
    group.deliver((1, 3))
    group.deliver((3, 1))
    assert leader.commit_index == 2


def test_leaders_own_disk_counts_only_when_it_is_done() -> None:
    group = Group(2)
    leader = group.elect(1)
    group.nodes[1].is_disk_slow = True
    group.propose(1)
    group.deliver_all()
    assert leader.commit_index == 1
    group.nodes[1].persist()
    assert leader.commit_index == 2


def test_followers_alone_commit_while_the_leaders_disk_works() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.nodes[1].is_disk_slow = True
    group.propose(1)
    group.deliver_all()
    assert leader.commit_index == 2
    assert group.nodes[1].disk.last_index == 1


def test_followers_learn_of_a_commit_with_the_next_message() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1)
    group.deliver_all()
    assert group[2].commit_index == 1
    group.tick(1)
    group.deliver_all()
    assert [group[me].commit_index for me in (1, 2, 3)] == [2, 2, 2]


def test_entries_of_an_older_term_are_not_committed_by_counting() -> None:
    group = Group(3, settings=RaftSettings(append_bytes_max=1))  # an entry a message
    group.elect(1)
    group.cut(3)
    group.propose(1, size_bytes=5)
    group.deliver((1, 2))
    group.cut(1)  # nobody learns that 2 has entry 2
    group.heal()
    group.nodes[1].crash()
    for me in (2, 3):
        group[me].leader_unreachable()
    group[2].campaign()
    group.nodes[2].drain()
    for _ in range(3):  # pre-vote, vote, and the refusal of what follows entry 2
        group.deliver((2, 3))
        group.deliver((3, 2))
    group.deliver((2, 3))
    group.deliver((3, 2))
    assert group[2].progress()[3].match_index == 2  # entry 2, of term 1, is on a majority
    assert group[2].commit_index == 1
    group.deliver_all()
    assert group[2].commit_index == 3


def test_follower_refuses_entries_that_do_not_follow_its_own() -> None:
    group = Group(2)
    group.send(append(2, entries=entries(1, 1, 1)))
    group.wire.clear()
    group.send(append(2, prev_index=5, prev_term=1, entries=entries(6, 1)))
    group.send(append(2, term=3, prev_index=2, prev_term=3, entries=entries(3, 3)))
    assert [(r.rejected, r.hint_index, r.hint_term) for r in replies(group, 2)] == [
        (True, 2, 1),
        (True, 1, 1),
    ]
    assert group[2].last_index == 2


@pytest.mark.parametrize(
    ("new", "terms_after"),
    [
        (entries(2, 1), [1, 1, 1]),  # known: what follows it stays
        (entries(2, 1, 1, 1), [1, 1, 1, 1]),
        (entries(2, 2), [1, 2]),
        (entries(3, 2, 2), [1, 1, 2, 2]),
        (entries(4, 2), [1, 1, 1, 2]),
        ((), [1, 1, 1]),
    ],
)
def test_follower_cuts_at_the_first_entry_that_differs(
    new: tuple[Entry, ...], terms_after: list[int]
) -> None:
    group = Group(2)
    group.send(append(2, entries=entries(1, 1, 1, 1)))
    prev_index = new[0].index - 1 if new else 1
    group.send(append(2, term=2, prev_index=prev_index, prev_term=1, entries=new))
    assert group.nodes[2].terms == terms_after


def test_repeated_append_changes_nothing() -> None:
    group = Group(2)
    message = append(2, entries=entries(1, 1, 1))
    group.send(message)
    group.send(message)
    assert group.nodes[2].terms == [1, 1]
    assert [reply.match_index for reply in replies(group, 2)] == [2, 2]


def test_follower_commits_no_further_than_what_it_shares_with_the_leader() -> None:
    group = Group(2)
    group.send(append(2, entries=entries(1, 1, 1, 1), commit=99))
    assert group[2].commit_index == 3
    group.send(append(2, term=2, prev_index=3, prev_term=1, entries=entries(4, 2), commit=1))
    assert group[2].commit_index == 3
    group.send(append(2, term=2, prev_index=3, prev_term=1, commit=99))
    assert group[2].commit_index == 3


def test_follower_acknowledges_only_what_is_durable() -> None:
    group = Group(2)
    group.nodes[2].is_disk_slow = True
    group.send(append(2, entries=entries(1, 1)))
    group.send(append(2, prev_index=1, prev_term=1, entries=entries(2, 1)))
    assert replies(group, 2) == []
    group.nodes[2].persist(1)
    assert [reply.match_index for reply in replies(group, 2)] == [1]
    group.send(append(2, prev_index=2, prev_term=1))
    assert [reply.match_index for reply in replies(group, 2)] == [1]
    group.nodes[2].persist()
    assert [reply.match_index for reply in replies(group, 2)] == [2]


def test_appends_between_two_readys_are_acknowledged_once() -> None:
    group = Group(2)
    for index in (0, 1, 2):
        group[2].step(
            append(2, prev_index=index, prev_term=index and 1, entries=entries(index + 1, 1))
        )
    assert [reply.match_index for reply in replies(group, 2)] == [3]


def test_acknowledgement_of_an_older_term_is_not_sent_after_a_newer_one() -> None:
    group = Group(2)
    group[2].step(append(2, entries=entries(1, 1, 1)))
    group[2].step(append(2, term=2, entries=entries(1, 2)))
    assert [(reply.term, reply.match_index) for reply in replies(group, 2)] == [(2, 1)]


def test_smaller_acknowledgement_does_not_replace_a_larger_one() -> None:
    group = Group(2)
    group[2].step(append(2, entries=entries(1, 1, 1, 1)))
    group[2].step(append(2, entries=entries(1, 1)))
    assert max(reply.match_index for reply in replies(group, 2)) == 3


def test_what_was_cut_does_not_become_durable_when_the_old_write_is_done() -> None:
    group = Group(2)
    node = group.nodes[2]
    node.is_disk_slow = True
    group.send(append(2, entries=entries(1, 1, 1, 1)))
    group.send(append(2, term=2, prev_index=1, prev_term=1, entries=entries(2, 2)))
    node.persist(1)
    group.wire.clear()
    group.send(append(2, term=2, prev_index=2, prev_term=2))
    node.persist()
    assert [reply.match_index for reply in replies(group, 2)] == [2, 1]


def test_lost_append_is_found_by_the_next_heartbeat() -> None:
    group = Group(2)
    leader = group.elect(1)
    group.propose(1)
    group.drop((1, 2))
    assert group[2].last_index == 1
    group.tick(1, group.settings.heartbeat_ticks)
    group.deliver_all()
    assert group[2].last_index == 2
    assert leader.commit_index == 2


def test_refusals_skip_whole_terms() -> None:
    group = Group(2)
    for term in range(1, 6):
        first = (term - 1) * 10
        ten = entries(first + 1, *([term] * 10))
        group.send(append(2, term=term, prev_index=first, prev_term=term - 1, entries=ten))
    replies(group, 2)
    group.send(append(2, term=9, prev_index=60, prev_term=3))
    group.send(append(2, term=9, prev_index=45, prev_term=3))
    assert [(r.hint_index, r.hint_term) for r in replies(group, 2)] == [(30, 3), (30, 3)]


def test_peer_that_is_unreachable_gets_heartbeats_only() -> None:
    group = Group(2)
    leader = group.elect(1)
    group.propose(1)
    leader.peer_unreachable(2)
    leader.peer_unreachable(9)  # nobody
    assert leader.progress()[2].state is PeerState.PROBE
    group.wire.clear()
    group.propose(1)
    assert group.wire == []
    group.settle()
    assert leader.progress()[2].match_index == 3


def test_in_flight_messages_are_limited_by_number() -> None:
    group = Group(2, settings=RaftSettings(inflight_messages_max=3))
    group.elect(1)
    group.propose(1, 10)
    assert len(group.wire) == 3
    group.deliver_all()
    assert group[1].commit_index == 11


def test_what_was_in_flight_to_an_unreachable_peer_does_not_count_any_more() -> None:
    group = Group(2, settings=RaftSettings(inflight_messages_max=3))
    leader = group.elect(1)
    group.propose(1, 5)
    group.drop((1, 2))
    leader.peer_unreachable(2)
    group.settle()
    assert leader.commit_index == 6


def test_in_flight_messages_are_limited_by_bytes() -> None:
    group = Group(2, settings=RaftSettings(inflight_bytes_max=100))
    group.elect(1)
    group.propose(1, 10, size_bytes=40)
    assert len(group.wire) == 3  # the one that reaches the limit is the last
    group.deliver_all()
    assert group[1].commit_index == 11


def test_uncommitted_bytes_are_limited_but_one_proposal_is_always_taken() -> None:
    group = Group(2, settings=RaftSettings(uncommitted_bytes_max=100))
    leader = group.elect(1)
    group.propose(1, size_bytes=1000)
    assert leader.uncommitted_bytes == 1000
    with pytest.raises(BusyError):
        leader.propose(1, None)
    group.deliver_all()
    assert leader.uncommitted_bytes == 0
    group.propose(1, 2, size_bytes=50)
    with pytest.raises(BusyError):
        leader.propose(1, None)


def test_follower_takes_no_proposals_and_names_the_leader() -> None:
    group = Group(2)
    group.elect(1)
    with pytest.raises(NotLeaderError) as refused:
        group[2].propose(1, None)
    assert refused.value.leader == 1


def test_peer_behind_the_start_is_restored() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.cut(3)
    group.propose(1, 5)
    group.settle()
    group.nodes[1].trim(4)
    assert (leader.term_at(3), leader.term_at(4), leader.start_index) == (None, 1, 4)
    group.heal()
    group.settle()
    group.settle()
    assert group[3].start_index == 4
    assert group[3].last_index == 6
    assert leader.progress()[3].state is PeerState.REPLICATE


def test_restore_is_ignored_by_a_member_that_has_as_much() -> None:
    group = Group(2)
    group.send(append(2, entries=entries(1, 1, 1, 1), commit=1))
    replies(group, 2)
    for index, commit in ((1, 1), (3, 3)):
        snapshot = Snapshot(index, 1, OF_TWO)
        group.send(Restore(sender=1, to=2, term=1, snapshot=snapshot))
        assert group.nodes[2].terms == [1, 1, 1]
        assert group[2].commit_index == commit
        assert [reply.match_index for reply in replies(group, 2)] == [commit]


def test_restore_throws_away_a_log_that_differs() -> None:
    group = Group(2)
    group.nodes[2].is_disk_slow = True
    group.send(append(2, entries=entries(1, 1, 1, 1)))
    config = Config(frozenset({1, 2}), frozenset({7}))
    group.send(Restore(sender=1, to=2, term=2, snapshot=Snapshot(2, 2, config, "state")))
    group.send(append(2, term=2, prev_index=2, prev_term=2, entries=entries(3, 2)))
    assert (group[2].start_index, group[2].last_index, group[2].config) == (2, 3, config)
    replies(group, 2)
    group.nodes[2].persist(1)  # what it wrote is not ours any more
    group.send(append(2, term=2, prev_index=3, prev_term=2))
    group.nodes[2].persist()
    assert [reply.match_index for reply in replies(group, 2)][1:] == [2, 3, 0]
    assert group.nodes[2].disk.start.ref == "state"


def test_log_view_that_has_nothing_at_hand_is_asked_again() -> None:
    group = Group(2)
    leader = group.elect(1)
    leader.peer_unreachable(2)
    group.propose(1, 3)
    group.nodes[1].log.is_at_hand = False
    group.settle()
    assert group[2].last_index == 1
    group.nodes[1].log.is_at_hand = True
    leader.entries_available()
    group.deliver_all()
    assert group[2].last_index == 4


def test_log_view_that_has_nothing_at_hand_is_asked_again_with_every_heartbeat() -> None:
    group = Group(2, settings=RaftSettings(inflight_messages_max=1))
    group.elect(1)
    group.propose(1, 3)  # the first is in flight; the others must be read again
    group.nodes[1].log.is_at_hand = False
    group.deliver_all()
    assert group[1].progress()[2].state is PeerState.REPLICATE
    group.nodes[1].log.is_at_hand = True
    group.settle()
    assert group[2].last_index == 4


def test_late_acknowledgement_does_not_end_a_restore() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.cut(3)
    group.propose(1, 5)
    group.settle()
    group.nodes[1].trim(4)
    group.heal()
    late = AppendReply(sender=3, to=1, term=1, match_index=1)
    group.send(replace(late, rejected=True, match_index=0, hint_index=1, hint_term=1))
    group.nodes[1].drain()
    assert leader.progress()[3].state is PeerState.RESTORE
    group.send(late)
    assert leader.progress()[3].state is PeerState.RESTORE
    group.send(replace(late, rejected=True, match_index=0, hint_index=1, hint_term=1))
    assert leader.progress()[3].state is PeerState.RESTORE
    group.send(replace(late, match_index=4))
    assert leader.progress()[3].state is PeerState.REPLICATE


def test_restore_survives_that_the_leader_trims_on() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.cut(3)
    group.propose(1, 5)
    group.settle()
    group.nodes[1].trim(4)
    leader.peer_unreachable(3)
    group.heal()
    group.tick(1, group.settings.heartbeat_ticks)
    group.deliver((1, 3))
    group.deliver((3, 1))
    group.nodes[1].trim(6)
    group.settle()
    group.settle()
    assert group[3].last_index == 6
    assert leader.progress()[3].match_index == 6


def test_group_may_rest_when_everybody_knows_everything() -> None:
    group = Group(3)
    leader = group.elect(1)
    assert all(node.raft.can_rest() for node in group.nodes.values())
    group.propose(1)
    group.deliver_all()
    assert not leader.can_rest()  # the followers do not know that it is committed
    assert not group[2].can_rest()
    group.settle()
    assert all(node.raft.can_rest() for node in group.nodes.values())
    leader.read_index(1)
    assert not leader.can_rest()


def test_group_that_rested_long_wakes_with_a_whole_timeout() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.tick(2, group.settings.election_ticks - 1)
    for me in (1, 2, 3):
        group[me].rest()
    group.tick(2, group.settings.election_ticks - 1)
    assert group[2].leader == 1
    group.propose(1)
    group.settle()
    assert group.leaders() == [1]
    assert leader.commit_index == 2


def test_rest_of_a_leader_begins_its_silence_anew() -> None:
    group = Group(3)
    leader = group.elect(1)
    group.cut(1)
    group.tick(1, group.settings.election_ticks - 1)
    leader.rest()
    group.tick(1, group.settings.election_ticks - 1)
    assert leader.is_leader_ready
    group.tick(1)
    assert not leader.is_leader_ready


def test_shells_mistakes_are_refused() -> None:
    group = Group(1)
    leader = group.elect(1)
    with pytest.raises(ValueError, match="no Ready"):
        leader.persisted(10_000)
    with pytest.raises(ValueError, match="must not be trimmed"):
        leader.trimmed(leader.last_index + 1)
