"""Finds the checkpoint records in a stream of WAL, at the speed of a search for a string.

    scanner = CheckpointScanner(segment_bytes=16 << 20, start=lsn)
    for found in scanner.feed(lsn, buffer): ...

A redo engine is fed up to the end of a checkpoint record and no further (the gate), so somebody has
to see them coming. Walking from record to record would be far too slow in Python: a KiB of WAL may
have ten. But all checkpoint records begin with the same 8 bytes, which are never cut by a page, so
`bytes.find` skips everything else, and only what it finds is looked at (`wal_records`).

What is found is a checkpoint for certain when the stream held the start of its page. Only on the
page in the middle of which a stream began may it be something that a user stored, made with intent;
a gate that stops there loses a moment, and nothing else.

Invariants: the same stream gives the same checkpoints, however it is split; what is kept between
two buffers is a page and a record at most.

Not here: where WAL comes from, and on which timeline it is. A record names its own.
"""

from typing import Final

from fabric.frames import Buffer
from fabric.lsn import Lsn, checked_segment_bytes

from .wal_records import (
    ALIGNMENT_BYTES,
    CHECKPOINT_KINDS,
    CHECKPOINT_RECORD_BYTES,
    CHECKPOINT_START,
    KIND_OFFSET,
    PAGE_BYTES,
    RECORD_HEAD,
    CheckpointFound,
    WalView,
    checkpoint_at,
)

__all__ = ["CheckpointFound", "CheckpointScanner"]

_KIND_END: Final = KIND_OFFSET + len(CHECKPOINT_KINDS[0])


class CheckpointScanner:
    """Looks at one stream. Buffers follow each other without a gap, until `restart`."""

    def __init__(self, segment_bytes: int, start: Lsn) -> None:
        self._segment_bytes = checked_segment_bytes(segment_bytes)
        self.restart(start)

    def restart(self, lsn: Lsn) -> None:
        """Go on somewhere else; the start of a page is best, see above."""
        self._kept = b""
        self._kept_start = self._end = int(lsn)
        # Everything that begins before it has been decided.
        self._next = int(lsn) + -int(lsn) % ALIGNMENT_BYTES

    @property
    def end(self) -> Lsn:
        """Where the next buffer has to begin."""
        return Lsn(self._end)

    def feed(self, lsn: Lsn, buffer: Buffer) -> list[CheckpointFound]:
        """Take the next bytes; return the checkpoints whose records they complete."""
        if lsn != self._end:
            raise ValueError(f"WAL from {lsn} on does not continue what ended at {self.end}")
        data = b"".join((self._kept, buffer))
        view = WalView(self._kept_start, data, self._segment_bytes)
        found = self._search(data, view)
        self._end = view.end
        # The start of the page tells what on it is a record.
        keep_from = max(view.start, self._next - self._next % PAGE_BYTES)
        self._kept, self._kept_start = data[keep_from - view.start :], keep_from
        return found

    def _search(self, data: bytes, view: WalView) -> list[CheckpointFound]:
        """Decide all that can be decided, and remember from where on it cannot."""
        found: list[CheckpointFound] = []
        offset = data.find(CHECKPOINT_START, max(0, self._next - view.start))
        while offset >= 0:
            at = view.start + offset
            if _may_be_one(data, offset, at):
                if view.record_end(at, CHECKPOINT_RECORD_BYTES) > view.end:
                    self._next = at
                    return found
                checkpoint = checkpoint_at(view, at)
                if checkpoint is not None:
                    found.append(checkpoint)
            offset = data.find(CHECKPOINT_START, offset + 1)
        self._next = max(self._next, view.end - view.end % ALIGNMENT_BYTES)
        return found


def _may_be_one(data: bytes, offset: int, at: int) -> bool:
    """A quick look, for columns full of what is searched for, such as the integer 114."""
    if at % ALIGNMENT_BYTES:
        return False
    is_cut = len(data) < offset + _KIND_END or at % PAGE_BYTES > PAGE_BYTES - RECORD_HEAD.size
    return is_cut or data[offset + KIND_OFFSET : offset + _KIND_END] in CHECKPOINT_KINDS
