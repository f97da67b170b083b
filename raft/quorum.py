"""What a majority has: the arithmetic of elections and of commitment.

Any two majorities of the same voters share a member; everything in Raft rests on that.
"""

from collections.abc import Iterable, Mapping
from enum import Enum

from .types import MemberId


class VoteResult(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority_value(values: Iterable[int]) -> int:
    """Return the highest number that a majority has reached; 0 if there are no voters."""
    ascending = sorted(values)
    return ascending[(len(ascending) - 1) // 2] if ascending else 0


def vote_result(voters: frozenset[MemberId], votes: Mapping[MemberId, bool]) -> VoteResult:
    """Count what the voters have said so far. Without voters nobody ever wins."""
    needed = len(voters) // 2 + 1
    granted = sum(votes.get(voter, False) for voter in voters)
    missing = sum(voter not in votes for voter in voters)
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST
