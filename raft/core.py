"""The consensus core: one member of one Raft group as a pure state machine.

Calls go in (`step`, `tick`, `propose`, ...), and `ready` says what the shell has to do about it;
when the shell's disk has done its part of a Ready, `persisted` says so. Nothing here waits, and
nothing happens between calls. The order of work that one `Ready` asks for:

    messages ──────────────────────────► send at once
    restore, entries, hard_state ──────► disk ──► persisted(number), and send messages_after

Several Readys may be on their way to the disk, in the order of their numbers.

Beyond the paper: pre-votes, check-quorum, learners, transfer of leadership, read index, and Readys
that overlap. The modules: `election`, `following` and `leading` hold the transitions of the roles,
`member` what they share; `raft_log`, `membership`, `progress`, `rounds`, `reads` and `quorum` know
one thing each.

No message of a peer can raise: what breaks the protocol is counted in `refused_messages` and
ignored. Assertions are about our own mistakes, and the shell's.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from . import election, following
from .errors import NotLeaderError
from .leading import Leadership
from .member import Member
from .messages import (
    Append,
    AppendReply,
    Message,
    Restore,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from .progress import PeerProgress
from .settings import RaftSettings
from .types import (
    NOBODY,
    TERM_MAX,
    Config,
    Entry,
    HardState,
    LogView,
    MemberId,
    Persisted,
    Role,
    Snapshot,
)


@dataclass(slots=True, kw_only=True)  # not frozen, as in messages.py
class Ready:
    """What the shell has to do now."""

    number: int
    hard_state: HardState | None
    """To be made durable."""
    restore: Snapshot | None
    """First of all: throw the whole log away, and start it after this."""
    entries: tuple[Entry, ...]
    """To be appended and made durable. If the first one's place is taken, cut there first."""
    messages: tuple[Message, ...]
    """May be sent at once: a leader's entries travel while its own disk works."""
    messages_after: tuple[Message, ...]
    """Only when all the above, and the Readys before, is durable: votes, acknowledgements."""
    commit_index: int
    """Entries up to it are committed, hence final; they may still be on their way to our disk."""
    reads: tuple[tuple[int, int], ...]
    """(context, index): this read may be answered from a state that includes `index`."""


class Raft:
    """One member of one group."""

    __slots__ = ("_commit_index_told", "_member")

    def __init__(
        self,
        me: MemberId,
        persisted: Persisted,
        log: LogView,
        settings: RaftSettings,
        rng: random.Random,
    ) -> None:
        self._member = Member(me, persisted, log, settings, rng)
        self._commit_index_told = self._member.log.commit_index

    def step(self, message: Message) -> None:
        """Take a message of a peer."""
        member = self._member
        is_ours = message.to == member.me and message.sender not in {NOBODY, member.me}
        if not is_ours or not 0 < message.term < TERM_MAX:
            member.refuse_message()
        elif message.term < member.term:
            self._answer_old_term(message)
        elif message.term == member.term or self._accept_new_term(message):
            self._dispatch(message)

    def tick(self) -> None:
        """Let one tick of time pass."""
        leadership = self._member.leadership
        if leadership is not None:
            leadership.tick()
        else:
            election.tick(self._member)

    def propose(self, size_bytes: int, ref: object) -> int:
        """Append an entry to the log; return its index. It is committed later, or lost.

        Raises NotLeaderError, or BusyError when too much waits or the lead is being handed over.
        """
        return self._leadership().propose(size_bytes, ref)

    def propose_config(self, config: Config) -> int:
        """Change one member of the group; return the index of the entry.

        The new configuration is in effect at once. Raises NotLeaderError, BusyError, or
        ConfigRefusedError.
        """
        return self._leadership().propose_config(config)

    def transfer(self, to: MemberId) -> None:
        """Hand the lead to a voter; no proposals till then, or till an election timeout is over.

        Raises NotLeaderError, or ConfigRefusedError.
        """
        self._leadership().transfer(to)

    def read_index(self, context: int) -> None:
        """Ask for a linearizable read; a Ready will hold (context, index).

        Reads that are under way when the lead is lost never appear: watch role and term. Raises
        NotLeaderError.
        """
        self._leadership().read_index(context)

    def campaign(self) -> None:
        """Start a pre-vote now; nothing if we lead, may not stand, or owe a leader its lease."""
        member = self._member
        if not (member.settings.lease_reads and member.is_protecting_leader) and (
            member.role is not Role.LEADER
        ):
            election.campaign(member)

    def leader_unreachable(self) -> None:
        """Take the hint that the connection to the leader broke: campaign within a few ticks.

        With `lease_reads` the hint is ignored: the leader relies on our silence.
        """
        self._member.lost_leader()

    def peer_unreachable(self, peer: MemberId) -> None:
        """Take the hint that what is under way to a peer is lost."""
        if self._member.leadership is not None:
            self._member.leadership.replication.unreachable(peer)

    def entries_available(self) -> None:
        """Take the hint that the log view can serve what it could not."""
        if self._member.leadership is not None:
            self._member.leadership.replication.entries_available()

    def persisted(self, number: int) -> None:
        """Note that all that the Readys up to `number` asked for is durable."""
        member = self._member
        if number > member.number:
            raise ValueError(f"there was no Ready {number} yet: the newest is {member.number}")
        member.persisted(number)
        if member.leadership is not None:
            member.leadership.persisted()
        else:
            election.persisted(member)

    def trimmed(self, index: int) -> None:
        """Note that the shell's log starts after `index` now."""
        log = self._member.log
        if index > min(log.commit_index, log.stable_index):
            raise ValueError(f"entry {index} is not committed and durable: it must not be trimmed")
        log.trimmed(index)
        self._member.membership.trimmed(index)

    def rest(self) -> None:
        """Say that no ticks come until further notice (see `can_rest`): a lease ends now.

        The first tick after a rest begins a whole new election timeout.
        """
        self._member.rest()
        if self._member.leadership is not None:
            self._member.leadership.rest()

    def ready(self) -> Ready | None:
        """Return what is to be done now; None if nothing."""
        member, log = self._member, self._member.log
        leadership = member.leadership
        number = member.number + 1
        fresh: tuple[Entry, ...] = ()
        if log.unstable or member.restore is not None:
            fresh = log.hand_out(number, is_restored=member.restore is not None)
        if leadership is not None and leadership.has_due:
            leadership.before_ready(fresh)
        hard_state = member.take_hard_state(number)
        if not (
            fresh
            or member.messages
            or member.messages_after
            or hard_state is not None
            or member.reads
            or member.restore is not None
            or log.commit_index != self._commit_index_told
        ):
            return None
        ready = Ready(
            number=number,
            hard_state=hard_state,
            restore=member.restore,
            entries=fresh,
            messages=tuple(member.messages),
            messages_after=tuple(member.messages_after),
            commit_index=log.commit_index,
            reads=tuple(member.reads),
        )
        self._commit_index_told = log.commit_index
        member.handed_over(number)
        return ready

    def can_rest(self) -> bool:
        """Tell whether ticks may stop: everybody has everything and knows it, and nothing waits.

        A follower that rests relies on its shell to notice when the leader's node is gone.
        """
        member, log = self._member, self._member.log
        if member.leadership is not None:
            return member.leadership.can_rest() and not self._has_output()
        is_up_to_date = log.commit_index == log.last_index == log.stable_index
        return member.leader != NOBODY and is_up_to_date and not self._has_output()

    def progress(self) -> Mapping[MemberId, PeerProgress]:
        """Show what a leader knows of its peers; empty if we do not lead."""
        leadership = self._member.leadership
        return {} if leadership is None else leadership.replication.progress()

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry (or of the start); None if the log does not have it."""
        return self._member.log.term_at(index)

    @property
    def me(self) -> MemberId:
        """Who we are."""
        return self._member.me

    @property
    def term(self) -> int:
        """The newest term we know."""
        return self._member.term

    @property
    def vote(self) -> MemberId:
        """Whom we voted for in this term."""
        return self._member.vote

    @property
    def role(self) -> Role:
        """What we do now."""
        return self._member.role

    @property
    def leader(self) -> MemberId:
        """Who leads; 0 if we do not know."""
        return self._member.leader

    @property
    def standing(self) -> tuple[Role, int, MemberId, bool]:
        """Role, term, leader, and whether we may serve: what a shell watches after every call."""
        member = self._member
        leadership = member.leadership
        is_ready = leadership is not None and leadership.is_ready
        return member.role, member.term, member.leader, is_ready

    @property
    def start_index(self) -> int:
        """After which entry the log starts."""
        return self._member.log.start_index

    @property
    def last_index(self) -> int:
        """The newest entry, durable or not."""
        return self._member.log.last_index

    @property
    def last_term(self) -> int:
        """The term of the newest entry."""
        return self._member.log.last_term

    @property
    def commit_index(self) -> int:
        """Entries up to it are committed."""
        return self._member.log.commit_index

    @property
    def config(self) -> Config:
        """The configuration in effect, committed or not."""
        return self._member.membership.config

    @property
    def config_index(self) -> int:
        """Where the entry of that configuration is; 0 if the log started with it."""
        return self._member.membership.index

    @property
    def is_leader_ready(self) -> bool:
        """Whether we lead and know all that is committed: we may serve."""
        leadership = self._member.leadership
        return leadership is not None and leadership.is_ready

    @property
    def has_lease(self) -> bool:
        """Whether we lead and nobody else can yet. Never without `lease_reads`: nobody promised."""
        leadership = self._member.leadership
        return leadership is not None and leadership.has_lease

    @property
    def uncommitted_bytes(self) -> int:
        """The bytes of our proposals that no majority has yet."""
        leadership = self._member.leadership
        return 0 if leadership is None else leadership.uncommitted_bytes

    @property
    def refused_messages(self) -> int:
        """How many messages broke the protocol: above zero, a peer is broken or hostile."""
        return self._member.refused_messages

    def _leadership(self) -> Leadership:
        if self._member.leadership is None:
            raise NotLeaderError(self._member.leader)
        return self._member.leadership

    def _has_output(self) -> bool:
        member = self._member
        return bool(
            member.messages
            or member.messages_after
            or member.reads
            or member.log.unstable
            or not member.is_hard_state_durable
            or member.log.commit_index != self._commit_index_told
        )

    def _dispatch(self, message: Message) -> None:
        member = self._member
        match message:
            case AppendReply():
                if member.leadership is not None:
                    member.leadership.on_reply(message)
            case Append():
                following.on_append(member, message)
            case VoteRequest():
                election.on_vote_request(member, message)
            case VoteReply():
                election.on_vote_reply(member, message)
            case Restore():
                following.on_restore(member, message)
            case TimeoutNow():
                election.on_timeout_now(member, message)
            case _:
                assert_never(message)

    def _accept_new_term(self, message: Message) -> bool:
        """Go to the newer term of a message, if it is one; tell whether to look at the message."""
        member = self._member
        match message:
            case VoteRequest(is_transfer=False) if member.is_protecting_leader:
                return False
            case VoteRequest(is_pre=True) | VoteReply(is_pre=True, granted=True):
                pass  # a term that nobody has yet
            case Append() | Restore():
                member.become_follower(message.term, message.sender)
            case _:
                member.become_follower(message.term, NOBODY)
        return True

    def _answer_old_term(self, message: Message) -> None:
        """Tell a sender of an older term about ours: it may be a leader or candidate cut off."""
        member = self._member
        match message:
            case Append() | Restore():
                following.tell_term(member, message.sender)
            case VoteRequest():
                election.tell_term(member, message)
            case _:
                pass
