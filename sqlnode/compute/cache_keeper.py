"""Keeps the data files of a compute within their bound: looks how large they are, and makes room.

    every LOOK_S, if something was fetched or written     how many bytes are allocated?
    from three quarters of the bound on                   note new files
    above the bound                                       drop blocks until nine tenths are left

What may go is decided in `cache_bound`, and by the library, which looks at the pages themselves.
Work is done in short slices, because the same loop answers faults and keeps the lease. A compute at
rest does nothing but wake up.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from fabric.lsn import Lsn
from sqlnode.broker import Broker
from sqlnode.page_source import SourceError
from sqlnode.pagefault.block_map import (
    BLOCK_BYTES,
    DROP_BLOCKS_MAX,
    BlockMapError,
    Dropped,
    LsnRange,
    Slot,
    SlotState,
)
from sqlnode.postgres import Postgres
from storage.storage_pages import StoragePages

from .cache_bound import (
    LSN_MIN,
    Facts,
    Hand,
    Proof,
    Proofs,
    Sightings,
    blocks_over,
    candidates,
    is_watched,
)
from .positions import SQL_FAILURES, connect

LOOK_S: Final = 10.0
HURRIED_S: Final = 1.0  # while there is too much; longer while nothing more can go
SLICE_S: Final = 0.002  # of work, then a pause: what a fault may have to wait behind
PAUSE_S: Final = 0.004
SLOTS_AT_ONCE: Final = 500  # a millisecond
STAT_BLOCK_BYTES: Final = 512  # of st_blocks, on every file system
ROUNDS_MAX: Final = 2  # of the hand: the second drops what the first one only warned

# Whoever has a transaction id, and whoever may be vacuuming: VACUUM notes in pages of B-trees which
# vacuum they were split under, and WAL does not say that.
_FACTS: Final = """
    select case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                else pg_current_wal_lsn() end::text,
           pg_is_in_recovery(),
           array(select virtualtransaction from pg_locks
                 where granted and pid is not null and pid <> pg_backend_pid()
                   and (locktype = 'transactionid' and mode = 'ExclusiveLock'
                        or locktype = 'relation'
                           and mode in ('ShareUpdateExclusiveLock', 'ShareRowExclusiveLock',
                                        'ExclusiveLock', 'AccessExclusiveLock')))
"""

FAILURES: Final = (*SQL_FAILURES, BlockMapError, SourceError)

log = structlog.get_logger()


class CacheKeeper:
    """Of one life of a compute."""

    def __init__(
        self,
        broker: Broker,
        pages: StoragePages,
        postgres: Postgres,
        *,
        bytes_max: int,
        reached: Callable[[], Lsn],
        hurry_cut: Callable[[], None],
    ) -> None:
        """`hurry_cut` is called when a newer cut would help."""
        self.used_bytes: int | None = None  # at the last look
        self._broker, self._pages, self._postgres = broker, pages, postgres
        self._bytes_max, self._reached, self._hurry_cut = bytes_max, reached, hurry_cut
        self._proofs, self._sightings, self._hand = Proofs(), Sightings(), Hand()
        self._seen: object = None
        self._pause_s = LOOK_S
        self._is_over = self._is_refused = False
        self._exhausted: Lsn | None = None  # by this cut not enough could go

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            try:
                await self.look()
            except FAILURES as error:  # the server ends, or no storage node answers
                self._pause_s = LOOK_S
                log.info("the cache was not looked at", reason=str(error))

    async def look(self) -> None:
        """Look once; make room if there is too much."""
        seen = (self._broker.counters.blocks, self._reached())
        if self._is_refused or (seen == self._seen and not self._is_over):
            return
        self._seen = seen
        used_bytes = await asyncio.to_thread(allocated_bytes, self._broker.block_map.data_dir)
        wanted = blocks_over(used_bytes, self._bytes_max)
        self._is_over = wanted > 0
        self.used_bytes = used_bytes
        if not is_watched(used_bytes, self._bytes_max):
            self._proofs.forget()
            self._pause_s = LOOK_S
            return
        slots = await self._prepare()
        outcome = Dropped()
        if wanted and self._proofs.proved is not None:
            outcome = await self._trim(self._proofs.proved, slots, wanted, used_bytes)
        self._choose_pause(is_done=outcome.dropped >= wanted)

    async def _prepare(self) -> list[Slot]:
        """Learn what is known of cut and files; return the files. The order matters: see `Proofs`
        and `Sightings`.
        """
        cut_lsn = self._pages.cut_lsn
        if self._is_over and self._proofs.wants(cut_lsn):
            described = await self._pages.describe()  # of this very cut
            self._proofs.begin(cut_lsn, {file.path: file.blocks for file in described.files})
        slots = [slot async for slot in self._slots()]
        facts = await ask(self._postgres)
        self._sightings.note(slots, facts.position)
        self._proofs.look(facts)
        return slots

    async def _slots(self) -> AsyncIterator[Slot]:
        block_map = self._broker.block_map
        for number in range(block_map.slots_used()):
            slot = block_map.slot(number)
            if slot is not None and slot.state is SlotState.LIVE:
                yield slot
            if number % SLOTS_AT_ONCE == SLOTS_AT_ONCE - 1:
                await asyncio.sleep(0)

    def _choose_pause(self, *, is_done: bool) -> None:
        """A newer cut lets more go, so it is worth a new look at once; the same one is less so."""
        if is_done:
            self._pause_s, self._is_over, self._exhausted = LOOK_S, False, None
            return
        by_cut = None if self._proofs.proved is None else self._proofs.proved.lsn
        is_newer = by_cut != self._exhausted
        self._pause_s = HURRIED_S if is_newer else min(2 * self._pause_s, LOOK_S)
        self._exhausted = by_cut
        self._hurry_cut()

    async def _trim(self, proof: Proof, slots: list[Slot], wanted: int, used_bytes: int) -> Dropped:
        """Go round with the hand until enough is dropped."""
        began_s = slice_s = time.monotonic()
        outcome = Dropped()
        lsns = LsnRange(LSN_MIN, proof.lsn)
        for slot, first, count in self._round(candidates(slots, proof, self._sightings)):
            outcome = outcome.plus(self._broker.drop(slot, first, count, lsns))
            if outcome.dropped >= wanted or outcome.error:
                break
            if time.monotonic() - slice_s >= SLICE_S:
                await asyncio.sleep(PAUSE_S)
                slice_s = time.monotonic()
        log.info(
            "cache trimmed", dropped=outcome.dropped, wanted=wanted, used=outcome.used,
            newer=outcome.newer, cut=proof.lsn, bytes_before=used_bytes,
            bytes_after=used_bytes - outcome.dropped * BLOCK_BYTES, bytes_max=self._bytes_max,
            took_ms=round((time.monotonic() - began_s) * 1000),
        )  # fmt: skip
        if outcome.error:
            self._is_refused = True
            log.warning(
                "the file system cannot make holes; cache_bytes_max has no effect here",
                reason=os.strerror(outcome.error),
            )
        return outcome

    def _round(self, files: list[tuple[Slot, int]]) -> Iterator[tuple[Slot, int, int]]:
        """Yield runs of blocks in the order of the hand, and move it behind each."""
        for slot, first, end in ROUNDS_MAX * self._hand.ordered(files):
            for start in range(first, end, DROP_BLOCKS_MAX):
                count = min(DROP_BLOCKS_MAX, end - start)
                self._hand.slot, self._hand.block = slot.number, start + count
                yield slot, start, count


async def ask(postgres: Postgres) -> Facts:
    """Ask a server, over a connection for this one question. Raises one of `SQL_FAILURES`."""
    sql = await connect(postgres)
    try:
        position, in_recovery, workers = await sql.fetchrow(_FACTS)
    finally:
        sql.terminate()
    return Facts(
        Lsn(0) if position is None else Lsn.parse(position), in_recovery, frozenset(workers)
    )


def allocated_bytes(data_dir: Path) -> int:
    """Return what the data files take on disk; in a thread, for there may be many."""
    folders = [data_dir / "global", *data_dir.glob("base/*"), *data_dir.glob("pg_tblspc/*/*/*")]
    blocks = 0
    for folder in folders:
        try:
            for entry in os.scandir(folder):
                if entry.name[0].isdigit():  # not what is temporary
                    blocks += entry.stat(follow_symlinks=False).st_blocks
        except OSError:  # dropped this moment
            continue
    return blocks * STAT_BLOCK_BYTES


def bound_of(bytes_max: int | None, run_dir: Path) -> int:
    """Return the bound that is set, or half of the file system."""
    if bytes_max is not None:
        return bytes_max
    status = os.statvfs(run_dir)
    return status.f_blocks * status.f_frsize // 2
