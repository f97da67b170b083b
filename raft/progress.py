"""What a leader knows of one peer, and how much more it may send it.

    PROBE ──accepted──► REPLICATE        one message at a time until the logs meet; then a stream
      ▲  ◄──rejected, unreachable──┘     of messages, sent before the ones ahead are acknowledged
      │
      └──accepted, unreachable, too long── RESTORE ◄── the peer needs what was trimmed

Invariant: match_index < next_index. Up to match_index the peer's log is durable and ours; from
next_index on nothing was sent to it, as far as we know.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum

from .settings import RaftSettings


class PeerState(Enum):
    """How the leader sends to a peer."""

    PROBE = "probe"
    REPLICATE = "replicate"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class PeerProgress:
    """A peer as an observer sees it."""

    match_index: int
    next_index: int
    state: PeerState
    is_active: bool
    """It answered within the last election timeout."""


class Peer:
    """The bookkeeping of one peer; each method is one transition."""

    __slots__ = (
        "_inflight",
        "_inflight_bytes",
        "commit_known",
        "commit_sent",
        "heard_tick",
        "is_waiting",
        "match_index",
        "next_index",
        "restore_index",
        "restore_tick",
        "round",
        "state",
    )

    def __init__(self, *, next_index: int, tick: int) -> None:
        self.match_index = 0
        self.next_index = next_index
        self.state = PeerState.PROBE
        self.round = 0  # the newest round of ours that it answered
        self.heard_tick = tick
        self.commit_sent = 0  # the newest commit index that it can have learned
        self.commit_known = 0  # the newest one that it surely has
        self.restore_index = 0  # of the snapshot it is to start from
        self.restore_tick = 0
        # Nothing goes out but heartbeats: a probe is under way, or the log view has nothing now.
        self.is_waiting = False
        self._inflight: deque[tuple[int, int]] = deque()  # (last index, bytes) of each message
        self._inflight_bytes = 0

    def may_send(self, settings: RaftSettings) -> bool:
        """Tell whether entries may be sent. The last message may exceed the limit of bytes."""
        if self.state is PeerState.REPLICATE:
            return (
                not self.is_waiting
                and self._inflight_bytes < settings.inflight_bytes_max
                and len(self._inflight) < settings.inflight_messages_max
            )
        return self.state is PeerState.PROBE and not self.is_waiting

    def sent(self, last_index: int, size_bytes: int) -> None:
        """Note entries that went out."""
        if self.state is PeerState.REPLICATE:
            self.next_index = last_index + 1
            self._inflight.append((last_index, size_bytes))
            self._inflight_bytes += size_bytes
        else:
            self.is_waiting = True

    def accepted(self, match_index: int) -> bool:
        """Note an acknowledgement; tell whether it says anything new."""
        if self.state is PeerState.RESTORE and match_index < self.restore_index:
            return False
        if self.state is not PeerState.REPLICATE:
            self.state = PeerState.REPLICATE
            self.is_waiting = False
        if match_index <= self.match_index:
            return False
        self.match_index = match_index
        self.next_index = max(self.next_index, match_index + 1)
        while self._inflight and self._inflight[0][0] <= match_index:
            self._inflight_bytes -= self._inflight.popleft()[1]
        return True

    def probe(self, next_index: int, *, is_waiting: bool = False) -> None:
        """Look for the place where the logs meet, beginning before `next_index`."""
        self.state = PeerState.PROBE
        self.next_index = max(next_index, self.match_index + 1)
        self.is_waiting = is_waiting
        self._inflight.clear()
        self._inflight_bytes = 0

    def restore(self, index: int, tick: int) -> None:
        """Note a snapshot that went out: nothing else does until it was answered."""
        self.probe(index + 1)
        self.state = PeerState.RESTORE
        self.restore_index = index
        self.restore_tick = tick
