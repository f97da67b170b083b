"""Page sources that misbehave, and pages whose checksums are right."""

import asyncio
import functools
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sqlnode.directory_source import DirectorySource
from sqlnode.page_source import CutDescription, PageRange, SourceError
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages

from .harness import pattern

LANES: Final = 32
PRIME: Final = 16777619
MASK: Final = 0xFFFFFFFF
SEEDS: Final = (  # of PostgreSQL's storage/checksum_impl.h
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
)  # fmt: skip


def page_checksum(page: bytes, block: int) -> int:
    """PostgreSQL's data checksum, written a second time and plainly."""
    words = struct.unpack("<2048I", page[:8] + bytes(2) + page[10:])
    sums = list(SEEDS)
    for row in (*[words[at : at + LANES] for at in range(0, 2048, LANES)], [0] * 32, [0] * 32):
        for lane in range(LANES):
            mixed = sums[lane] ^ row[lane]
            sums[lane] = (mixed * PRIME & MASK) ^ mixed >> 17
    result = block
    for value in sums:
        result ^= value
    return result % 65535 + 1


@functools.cache
def _sums(block: int) -> tuple[bytes, int]:
    """What all versions of a page share, and the XOR of the sums of lanes 2 to 31."""
    page = bytes(8) + pattern(BLOCK_BYTES, block)[8:]
    words = struct.unpack("<2048I", page[:8] + bytes(2) + page[10:])
    result = 0
    for lane in range(2, LANES):
        result ^= _lane(lane, words[lane::LANES])
    return page, result


def _lane(lane: int, words: Sequence[int]) -> int:
    value = SEEDS[lane]
    for word in (*words, 0, 0):
        mixed = value ^ word
        value = (mixed * PRIME & MASK) ^ mixed >> 17
    return value


def versioned_page(version: int, block: int) -> bytes:
    """A page that PostgreSQL would believe, whose Lsn is its version (driver.c has the same)."""
    page, rest = _sums(block)
    words = struct.unpack("<2048I", page)
    lanes = _lane(0, (0, *words[LANES::LANES])) ^ _lane(1, (version, *words[LANES + 1 :: LANES]))
    checksum = (rest ^ lanes ^ block) % 65535 + 1
    return struct.pack("<IIH", 0, version, checksum) + page[10:]


def sound_page(seed: int, block: int) -> bytes:
    """A page that PostgreSQL would believe."""
    page = bytearray(pattern(BLOCK_BYTES, seed))
    struct.pack_into("<H", page, 8, page_checksum(bytes(page), block))
    return bytes(page)


class VersionedSource(DirectorySource):
    """Storage of which every page is known: as of a cut that its user moves."""

    def __init__(self, root: Path, cut: Callable[[int], int]) -> None:
        super().__init__(root)
        self._cut = cut

    async def read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        """Return the oldest pages that are allowed; they arrive later."""
        found = [
            b"".join(
                versioned_page(self._cut(block), block)
                for block in range(wanted.first, wanted.first + wanted.blocks)
            )
            for wanted in ranges
        ]
        await asyncio.sleep(0)
        return found


class GatedSource(DirectorySource):
    """Waits before each read until it is let through; counts reads."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.open = threading.Event()
        self.reads = 0

    async def read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        """As the directory's, later."""
        self.reads += 1
        await asyncio.to_thread(self.open.wait)
        return await super().read(ranges)


class WrongSource(DirectorySource):
    """Gives whatever it is told to while `wrong`; the directory's pages otherwise."""

    def __init__(self, root: Path, answer: Any) -> None:
        super().__init__(root)
        self.wrong = True
        self._answer = answer

    async def describe(self) -> CutDescription:
        """Not asked for here."""
        raise SourceError("not asked for here")

    async def read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        """Whatever."""
        if not self.wrong:
            return await super().read(ranges)
        if isinstance(self._answer, BaseException):
            raise self._answer
        result: Sequence[Pages | SourceError] = self._answer(ranges)
        return result
