"""Why the core refuses a call, by what the caller must do about it.

RaftError
├── NotLeaderError        go to `leader`, or wait for one
├── BusyError             try again when something was committed, or the transfer has ended
└── ConfigRefusedError    do what the sentence says; trying the same again helps only if it says so
"""

from .types import NOBODY, MemberId


class RaftError(Exception):
    """The core refuses the call; nothing has changed."""


class NotLeaderError(RaftError):
    """Only a leader can do this."""

    def __init__(self, leader: MemberId) -> None:
        known = f"member {leader} is" if leader != NOBODY else "who is, is not known now"
        super().__init__(f"this member is not the leader: {known}")
        self.leader = leader


class BusyError(RaftError):
    """The leader takes no proposals right now."""


class ConfigRefusedError(RaftError):
    """This change of the members, or transfer to one of them, is not allowed now."""
