"""The fault broker: answers postgres's questions for blocks from a page source.

One Unix socket, one connection for each process of postgres that has faulted. The shell only: which
fetch comes when is decided in `faults`, what happens to a page in `page_writer`.

    postgres ─request─► _Client ─► FaultQueue ─► PageSource.read ─► PageWriter ─► answer ─► postgres

A broker may be killed and started again at any time: the new one lets go of all claims, and whoever
was waiting asks again.
"""

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import structlog

from .datadir import ComputeDir, DirectoryLock, open_block_map
from .faults import ANSWER, REQUEST, Answer, FaultQueue, Fetch, Kind, Request, Status
from .page_source import DamagedPageError, PageRange, PageSource, SourceError
from .page_writer import PageWriter
from .pagefault.block_map import FILE_BLOCKS_MAX, Dropped, LsnRange, Pages, Slot

LINGER_S: Final = 0.000_2  # the gap between the faults of one process, measured: 30 to 150 us
CLIENTS_MAX: Final = 8192  # more than a postgres with thousands of connections opens
_FILL_REQUEST_BLOCKS: Final = 128
_FILL_CLIENT: Final = 0
_FILL_READS_MAX: Final = 8  # side by side: enough for a source that is a network away

log = structlog.get_logger()


@dataclass(slots=True)
class BrokerCounters:
    """What happened so far; the map's statistics page has the view of postgres."""

    faults: int = 0
    prefetches: int = 0
    blocks: int = 0
    reads: int = 0  # of the source
    failed: int = 0  # ranges that the source could not give
    damaged: int = 0  # ranges with a wrong checksum
    refused_clients: int = 0
    dropped: int = 0  # blocks taken out of their files, to make room


class Broker:
    """Serves the faults of one run directory. Use as `async with`."""

    def __init__(
        self, compute: ComputeDir, source: PageSource, *, verify_checksums: bool = True
    ) -> None:
        self.counters = BrokerCounters()
        self.block_map = open_block_map(compute)
        self._compute = compute
        self._source = source
        self._writer = PageWriter(self.block_map, compute.data, verify_checksums=verify_checksums)
        self._queue = FaultQueue(self.block_map)
        self._clients: dict[int, _Client] = {}
        self._next_client = _FILL_CLIENT + 1
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused: set[int] = set()
        self._flush_due = False
        self._is_closing = False  # then nothing may touch the map any more
        self._is_lingering = False
        self._linger_until_s = 0.0
        self._idle = asyncio.Event()
        self._lock: DirectoryLock | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Broker":
        self._lock = DirectoryLock(self._compute)
        released = self.block_map.release_all()
        self._compute.socket.unlink(missing_ok=True)
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_unix_server(
            lambda: _Client(self), str(self._compute.socket), backlog=1024
        )
        log.info("broker.started", directory=str(self._compute.root), claims_released=released)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop answering; fetches under way are abandoned, and their claims with them."""
        assert self._server is not None
        assert self._lock is not None
        self._is_closing = True
        self._server.close()
        for client in list(self._clients.values()):
            client.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._compute.socket.unlink(missing_ok=True)
        self._writer.close()
        self.block_map.close()
        self._lock.release()

    async def fill(self) -> int:
        """Fetch all that is still MISSING, behind everything that is asked for; the blocks done.

        For a compute that shall not depend on storage any more, and before offline tools that read
        the files without the library.
        """
        before = self.counters.blocks
        for number in range(self.block_map.slots_used()):
            await self._fill_file(number, 0, FILE_BLOCKS_MAX)
        while self._tasks or self._queue.has_startable:
            self._idle.clear()
            await self._idle.wait()
        return self.counters.blocks - before

    async def warm(self, path: str, first: int, count: int) -> None:
        """Ask for what is MISSING of some blocks, behind everything that is asked for."""
        slot = self.block_map.find(path)
        if slot is not None:
            await self._fill_file(slot.number, first, first + count)

    async def _fill_file(self, number: int, start: int, end: int) -> None:
        slot = self.block_map.slot(number)
        while slot is not None and slot.is_live and start < end:
            run = self.block_map.next_missing(number, start, _FILL_REQUEST_BLOCKS)
            if run is None or run[0] >= end:
                return
            first, count = run[0], min(run[1], end - run[0])
            request = Request(0, Kind.PREFETCH, number, slot.generation, first, count)
            self._queue.add(_FILL_CLIENT, [request])
            self.start_fetches()
            while not self._queue.is_relieved or len(self._tasks) > _FILL_READS_MAX:
                self._idle.clear()
                await self._idle.wait()
            start = first + count

    def drop(self, slot: Slot, first: int, count: int, lsns: LsnRange) -> Dropped:
        """Take blocks out of their file that storage has, too: they are MISSING again.

        `lsns` says of which pages that is true. A fetch of these blocks that is under way was asked
        for when an older page would have done, so they are left alone.
        """
        outcome = Dropped()
        for start, length in self._queue.idle_runs(slot.number, first, count):
            outcome = outcome.plus(self._writer.drop(slot, start, length, lsns))
        self.counters.dropped += outcome.dropped
        return outcome

    # Clients.

    def admit(self, client: "_Client") -> int | None:
        """A number for a new connection, or None when there are too many."""
        if len(self._clients) >= CLIENTS_MAX:
            self.counters.refused_clients += 1
            log.warning("broker.too_many_clients", limit=CLIENTS_MAX)
            return None
        number = self._next_client
        self._next_client += 1
        self._clients[number] = client
        return number

    def dismiss(self, number: int) -> None:
        """The connection is gone; what it asked for is fetched all the same."""
        self._clients.pop(number, None)
        self._paused.discard(number)

    def requested(self, number: int, requests: Sequence[Request]) -> None:
        """Requests of a client. Fetches start once all that is readable now has been read."""
        prefetches = sum(request.kind == Kind.PREFETCH for request in requests)
        self.counters.prefetches += prefetches
        self.counters.faults += len(requests) - prefetches
        self._answer(self._queue.add(number, requests))
        if self._queue.is_congested:
            self._paused.add(number)
            self._clients[number].pause()
        self._flush_soon()

    def _answer(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            client = self._clients.get(answer.client)
            if client is not None:
                client.send(ANSWER.pack(answer.tag, answer.status))
                self._linger()

    def _linger(self) -> None:
        """Stay awake a moment after an answer: whoever got it often has the next question.

        An idle processor takes longer to wake up than a fault takes to answer. Bounded by
        `LINGER_S` for each fault, and the loop still serves whatever else comes.
        """
        self._linger_until_s = time.monotonic() + LINGER_S
        if not self._is_lingering:
            self._is_lingering = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if time.monotonic() < self._linger_until_s and not self._is_closing:
            self._loop.call_soon(self._turn)
        else:
            self._is_lingering = False

    # Fetches.

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.start_fetches)

    def start_fetches(self) -> None:
        """Start what may start; resume clients when the queue has drained.

        Of prefetches one batch for each turn of the loop: a fault that comes meanwhile is seen
        after one batch, also when the source answers without ever waiting.
        """
        self._flush_due = False
        if self._is_closing:
            return
        for batch in self._queue.next_fetches():
            task = asyncio.create_task(self._fetch(batch))
            self._tasks.add(task)
            task.add_done_callback(self._fetched)
        if self._queue.has_startable:
            self._flush_soon()
        if self._paused and self._queue.is_relieved:
            for number in self._paused:
                self._clients[number].resume()
            self._paused.clear()

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._idle.set()
        if not task.cancelled():
            task.result()  # a bug in here must not be swallowed
            self._flush_soon()

    async def _fetch(self, batch: list[Fetch]) -> None:
        """Every fetch of the batch finishes, whatever happens: somebody waits for it."""
        try:
            await self._fetch_pages(batch)
        except Exception:
            log.exception("broker.bug")
            for fetch in batch:
                if self._queue.is_active(fetch):
                    self._writer.give_up(fetch)
                    self._finish(fetch, Status.FAILED)

    async def _fetch_pages(self, batch: list[Fetch]) -> None:
        """Read a batch of pages and put them in place."""
        present, ranges = self._locate(batch)
        if not ranges:
            return
        self.counters.reads += 1
        arrived = []
        for fetch, pages in zip(present, await self._read(ranges), strict=True):
            if isinstance(pages, SourceError):
                self._fail(fetch, pages)
            else:
                arrived.append((fetch, pages))
        for (fetch, _), outcome in zip(arrived, self._writer.install(arrived), strict=True):
            if isinstance(outcome, SourceError):
                self._fail(fetch, outcome)
            else:
                self._finish(fetch, outcome)

    def _locate(self, batch: list[Fetch]) -> tuple[list[Fetch], list[PageRange]]:
        """The fetches whose files are there, and what to read for each."""
        present = []
        ranges = []
        for fetch in batch:
            try:
                path = self._writer.path_of(fetch.slot, fetch.generation)
            except SourceError as error:
                self._fail(fetch, error)
                continue
            if path is None:
                self._finish(fetch, Status.GONE)
            else:
                present.append(fetch)
                ranges.append(PageRange(path, fetch.first, fetch.count))
        return present, ranges

    async def _read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        """A source that raises, against its contract, fails the batch and not the broker."""
        try:
            results = await self._source.read(ranges)
        except Exception as error:  # noqa: BLE001  # whatever a source's libraries raise
            log.error("broker.source_failed", error=repr(error))  # noqa: TRY400  # one line will do
            return [SourceError(f"the page source failed: {error!r}")] * len(ranges)
        if len(results) != len(ranges):
            return [SourceError("the page source answered another number of ranges")] * len(ranges)
        return results

    def _fail(self, fetch: Fetch, error: SourceError) -> None:
        """Say it once, here; postgres says which query it hit."""
        damaged = isinstance(error, DamagedPageError)
        self.counters.damaged += damaged
        self.counters.failed += not damaged
        log.error("broker.damaged_page" if damaged else "broker.fetch_failed", error=str(error))
        self._writer.give_up(fetch)
        self._finish(fetch, Status.DAMAGED if damaged else Status.FAILED)

    def _finish(self, fetch: Fetch, status: Status) -> None:
        if status is Status.OK:
            self.counters.blocks += fetch.count
        self._answer(self._queue.finished(fetch, status))


class _Client(asyncio.Protocol):
    """One process of postgres."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._number: int | None = None
        self._transport: asyncio.Transport | None = None
        self._partial = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        if not _is_our_postgres(self._transport):
            log.warning("broker.stranger_refused")
            self.close()
            return
        self._number = self._broker.admit(self)
        if self._number is None:
            self.close()

    def data_received(self, data: bytes) -> None:
        if self._number is None:
            return
        if self._partial:
            data = self._partial + data
        whole = len(data) - len(data) % REQUEST.size
        self._partial = data[whole:]
        requests = list(map(Request._make, REQUEST.iter_unpack(data[:whole])))
        if any(request.kind not in _KINDS for request in requests):
            log.warning("broker.garbage_refused")
            self.close()
            return
        if requests:
            self._broker.requested(self._number, requests)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._number is not None:
            self._broker.dismiss(self._number)

    def send(self, answer: bytes) -> None:
        """Eight bytes to a process that waits for just these: no back-pressure needed."""
        assert self._transport is not None
        self._transport.write(answer)

    def pause(self) -> None:
        """Stop reading: the process's next hint waits in its socket, and then in the process."""
        assert self._transport is not None
        with contextlib.suppress(RuntimeError):  # paused already
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        assert self._transport is not None
        self._transport.resume_reading()

    def close(self) -> None:
        """Hang up."""
        assert self._transport is not None
        self._transport.abort()


_KINDS: Final = frozenset(Kind)
_PEER_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


def _is_our_postgres(transport: asyncio.Transport) -> bool:
    """Whether the peer runs as the user that we are, or root; nobody else may make us read."""
    connection: socket.socket = transport.get_extra_info("socket")
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
    )
    _, uid, _ = _PEER_CREDENTIALS.unpack(credentials)
    return os.geteuid() == 0 or uid in {0, os.geteuid()}
