"""When the primary makes a checkpoint: by how much was written, and how long ago. Pure.

A compute that starts replays what was written behind the last checkpoint but one of the storage
nodes, so checkpoints bound how long that takes. With neither full-page writes nor fsync they cost
little. An idle primary makes none: PostgreSQL's own records, of a checkpoint and of what runs then,
do not count.
"""

from dataclasses import dataclass
from typing import Final

from fabric.lsn import Lsn

NOISE_BYTES: Final = 1024  # a checkpoint's own records have some 300
PAUSE_MS_MIN: Final = 1_000  # of a bulk load that writes `bytes_max` in a moment


@dataclass(slots=True)
class Pacer:
    """`began_at` is where the WAL stood when the last checkpoint began."""

    bytes_max: int
    age_ms_max: int
    began_at: Lsn
    began_ms: int
    _active_ms: int | None = None  # since when there is something to do

    def is_due(self, position: Lsn, now_ms: int) -> bool:
        """Whether to make one now that the WAL has got to a position."""
        written_bytes = int(position) - int(self.began_at)
        if written_bytes <= NOISE_BYTES:
            self._active_ms = None
            return False
        if self._active_ms is None:
            self._active_ms = now_ms
        if now_ms < self.began_ms + PAUSE_MS_MIN:
            return False
        return written_bytes >= self.bytes_max or now_ms >= self._active_ms + self.age_ms_max

    def begin(self, position: Lsn, now_ms: int) -> None:
        """Note that one begins."""
        self.began_at, self.began_ms, self._active_ms = position, now_ms, None
