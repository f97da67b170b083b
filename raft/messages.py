"""What members say to each other. The shell encodes them; the core assumes that any may be lost,
delayed, repeated or overtaken.

No message changes once it is made. `Append` and `AppendReply` are not frozen, though: there are a
few of them a commit, and freezing makes one cost 1.3 us instead of 0.4.

`term` is the sender's, but for pre-votes: a pre-vote request and its grant carry the term that the
candidate would have, which nobody has yet.
"""

from dataclasses import dataclass
from typing import TypeAlias

from .types import Entry, MemberId, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRequest:
    """Asks for a vote, or (`is_pre`) whether one would be given.

    `is_transfer`: the leader itself wants this election, so nobody needs to protect it.
    """

    sender: MemberId
    to: MemberId
    term: int
    last_index: int
    last_term: int
    is_pre: bool = False
    is_transfer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteReply:
    """Answers a VoteRequest. A grant travels only when it is durable."""

    sender: MemberId
    to: MemberId
    term: int
    is_pre: bool
    granted: bool


@dataclass(slots=True, kw_only=True)
class Append:
    """The leader's entries after (`prev_index`, `prev_term`). None: a heartbeat, or commit news.

    `context` is the leader's round: the reply repeats it, which proves that this member still
    followed after the round had begun.
    """

    sender: MemberId
    to: MemberId
    term: int
    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...] = ()
    commit: int
    context: int = 0


@dataclass(slots=True, kw_only=True)
class AppendReply:
    """Answers Append and Restore: everything up to `match_index` is durable and the leader's.

    `rejected`: the entry before the appended ones is not there. Then the newest entry that could
    be common is at `hint_index`, of `hint_term`, or before; and `match_index` says nothing.
    """

    sender: MemberId
    to: MemberId
    term: int
    match_index: int
    context: int = 0
    rejected: bool = False
    hint_index: int = 0
    hint_term: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Tells a member whose next entries were trimmed to start its log anew after a snapshot."""

    sender: MemberId
    to: MemberId
    term: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNow:
    """The leader asks a member to take over: campaign at once, without a pre-vote."""

    sender: MemberId
    to: MemberId
    term: int


Message: TypeAlias = VoteRequest | VoteReply | Append | AppendReply | Restore | TimeoutNow
