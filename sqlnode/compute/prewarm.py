"""Which blocks the next primary will want: those that this one has read. Pure, but for the map.

A list is kept with the branch, so a compute that begins with nothing, behind a failover or restart,
asks for them before anybody has to wait for each. It is a hint: any of it may be wrong or missing.

What was read is what the library notes, for whoever makes room: of a file that is all here, nothing
more. Files with few blocks that were read come first: catalogs, roots of indexes, small tables.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Final, NamedTuple

import msgspec

from log_service.record_bodies import NOTE_BYTES_MAX
from sqlnode.pagefault.block_map import BLOCK_BYTES, BlockMap

PREWARM_BYTES_MAX: Final = 128 * 1024 * 1024  # shared_buffers of a server that nobody has tuned
CACHE_SHARE: Final = 4  # and of a bounded cache a quarter
SLOTS_AT_ONCE: Final = 200
RUN_BLOCKS_MAX: Final = 1 << 17
UNPACKED_BYTES_MAX: Final = 16 * 1024 * 1024


class Run(NamedTuple):
    """Blocks of a file, one behind the other."""

    path: str
    first: int
    blocks: int


_Packed = dict[str, list[tuple[int, int]]]
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Packed)


def blocks_max(cache_bytes_max: int) -> int:
    """Return how many blocks are worth a list, beside such a bound of the cache."""
    return min(PREWARM_BYTES_MAX, cache_bytes_max // CACHE_SHARE) // BLOCK_BYTES


async def used_runs(block_map: BlockMap) -> AsyncIterator[list[Run]]:
    """Yield, for each file, what was read of it; others get their turn in between."""
    for number in range(block_map.slots_used()):
        if number % SLOTS_AT_ONCE == SLOTS_AT_ONCE - 1:
            await asyncio.sleep(0)
        slot = block_map.slot(number)
        if slot is None or not slot.is_live:
            continue
        runs: list[Run] = []
        start = 0
        while (run := block_map.next_used(number, start, RUN_BLOCKS_MAX)) is not None:
            runs.append(Run(slot.path, *run))
            start = sum(run)
        if runs:
            yield runs


def chosen(files: Iterable[list[Run]], blocks_max: int) -> list[Run]:
    """Return what is worth fetching, up to so many blocks."""
    found: list[Run] = []
    left = blocks_max
    for runs in sorted(files, key=lambda runs: (sum(run.blocks for run in runs), runs[0].path)):
        for run in runs:
            if left <= 0:
                return found
            found.append(run._replace(blocks=min(run.blocks, left)))
            left -= run.blocks
    return found


def packed(runs: list[Run]) -> bytes:
    """Return a note of the first runs, as many as it holds."""
    while True:
        by_path: _Packed = {}
        for path, first, blocks in runs:
            by_path.setdefault(path, []).append((first, blocks))
        note = zlib.compress(_ENCODER.encode(by_path), 1)
        if len(note) <= NOTE_BYTES_MAX:
            return note
        runs = runs[: len(runs) * 2 // 3]


def unpacked(note: bytes) -> list[Run]:
    """Return the runs of a note; ValueError if it is none."""
    try:
        by_path = _DECODER.decode(zlib.decompressobj().decompress(note, UNPACKED_BYTES_MAX))
    except (msgspec.MsgspecError, zlib.error) as error:
        raise ValueError(f"no list of blocks: {error}") from error
    return [
        Run(path, first, count)
        for path, runs in by_path.items()
        for first, count in runs
        if first >= 0 and 0 < count <= RUN_BLOCKS_MAX
    ]
