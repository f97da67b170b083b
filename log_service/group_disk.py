"""The writing of one group: Readys queue up, and one write takes all that have come meanwhile.

    add(...) ─► start() ─► votes, cuts, one append, one fdatasync ─► done

The writing runs in a thread, or in place where that is faster (sync_pace.py). One job of a group at
a time is under way. A full disk is tried again after a while, with nothing
lost: what waits is also in memory. Any other error is fatal, because nobody knows what is on a disk
that failed a sync.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import structlog

from raft.messages import Message
from raft.types import HardState, Snapshot

from .disk_errors import DiskFullError
from .disk_writer import DiskWriter
from .group_log import GroupLog
from .log_state import LogStart
from .record import Record

log = structlog.get_logger()

T = TypeVar("T")

PREPARE_PAUSE_MS: Final = 2  # between the megabytes of a new segment, for the writes of commits


class Write:
    """What one Ready wants from the disk, and what may be sent then; it never changes."""

    __slots__ = (
        "hard_state",
        "is_empty",
        "messages_after",
        "number",
        "records",
        "restore",
        "size_bytes",
    )

    def __init__(
        self,
        number: int,
        hard_state: HardState | None,
        restore: Snapshot | None,
        records: Sequence[Record],
        messages_after: tuple[Message, ...],
    ) -> None:
        self.number = number
        self.hard_state = hard_state
        self.restore = restore
        self.records = records
        self.messages_after = messages_after
        self.is_empty = not (records or hard_state or restore)  # there is nothing to write
        self.size_bytes = 0  # of the records
        for record in records:
            self.size_bytes += record.size_bytes


class GroupDisk:
    """Invariant: at most one job of this group is with the writer."""

    def __init__(
        self,
        name: str,
        disk: GroupLog,
        *,
        writer: DiskWriter,
        retry_ms: int,
        written: Callable[[Sequence[Write]], None],
        still_full: Callable[[], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._name = name
        self._disk = disk
        self._writer = writer
        self._retry_ms = retry_ms
        self._written = written
        self._still_full = still_full
        self._fatal = fatal
        self._queue: list[Write] = []
        self._under_way: list[Write] = []
        self._has_failed = False
        self._is_writing = False
        self._freed: asyncio.Event | None = None  # there is one while somebody waits for it
        self._is_not_preparing = asyncio.Event()
        self._is_not_preparing.set()
        self._is_closed = False
        self.is_full = False
        self._prepare()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._is_writing and not self._queue

    @property
    def durable_index(self) -> int:
        """Up to where the log on disk is the one in memory, for good.

        What waits may cut it: entries behind that are durable, but not the log's any more.
        """
        index = self._disk.synced_index
        for writes in (self._under_way, self._queue):
            for write in writes:
                if write.restore is not None:
                    return 0
                if write.records:
                    index = min(index, write.records[0].index - 1)
        return index

    def add(self, write: Write) -> None:
        """Queue what a Ready wants."""
        self._queue.append(write)

    def start(self, *, is_sending: bool = True) -> None:
        """Begin to write what waits, unless a job is under way.

        `is_sending`: messages were handed out in this turn of the loop and have not left yet.
        """
        if self._is_writing or self._has_failed or not self._queue:
            return
        writes, self._queue = self._queue, []
        is_empty, size_bytes = True, 0
        for write in writes:
            is_empty = is_empty and write.is_empty
            size_bytes += write.size_bytes
        if is_empty:
            self._written(writes)
            return
        self._is_writing, self._under_way = True, writes
        if self._writer.pace.may_run_in_place(self, size_bytes):
            if is_sending:  # that leaves first, when this turn of the loop ends
                asyncio.get_running_loop().call_soon(self._write_in_place, writes, size_bytes)
            else:
                self._write_in_place(writes, size_bytes)
        else:
            self._writer.submit(
                lambda: _write(self._disk, writes),
                lambda took_us, error: self._done(writes, size_bytes, took_us, error),
            )

    def _write_in_place(self, writes: list[Write], size_bytes: int) -> None:
        try:
            took_us = _write(self._disk, writes)
        except Exception as error:  # noqa: BLE001  # as if it came from a thread
            self._done(writes, size_bytes, None, error)
        else:
            self._done(writes, size_bytes, took_us, None)

    async def run(self, job: Callable[[], T]) -> T:
        """Run another job on the log, alone."""
        while self._is_writing:
            if self._freed is None:
                self._freed = asyncio.Event()
            await self._freed.wait()
        self._is_writing = True
        try:
            return await self._writer.run(job)
        finally:
            self._release()

    async def close(self) -> None:
        """Let what is under way finish, and close the log."""
        self._is_closed = True
        await self._is_not_preparing.wait()
        await self.run(self._disk.close)

    def _done(
        self,
        writes: list[Write],
        size_bytes: int,
        took_us: float | None,
        error: BaseException | None,
    ) -> None:
        self._release()
        if took_us is not None:
            self._writer.pace.note(took_us, size_bytes)
        self._under_way = []
        if isinstance(error, DiskFullError):
            self._full(writes, error)
        elif error is not None:
            # A later write must not vouch for this one: that is what its number would say.
            self._has_failed = True
            self._fatal(error)
        else:
            if self.is_full:
                self.is_full = False
                log.info("log disk has room again", group=self._name)
            self._written(writes)
            if not self._disk.has_spare:
                self._prepare()

    def _full(self, writes: list[Write], error: DiskFullError) -> None:
        self._queue[:0] = writes
        # Taken, so that nothing is tried before the pause is over.
        self._is_writing = True
        asyncio.get_running_loop().call_later(self._retry_ms / 1000, self._retry)
        if not self.is_full:
            self.is_full = True
            log.error("log disk is full", group=self._name, reason=str(error))
        self._still_full()

    def _retry(self) -> None:
        self._release()
        self.start()

    # A segment made ahead, bit by bit beside the writing, so that no append waits for one.

    def _prepare(self) -> None:
        is_wanted = self._is_not_preparing.is_set() and not self._disk.has_spare
        if is_wanted and not self._is_closed:
            self._is_not_preparing.clear()
            self._writer.submit(self._disk.prepare_spare, self._prepared)

    def _prepared(
        self, is_ready: bool | None, error: BaseException | None
    ) -> None:  # what the writer calls
        self._is_not_preparing.set()
        if error is not None:
            self._fatal(error)
        elif not is_ready and not self.is_full:
            pause_ms = PREPARE_PAUSE_MS if self._disk.has_unfinished_spare else self._retry_ms
            asyncio.get_running_loop().call_later(pause_ms / 1000, self._prepare)

    def _release(self) -> None:
        self._is_writing = False
        if self._freed is not None:
            self._freed.set()
            self._freed = None


def _write(disk: GroupLog, writes: Sequence[Write]) -> float:
    """Do the writing of several Readys, again if the disk was full; return the microseconds.

    The newest term and vote go first: no entry is of a term that a crash could make us forget, and
    a second attempt does not go back to older ones.
    """
    began_s = time.perf_counter()
    hard_state: HardState | None = None
    for write in writes:
        hard_state = write.hard_state or hard_state
    if hard_state is not None:
        disk.save_hard_state(hard_state.term, hard_state.vote)
    records: list[Record] = []
    for write in writes:
        if write.restore is not None:
            disk.append(records)
            records = []
            state = write.restore.ref
            assert isinstance(state, bytes), "a snapshot is a branch's state"
            disk.reset(LogStart(index=write.restore.index, term=write.restore.term, state=state))
        if write.records and records and write.records[0].index != records[-1].index + 1:
            disk.append(records)
            records = []
        records.extend(write.records)
    disk.append(records)
    disk.sync()
    return (time.perf_counter() - began_s) * 1e6
