"""Looks for a checkpoint far ahead of a feed's window: for a node that is behind.

WAL is read backwards from the far end, a block after the other, and the search ends at the first
block that has a checkpoint record: of several, the last one is wanted. What is read is dropped, and
comes once more when the engine gets there. That costs a part of what a cut saves that is not taken.

Invariant: what is found is committed and whole, so no fork can take it back.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from fabric.frames import Buffer
from fabric.lsn import Lsn

from .wal_records import PAGE_BYTES
from .wal_scan import CheckpointFound, CheckpointScanner

BLOCK_BYTES: Final = 4 * 1024 * 1024  # one call to the log; a checkpoint is often the last word

ReadWal = Callable[[Lsn, int], Awaitable[Buffer]]
"""(position, bytes at most) -> at least one byte of committed WAL from there on."""


async def last_checkpoint(
    read: ReadWal, *, after: Lsn, upto: Lsn, segment_bytes: int, block_bytes: int = BLOCK_BYTES
) -> CheckpointFound | None:
    """Return the last checkpoint whose record ends behind `after` and not behind `upto`."""
    first = after - after % PAGE_BYTES
    end = upto
    while end > first:
        # Whole pages: their starts tell the scanner what on them is a record.
        start = max(first, Lsn(max(0, int(end) - block_bytes) // PAGE_BYTES * PAGE_BYTES))
        found = await _in_block(read, start, min(end + PAGE_BYTES, upto), segment_bytes)
        wanted = [checkpoint for checkpoint in found if after < checkpoint.end <= upto]
        if wanted:
            return wanted[-1]
        end = start
    return None


async def _in_block(
    read: ReadWal, start: Lsn, end: Lsn, segment_bytes: int
) -> list[CheckpointFound]:
    """Return what is in [start, end), which goes a page into the block behind: for a record that
    begins in one block and ends in the other."""
    scanner = CheckpointScanner(segment_bytes, start)
    found: list[CheckpointFound] = []
    while scanner.end < end:
        found += scanner.feed(scanner.end, await read(scanner.end, end - scanner.end))
    return found
