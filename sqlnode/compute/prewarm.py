"""Which blocks the next primary will want: those that this one has read. Pure, but for the map.

A list is kept with the branch, so a compute that begins with nothing, behind a failover or restart,
asks for them before anybody has to wait for each. It is a hint: any of it may be wrong or missing.

What was read is what the library notes, for whoever makes room: of a file that is all here, nothing
more. Files with few blocks that were read come first: catalogs, roots of indexes, small tables.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import msgspec

from log_service.record_bodies import NOTE_BYTES_MAX
from sqlnode.pagefault.block_map import BLOCK_BYTES, FILE_BLOCKS_MAX, BlockMap

PREWARM_BYTES_MAX: Final = 128 * 1024 * 1024  # shared_buffers of a server that nobody has tuned
CACHE_SHARE: Final = 4  # and of a bounded cache a quarter
SLOTS_AT_ONCE: Final = 20  # to look through a large one takes a third of a millisecond
RUNS_AT_ONCE: Final = 1000
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


async def used_runs(block_map: BlockMap, blocks_max: int) -> list[Run]:
    """Return what was read and is worth fetching, up to so many blocks."""
    files: list[tuple[int, str, int]] = []  # so small that there may be many
    for number in range(block_map.slots_used()):
        if number % SLOTS_AT_ONCE == SLOTS_AT_ONCE - 1:
            await asyncio.sleep(0)
        slot = block_map.slot(number)
        if slot is None or not slot.is_live:
            continue
        used = sum([count async for _, count in _used(block_map, number, blocks_max)])
        if used:
            files.append((used, slot.path, number))
    found: list[Run] = []
    left = blocks_max
    for _, path, number in sorted(files):
        async for first, count in _used(block_map, number, left):
            found.append(Run(path, first, count))
            left -= count
        if left <= 0:
            break
    return found


async def _used(
    block_map: BlockMap, number: int, blocks_max: int
) -> AsyncIterator[tuple[int, int]]:
    """Yield runs of blocks that were read; others get their turn in between."""
    start = calls = 0
    while blocks_max > 0 and (run := block_map.next_used(number, start, blocks_max)) is not None:
        yield run
        start = sum(run)
        blocks_max -= run[1]
        calls += 1
        if calls % RUNS_AT_ONCE == 0:
            await asyncio.sleep(0)


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
        if first >= 0 and 0 < count <= FILE_BLOCKS_MAX - first
    ]
