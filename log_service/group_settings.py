"""The numbers of a group that a user may tune."""

from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec

# How old the proof that a leader leads may be when it renews a lease, and the drift of clocks.
PROOF_MS_MAX: Final = 300
LEASE_MARGIN_MS: Final = 2 * PROOF_MS_MAX

_MIB: Final = 1024 * 1024
_Count = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """Of every group of a node."""

    tick_ms: _Count = 30
    """A follower that hears nothing for 15 to 30 ticks asks for an election; one whose connection
    to the leader broke, after 3 at most. A busy machine or a slow disk delays by some 10 ms."""

    recent_bytes_max: _Count = 16 * _MIB
    """Records kept in memory: what followers and standbys that are a second behind still need."""

    uncommitted_bytes_max: _Count = 8 * _MIB
    """Of WAL that no majority has yet; beyond it the primary waits. It bounds how long a small
    commit waits behind a bulk load: 8 MiB are some 40 ms at 200 MB/s."""

    segment_bytes: _Count = 64 * _MIB
    """Of the log on disk."""

    keep_bytes: _Count = 256 * _MIB
    """Of archived WAL that is not trimmed, for standbys that were away for a while."""

    rest_after_ticks: _Count = 20
    """An idle group goes to rest after so long: no timers, no messages."""

    retry_ms: _Count = 500
    """Between attempts to write to a full disk, and to reach a primary that refuses us."""

    fast_sync_us: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    """Writes that take no longer run in the event loop instead of a thread, while one group of the
    node is busy. 0: always threads."""

    lazy_peer_ms: Annotated[int, msgspec.Meta(ge=0, le=100)] = 5
    """How long small entries wait for the followers that no commit waits for (outbox.py), and so a
    commit at most for a follower that has just hung. 0: all get them at once."""

    lease_ms: _Count = 1_800
    """How long a primary may act as one after it sent a report that the leader answered."""

    takeover_ms: _Count = 2_600
    """After so long without a report of the primary another one is chosen: when its lease is over
    for certain (elector.py)."""

    fresh_ms: _Count = 1_000
    """Only who has reported within this time is chosen."""

    promote_ms: _Count = 10_000
    """How long a chosen compute may take to become the primary while another one could."""

    slot: str = field(default="seawall_log")
    """The replication slot on the primary, and our name in `synchronous_standby_names`: that must
    be `ANY 1 (seawall_log)`, so that a leader that hangs does not stand before its successor."""

    def __post_init__(self) -> None:
        if self.takeover_ms < self.lease_ms + LEASE_MARGIN_MS:
            raise ValueError(
                f"takeover_ms must be lease_ms + {LEASE_MARGIN_MS} at least: else there may be two "
                "primaries for a moment"
            )
