"""What a redo engine is to do next: decisions about one branch, without I/O.

Every checkpoint record of the branch's WAL is a place for a cut. Who keeps up takes each of them;
who is behind goes further in one step, because a page that many transactions have changed is then
stored once. Where no checkpoint was found yet, and much WAL has come, the engine replays it in
the meantime. An engine that has had nothing to do for a while is stopped, and one that failed is
made anew after a pause that grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fabric.lsn import Lsn

from .wal_records import PAGE_BYTES
from .wal_scan import CheckpointFound

STEP_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of WAL in one step of a node that is behind: some seconds of redo, and then readers have a newer
cut. A step is longer where checkpoints are farther apart."""

LOOK_AHEAD_BYTES_MIN: Final = 32 * 1024 * 1024
"""Of WAL that nobody has looked at yet: with less of it, the window will soon tell."""

IDLE_STOP_S: Final = 15.0
"""An engine without work lives for so long: more than the 10 s between a busy primary's
checkpoints, so that it is not built again for each."""

PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 30.0
DOUBLINGS_MAX: Final = 16


def choose_target(
    found: Sequence[CheckpointFound],
    *,
    newest: Lsn,
    replayed: Lsn | None = None,
    step_bytes_max: int = STEP_BYTES_MAX,
) -> CheckpointFound | None:
    """Return the checkpoint to cut at next, of those found in ascending order; None: no work.

    `newest` is where the newest cut is, `replayed` how far the engine was let go beyond it.
    """
    first = newest + 1 if replayed is None else max(newest + 1, replayed)
    ahead = [checkpoint for checkpoint in found if checkpoint.end >= first]
    near = [checkpoint for checkpoint in ahead if checkpoint.end - newest <= step_bytes_max]
    return near[-1] if near else next(iter(ahead), None)


def look_ahead_upto(
    target: CheckpointFound, *, newest: Lsn, received: Lsn, committed: Lsn
) -> Lsn | None:
    """Return how far to look for a checkpoint that is better than this one; None: do not."""
    upto = min(committed, newest + STEP_BYTES_MAX)
    return upto if int(upto) - max(target.end, received) >= LOOK_AHEAD_BYTES_MIN else None


def replay_ahead(*, at: Lsn, received: Lsn, committed: Lsn, window_bytes: int) -> Lsn | None:
    """Return how far to replay before a checkpoint is found; None: that is not worth it.

    In pieces of half a window, so that an engine is not woken for each commit, and before the
    window is full, when nothing more would come. Not up to the end of the log: a promotion may
    end a timeline in the middle of the record there, and an engine is to have none of that.
    """
    upto = max(0, min(received, int(committed) - window_bytes // 8))
    upto -= upto % PAGE_BYTES  # no gate stands within a record, unless at the end of a page
    return Lsn(upto) if upto - at >= window_bytes // 2 else None


@dataclass(slots=True)
class Pause:
    """How long to wait before the next attempt after a failure."""

    failures: int = 0

    def failed(self) -> float:
        """Count a failure; return the seconds to wait."""
        wait_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * (1 << self.failures))
        self.failures = min(self.failures + 1, DOUBLINGS_MAX)
        return wait_s

    def succeeded(self) -> None:
        """Begin anew."""
        self.failures = 0
