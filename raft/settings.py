"""The numbers of the core that a shell may choose. Time is counted in ticks of the shell."""

from dataclasses import dataclass
from typing import Final

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSettings:
    """Checked as a whole when it is made."""

    election_ticks: int = 10
    """A follower that heard nothing for this long (or up to twice as long, at random) campaigns;
    a leader that heard from no majority for this long steps down; a longer transfer ends."""

    heartbeat_ticks: int = 2
    """How often a leader that has nothing to say speaks. Several must fit into `election_ticks`."""

    hurry_ticks: int = 3
    """How long at most a follower waits whose shell saw the leader's connection break."""

    append_bytes_max: int = 1 * _MIB
    """Of the entries in one Append. A larger entry travels alone."""

    inflight_bytes_max: int = 16 * _MIB
    """Of the entries sent to one peer and not acknowledged: at least bandwidth times round trip."""

    inflight_messages_max: int = 512
    """Appends sent to one peer and not acknowledged."""

    uncommitted_bytes_max: int = 64 * _MIB
    """Of proposals that no majority has yet; more are refused. It bounds the memory of a leader
    whose followers are gone."""

    lease_reads: bool = False
    """Answer reads without a round of heartbeats while a majority has promised to elect nobody
    else. Trusts that no clock ticks much faster than another. Then followers keep that promise
    even when the connection to the leader breaks: failover takes the full `election_ticks`."""

    lease_drift_ticks: int = 2
    """How much earlier than the followers' promise the leader's lease ends."""

    def __post_init__(self) -> None:
        if not 1 <= self.heartbeat_ticks * 2 <= self.election_ticks:
            raise ValueError("two heartbeats (heartbeat_ticks >= 1) must fit into election_ticks")
        if not 1 <= self.hurry_ticks <= self.election_ticks:
            raise ValueError("hurry_ticks must be 1 .. election_ticks")
        if not 1 <= self.lease_drift_ticks < self.election_ticks:
            raise ValueError("lease_drift_ticks must be 1 .. election_ticks - 1")
        limits = (
            self.append_bytes_max,
            self.inflight_bytes_max,
            self.inflight_messages_max,
            self.uncommitted_bytes_max,
        )
        if min(limits) < 1:
            raise ValueError("the limits of bytes and messages must be positive")
