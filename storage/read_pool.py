"""Reading the page store in a few threads, and how many bytes of it may be under way.

The store's calls may wait for the disk. One thread never takes a large read, so that a single
block, which somebody's query waits for, never queues behind sequential scans; those take turns.

A single block that the store has in memory is read in the event loop, because a thread costs more
than it does. Measured through RPC: 195 us against 300 from a store in memory, 330 to 410 against
370 to 570 from RocksDB. With four blocks there is little left to gain, and threads read side by
side. Nobody can say beforehand what is in memory: `LoopPatience` looks how long reads have taken.

A `Ticket` is the right to some bytes. It travels with the pages, as part of the payload, and ends
when whoever sends them lets go of it: pages that wait for a slow reader count as well.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from fabric.ids import BranchName, CutSeq
from fabric.rpc_errors import BusyError
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import Pages

from .cut import CutContents
from .methods import encode_skeleton
from .page_store import PageStore, StoreError

THREADS_DEFAULT: Final = 3
LOOP_BLOCKS_MAX: Final = 1
LOOP_READ_S_MAX: Final = 0.000_5  # a block from memory takes a tenth of it; a disk takes more
LOOP_PAUSE_READS_MIN: Final = 64
LOOP_PAUSE_READS_MAX: Final = 4096
LARGE_BLOCKS_MIN: Final = 9  # below: one disk access or two, for somebody who waits
BITE_BLOCKS_MAX: Final = 128  # a large read gives its thread up after so many, 1 to 2 ms

T = TypeVar("T")


class Ticket:
    """The right to some bytes of memory. It ends when released, or with its last reference."""

    __slots__ = ("_budget", "_count", "_taker")

    def __init__(self, budget: "Budget", count: int, taker: Hashable) -> None:
        self._budget = budget
        self._count = count
        self._taker = taker

    def release(self) -> None:
        """Give the bytes back; harmless to repeat."""
        if self._count:
            self._budget.give_back(self._count, self._taker)
            self._count = 0

    def __del__(self) -> None:
        self.release()


class Budget:
    """How many bytes may be under way, in all and for each taker, so that none has them all.

    Invariant: used_bytes is the sum over all takers, each has 0 < bytes <= share_bytes_max, and
    used_bytes <= bytes_max.
    """

    def __init__(self, bytes_max: int, *, share_bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._share_bytes_max = share_bytes_max
        self._taken: dict[Hashable, int] = {}
        self.used_bytes = 0

    def take(self, count: int, taker: Hashable) -> Ticket:
        """Return a ticket, or refuse: nobody waits, since another node may have room."""
        if self.used_bytes + count > self._bytes_max:
            raise BusyError(
                f"{self.used_bytes} bytes of pages are under way, of {self._bytes_max} at most: "
                "ask another node, or again in a moment"
            )
        taken = self._taken.get(taker, 0)
        if taken + count > self._share_bytes_max:
            raise BusyError(
                f"{taken} bytes of pages are under way to you, of {self._share_bytes_max} at most: "
                "read what you have asked for, or ask another node"
            )
        if count:
            self._taken[taker] = taken + count
            self.used_bytes += count
        return Ticket(self, count, taker)

    def give_back(self, count: int, taker: Hashable) -> None:
        """Take note that some bytes of a taker are under way no more."""
        self.used_bytes -= count
        left = self._taken[taker] - count
        if left:
            self._taken[taker] = left
        else:
            del self._taken[taker]  # takers come and go: only those with bytes are known


class ReservedPayload(list[Pages]):
    """Buffers on their way out. Their ticket ends when whoever sends them lets go of the list."""

    def __init__(self, buffers: Iterable[Pages], ticket: Ticket) -> None:
        super().__init__(buffers)
        self._ticket = ticket


class LoopPatience:
    """Whether the event loop may read by itself. Pure.

    A read that took too long sends the next ones to the threads, twice as many each time: with a
    store on a slow disk the loop waits for one read of thousands.
    """

    def __init__(self) -> None:
        self._pause_reads = LOOP_PAUSE_READS_MIN
        self._left = 0

    def may_read(self, blocks: int) -> bool:
        """Whether a read of so many blocks may be tried; asked once for each read."""
        if blocks > LOOP_BLOCKS_MAX:
            return False
        if self._left:
            self._left -= 1
            return False
        return True

    def took(self, seconds: float) -> None:
        """A read in the loop took so long."""
        if seconds <= LOOP_READ_S_MAX:
            self._pause_reads = LOOP_PAUSE_READS_MIN
            return
        self._left = self._pause_reads
        self._pause_reads = min(2 * self._pause_reads, LOOP_PAUSE_READS_MAX)


class ReadPool:
    """Reads a store in a few threads, small reads beside large ones."""

    def __init__(
        self,
        store: PageStore,
        *,
        threads: int = THREADS_DEFAULT,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._monotonic_s = monotonic_s
        self._patience = LoopPatience()
        self._is_closing = False
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="pages")
        self._large = asyncio.Semaphore(threads - 1)  # the last thread is for small reads

    async def close(self) -> None:
        """Wait for what is being read, begin nothing more; the store may be closed then."""
        self._is_closing = True
        await asyncio.to_thread(self._executor.shutdown)

    async def read(
        self, branch: BranchName, seq: CutSeq, ranges: Sequence[PageRange]
    ) -> list[Pages | StoreError]:
        """Return the pages of each range, whole, or why not."""
        blocks = sum(wanted.blocks for wanted in ranges)
        if self._patience.may_read(blocks) and not self._is_closing:
            began_s = self._monotonic_s()
            results = _read(self._store, branch, seq, ranges)
            self._patience.took(self._monotonic_s() - began_s)
            return results
        if blocks < LARGE_BLOCKS_MIN:
            return await self._in_thread(_read, self._store, branch, seq, ranges)
        results = []
        for bite in bites(ranges, blocks_max=BITE_BLOCKS_MAX):
            async with self._large:  # first come, first served: large reads take turns
                results += await self._in_thread(_read, self._store, branch, seq, bite)
        return results

    async def contents(self, branch: BranchName, seq: CutSeq) -> CutContents:
        """Return everything of a cut but its pages, or raise StoreError."""
        async with self._large:
            return await self._in_thread(self._store.contents, branch, seq)

    async def skeleton(self, branch: BranchName, seq: CutSeq) -> bytes:
        """Return the encoded skeleton of a cut, or raise StoreError or SkeletonError."""
        async with self._large:
            return await self._in_thread(_skeleton, self._store, branch, seq)

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Who is cancelled still waits for the thread: it holds memory, and its place."""
        if self._is_closing:
            raise BusyError("the node is shutting down: ask another one")
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise


def bites(ranges: Sequence[PageRange], *, blocks_max: int) -> list[list[PageRange]]:
    """Divide ranges, in order; what exceeds `blocks_max` alone is not cut in two."""
    divided: list[list[PageRange]] = []
    room = 0
    for wanted in ranges:
        if not divided or wanted.blocks > room:
            divided.append([])
            room = blocks_max
        divided[-1].append(wanted)
        room -= wanted.blocks
    return divided


def _read(
    store: PageStore, branch: BranchName, seq: CutSeq, ranges: Sequence[PageRange]
) -> list[Pages | StoreError]:
    try:
        return store.read(branch, seq, ranges)
    except StoreError as error:
        return [error] * len(ranges)


def _skeleton(store: PageStore, branch: BranchName, seq: CutSeq) -> bytes:
    contents = store.contents(branch, seq)
    files = ((file.path, file.blocks) for file in contents.files.values())
    return encode_skeleton(files, contents.small_files, contents.directories)
