"""The nouns of the core: members, configurations, entries, snapshots and what a restart finds.

All are values. Indices count entries from 1; index 0 with term 0 is the place before the first.
The core never looks into a `ref`: it is whatever the shell finds useful to get back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol, TypeAlias

# A random 63-bit number made when a replica joins a group. It is never reused: a replica that lost
# its disk comes back as a new member, since it forgot what it had promised.
MemberId: TypeAlias = int

NOBODY: Final[MemberId] = 0

TERM_MAX: Final = 2**62  # far beyond any number of elections; what claims more is not sound


class Role(Enum):
    """What a member is doing now. A learner is a follower that is not a voter."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class Config:
    """Who votes and who only listens. No voters: the group of a replica that has still to join."""

    voters: frozenset[MemberId]
    learners: frozenset[MemberId] = frozenset()
    members: frozenset[MemberId] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.voters & self.learners:
            raise ValueError("a member is a voter or a learner, not both")
        members = self.voters | self.learners
        if any(member <= NOBODY for member in members):
            raise ValueError("a member id is a positive number")
        object.__setattr__(self, "members", members)


@dataclass(frozen=True, slots=True)
class HardState:
    """What a member must never forget: the newest term it saw and whom it voted for in it."""

    term: int = 0
    vote: MemberId = NOBODY


@dataclass(slots=True)  # not frozen, as in messages.py
class Entry:
    """One entry of the log. With neither `ref` nor `config`: the empty entry of a new leader.

    It never changes once it is made.
    """

    index: int
    term: int
    size_bytes: int
    ref: object = None
    config: Config | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a log that was trimmed up to and including `index` starts from."""

    index: int
    term: int
    config: Config
    ref: object = None


@dataclass(frozen=True, slots=True)
class Persisted:
    """What a restart finds on disk.

    A new group starts from `Snapshot(0, 0, config)`; a replica that is to join an existing one has
    the configuration `Config(frozenset())` there, and waits until a leader writes to it.
    """

    hard_state: HardState
    snapshot: Snapshot
    terms: tuple[tuple[int, int], ...] = ()
    """(first index, term) of each run of entries of one term after the snapshot, ascending."""
    last_index: int = 0
    configs: tuple[tuple[int, Config], ...] = ()
    """(index, configuration) of the configuration entries after the snapshot, ascending."""


class LogView(Protocol):
    """The shell's log, as the core needs it to serve peers that are behind.

    From the moment that `Raft.ready` returned entries, the view serves them.
    """

    def entries(self, first: int, last: int, bytes_max: int) -> Sequence[Entry]:
        """Return entries from `first` to `last` at most, stopping before `bytes_max` is exceeded.

        The first entry always fits. Empty: not at hand now; `Raft.entries_available` says when.
        """
        ...

    def snapshot(self) -> Snapshot | None:
        """Return the start for a peer that needs what was trimmed; None: not at hand now."""
        ...
