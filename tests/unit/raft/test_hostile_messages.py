"""No message can make the core raise, forget a vote, or change what is committed.

One member gets messages that no sound peer would send, at random among its own calls. What its
Readys ask for must still fit together: the log of the test asserts it.
"""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from unit.raft.group import Group, Node

from raft.errors import RaftError
from raft.messages import (
    Append,
    AppendReply,
    Message,
    Restore,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raft.settings import RaftSettings
from raft.types import TERM_MAX, Config, Entry, Role, Snapshot

ME = 1
MEMBERS = st.integers(0, 5)
TERMS = st.one_of(st.integers(0, 6), st.sampled_from([-1, 2**62, 2**64]))
INDICES = st.one_of(st.integers(0, 12), st.sampled_from([-1, 2**40]))
CONFIGS = st.builds(
    lambda voters, learners: Config(voters, learners - voters),
    st.frozensets(st.integers(1, 4), max_size=3),
    st.frozensets(st.integers(1, 4), max_size=3),
)
ENTRIES = st.lists(
    st.builds(Entry, INDICES, TERMS, st.integers(-1, 9), st.none(), st.one_of(st.none(), CONFIGS)),
    max_size=3,
).map(tuple)
HEAD = {"sender": MEMBERS, "to": st.sampled_from([ME, ME, ME, ME, 2]), "term": TERMS}
RESTORES = st.builds(
    Restore, **HEAD, snapshot=st.builds(Snapshot, INDICES, TERMS, CONFIGS, st.none())
)
APPENDS = st.builds(
    Append,
    **HEAD,
    prev_index=INDICES,
    prev_term=TERMS,
    entries=ENTRIES,
    commit=INDICES,
    context=INDICES,
)
REPLIES = st.builds(
    AppendReply,
    **HEAD,
    match_index=INDICES,
    context=INDICES,
    rejected=st.booleans(),
    hint_index=INDICES,
    hint_term=TERMS,
)
VOTES = st.builds(VoteReply, **HEAD, is_pre=st.booleans(), granted=st.booleans())
VOTE_REQUESTS = st.builds(
    VoteRequest,
    **HEAD,
    last_index=INDICES,
    last_term=TERMS,
    is_pre=st.booleans(),
    is_transfer=st.booleans(),
)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    APPENDS, REPLIES, VOTES, VOTE_REQUESTS, RESTORES, st.builds(TimeoutNow, **HEAD)
)


class _OneAmongHostiles(RuleBasedStateMachine):
    """A member that is sound, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.term = self.commit = 0
        self.votes: dict[int, int] = {}
        self.committed: dict[int, int] = {}

    @initialize(lease_reads=st.booleans(), voters=st.integers(1, 3))
    def begin(self, lease_reads: bool, voters: int) -> None:
        settings = RaftSettings(
            lease_reads=lease_reads, inflight_messages_max=2, append_bytes_max=10
        )
        self.group = Group(voters, learners=1, settings=settings)

    @property
    def node(self) -> Node:
        return self.group.nodes[ME]

    @rule(message=MESSAGES)
    def receive(self, message: Message) -> None:
        self.node.raft.step(message)

    @rule(message=APPENDS, term=st.integers(0, 2), last=st.integers(0, 2))
    def receive_an_append_that_fits(self, message: Append, term: int, last: int) -> None:
        raft = self.node.raft
        index = max(0, raft.last_index - last)
        entries = tuple(
            Entry(index + 1 + i, raft.term + term, 1, config=entry.config)
            for i, entry in enumerate(message.entries)
        )
        raft.step(
            replace(
                message,
                sender=message.sender or 2,
                term=raft.term + term,
                prev_index=index,
                prev_term=raft.term_at(index) or 0,
                entries=entries,
            )
        )

    @rule(sender=st.integers(2, 4))
    def win(self, sender: int) -> None:
        raft = self.node.raft
        raft.campaign()
        for is_pre in (True, False):
            self.node.drain()
            term = raft.term + is_pre
            raft.step(VoteReply(sender=sender, to=ME, term=term, is_pre=is_pre, granted=True))

    @rule(sender=st.integers(2, 4), behind=st.integers(0, 3))
    def acknowledge(self, sender: int, behind: int) -> None:
        raft = self.node.raft
        match = max(0, raft.last_index - behind)
        raft.step(AppendReply(sender=sender, to=ME, term=raft.term, match_index=match))

    @rule(context=st.integers(1, 9), to=MEMBERS, config=CONFIGS)
    def call(self, context: int, to: int, config: Config) -> None:
        raft = self.node.raft
        for call in (
            lambda: raft.propose(context, "ref"),
            lambda: raft.read_index(context),
            lambda: raft.propose_config(config),
            lambda: raft.transfer(to),
        ):
            try:
                call()
            except RaftError:
                assert raft.role is not Role.LEADER or raft.config.voters

    @rule(count=st.integers(1, 25))
    def tick(self, count: int) -> None:
        self.group.tick(ME, count)

    @rule()
    def hint(self) -> None:
        self.node.raft.leader_unreachable()
        self.node.raft.peer_unreachable(2)
        self.node.raft.entries_available()

    @rule(is_slow=st.booleans())
    def change_disk(self, is_slow: bool) -> None:
        self.node.is_disk_slow = is_slow
        self.node.drain()
        self.node.persist()

    @rule()
    def trim(self) -> None:
        self.node.drain()
        self.node.persist()
        raft = self.node.raft
        if raft.start_index < raft.commit_index < 100:
            self.node.trim(raft.commit_index)

    @rule()
    def restart(self) -> None:
        self.node.drain()
        self.node.crash()
        self.node.restart()
        self.term = self.node.raft.term
        self.commit = 0  # is learned anew; a hostile leader may teach it anything else
        self.committed.clear()

    @invariant()
    def nothing_is_taken_back(self) -> None:
        self.node.drain()
        raft = self.node.raft
        assert self.term <= raft.term < TERM_MAX
        assert self.commit <= raft.commit_index <= raft.last_index
        self.term, self.commit = raft.term, raft.commit_index
        assert raft.term_at(raft.last_index) == raft.last_term <= raft.term
        assert self.node.log.last_index == raft.last_index
        if not self.node.pending:
            if raft.vote:
                assert self.votes.setdefault(raft.term, raft.vote) == raft.vote
            for index in range(raft.start_index + 1, min(raft.commit_index, 100) + 1):
                term = raft.term_at(index) or 0
                assert self.committed.setdefault(index, term) == term


TestOneAmongHostiles = _OneAmongHostiles.TestCase
TestOneAmongHostiles.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize(
    "message",
    [
        TimeoutNow(sender=2, to=3, term=1),  # not for us
        TimeoutNow(sender=1, to=1, term=1),  # from ourselves
        TimeoutNow(sender=0, to=1, term=1),  # from nobody
        TimeoutNow(sender=2, to=1, term=0),
        TimeoutNow(sender=2, to=1, term=TERM_MAX),
        VoteReply(sender=9, to=1, term=1, is_pre=False, granted=True),  # not of the group
        AppendReply(sender=9, to=1, term=1, match_index=1),
        AppendReply(sender=2, to=1, term=1, match_index=99),
        AppendReply(sender=2, to=1, term=1, match_index=-1),
        AppendReply(sender=2, to=1, term=1, match_index=1, context=99),
        Append(sender=2, to=1, term=1, prev_index=1, prev_term=1, commit=1),  # a second leader
    ],
)
def test_message_that_no_sound_peer_sends_is_counted_and_ignored(message: Message) -> None:
    group = Group(3)
    leader = group.elect(1)
    leader.step(message)
    group.deliver_all()
    assert leader.refused_messages == 1
    assert (leader.role, leader.term, leader.commit_index) == (Role.LEADER, 1, 1)
    assert group.wire == []


@pytest.mark.parametrize(
    "entries",
    [
        (Entry(3, 1, 1),),  # a gap
        (Entry(2, 1, 1), Entry(2, 1, 1)),
        (Entry(2, 2, 1),),  # of a term yet to come
        (Entry(2, 0, 1),),
        (Entry(2, 1, -1),),
    ],
)
def test_entries_that_cannot_be_are_counted_and_ignored(entries: tuple[Entry, ...]) -> None:
    group = Group(3)
    group.elect(1)
    group.send(Append(sender=1, to=2, term=1, prev_index=1, prev_term=1, entries=entries, commit=1))
    assert group[2].refused_messages == 1
    assert group[2].last_index == 1


def test_refusal_never_points_before_what_is_committed() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, 4)
    group.settle()
    group.nodes[2].trim(3)
    group.send(Append(sender=1, to=2, term=1, prev_index=9, prev_term=0, commit=9))
    refusal = group.wire[-1]
    assert isinstance(refusal, AppendReply)
    assert (refusal.hint_index, refusal.hint_term) == (5, 1)


def test_restore_of_a_term_that_cannot_be_is_counted_and_ignored() -> None:
    group = Group(3)
    group.elect(1)
    for term in (0, 2):
        snapshot = Snapshot(9, term, group[2].config)
        group.send(Restore(sender=1, to=2, term=1, snapshot=snapshot))
    assert group[2].refused_messages == 2
    assert group[2].last_index == 1


def test_second_leader_of_a_term_is_not_followed() -> None:
    group = Group(3)
    group.elect(1)
    group.send(Append(sender=3, to=2, term=1, prev_index=1, prev_term=1, commit=1))
    assert group[2].leader == 1
    assert group[2].refused_messages == 1
