"""What to fetch, in which order, and whom to answer: the broker's decisions, without I/O.

    requests ──add()──► immediate answers
                  └───► fetches ──next_fetches()──► the shell reads pages and puts them into files
    answers ◄──finished()────────────────────────────┘

A *fault* has a process of postgres waiting behind it and goes first, each on its own; *prefetches*
go in batches behind them and are bounded, so that hints never starve faults. A request that is made
again (a lost connection, a claim that takes too long) joins the fetch that is under way.

Invariants: every fault gets exactly one answer; a block is handed out by `next_fetches` only after
the map has it as claimed; `blocks_under_way` never exceeds its limit but for faults.
"""

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from .pagefault.block_map import FILE_BLOCKS_MAX

REQUEST: Final = struct.Struct("=6I")  # tag, kind, slot, generation, first, count (agent_link.h)
ANSWER: Final = struct.Struct("=2I")  # tag, status

REQUEST_BLOCKS_MAX: Final = 1024  # 8 MiB; the library asks for 128 at most, but for wide vectors
PREFETCH_BLOCKS_UNDER_WAY_MAX: Final = 8192  # 64 MiB of pages in memory
PREFETCH_BATCH_BLOCKS: Final = 64  # a millisecond: what a fault may have to wait behind
QUEUED_BLOCKS_HIGH: Final = 16384  # above it clients are not read from: 0.3 s of work
QUEUED_BLOCKS_LOW: Final = 4096


class Kind(IntEnum):
    """Kinds of request."""

    FAULT = 1
    PREFETCH = 2
    AGAIN = 3  # a fault that was asked before, or for somebody else's claim


class Request(NamedTuple):
    """What a process of postgres asks: blocks of the file that had this slot and generation."""

    tag: int
    kind: int
    slot: int
    generation: int
    first: int
    blocks: int


class Status(IntEnum):
    """What a fault is answered. Ordered: of several, the worst counts."""

    OK = 0
    GONE = 1
    FAILED = 2
    DAMAGED = 3
    FULL = 4
    REFUSED = 5


class FileTable(Protocol):
    """What the queue needs of the block map."""

    def generation(self, number: int) -> int:
        """Of a slot; another one for each file."""
        ...

    def adopt(self, number: int, first: int, count: int) -> tuple[int, int]:
        """Claim what is MISSING: (skipped, run)."""
        ...


@dataclass(slots=True, eq=False)
class Waiter:
    """One fault of one client, which may need several fetches."""

    client: int
    tag: int
    fetches_left: int = 0
    status: Status = Status.OK


@dataclass(slots=True, eq=False)
class Fetch:
    """Claimed blocks of one file that are to be fetched."""

    slot: int
    generation: int
    first: int
    count: int
    urgent: bool
    started: bool = False
    waiters: list[Waiter] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """To be sent to a client."""

    client: int
    tag: int
    status: Status


class FaultQueue:
    """The requests of all clients, and the fetches under way."""

    def __init__(self, table: FileTable) -> None:
        self._table = table
        self._urgent: deque[Fetch] = deque()
        self._prefetches: deque[Fetch] = deque()
        self._active: set[Fetch] = set()  # queued or under way
        self._queued_blocks = 0  # of prefetches
        self._prefetch_blocks_under_way = 0

    @property
    def is_congested(self) -> bool:
        """Clients should not be read from until `is_relieved`."""
        return self._queued_blocks > QUEUED_BLOCKS_HIGH

    @property
    def is_relieved(self) -> bool:
        """Clients may be read from again."""
        return self._queued_blocks < QUEUED_BLOCKS_LOW

    @property
    def has_startable(self) -> bool:
        """Whether prefetches wait that `next_fetches` would hand out."""
        if not self._prefetches:
            return False
        under_way = self._prefetch_blocks_under_way + self._prefetches[0].count
        return under_way <= PREFETCH_BLOCKS_UNDER_WAY_MAX

    def add(self, client: int, requests: Iterable[Request]) -> list[Answer]:
        """Take requests; the answers that need no fetch."""
        answers = []
        for request in requests:
            if request.kind == Kind.PREFETCH:
                self._claim(request, urgent=False)
                continue
            status = self._fault(Waiter(client, request.tag), request)
            if status is not None:
                answers.append(Answer(client, request.tag, status))
        return answers

    def next_fetches(self) -> list[list[Fetch]]:
        """What starts now: each fault by itself, then at most one batch of prefetches."""
        batches = []
        while self._urgent:
            fetch = self._urgent.popleft()
            if not fetch.started:
                fetch.started = True
                batches.append([fetch])
        prefetches = self._next_prefetches()
        if prefetches:
            batches.append(prefetches)
        return batches

    def _next_prefetches(self) -> list[Fetch]:
        """A batch of about the right size, if there is room for it under way."""
        batch: list[Fetch] = []
        blocks = 0
        while self.has_startable and blocks < PREFETCH_BATCH_BLOCKS:
            fetch = self._prefetches.popleft()
            self._queued_blocks -= fetch.count
            if fetch.started:  # somebody came to need it, so it went ahead
                continue
            fetch.started = True
            self._prefetch_blocks_under_way += fetch.count
            batch.append(fetch)
            blocks += fetch.count
        return batch

    def is_active(self, fetch: Fetch) -> bool:
        """Whether it has not finished yet."""
        return fetch in self._active

    def idle_runs(self, slot: int, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a run of blocks, (first, count), that no fetch is to bring."""
        end = first + count
        fetches = [
            (fetch.first, fetch.first + fetch.count)
            for fetch in self._active
            if fetch.slot == slot and fetch.first < end and first < fetch.first + fetch.count
        ]
        for start, stop in sorted(fetches):
            if first < start:
                yield first, start - first
            first = max(first, stop)
        if first < end:
            yield first, end - first

    def finished(self, fetch: Fetch, status: Status) -> list[Answer]:
        """A fetch has been dealt with; the answers that were waiting for it alone."""
        if not fetch.urgent:
            self._prefetch_blocks_under_way -= fetch.count
        self._active.remove(fetch)
        answers = []
        for waiter in fetch.waiters:
            waiter.fetches_left -= 1
            waiter.status = max(waiter.status, status)
            if waiter.fetches_left == 0:
                answers.append(Answer(waiter.client, waiter.tag, waiter.status))
        return answers

    def _fault(self, waiter: Waiter, request: Request) -> Status | None:
        """Queue what a fault needs; its status if that is known already."""
        if not _is_sane(request):
            return Status.REFUSED
        if not self._is_there(request):
            return Status.GONE
        if request.kind != Kind.AGAIN or not self._join(waiter, request):
            for fetch in self._claim(request, urgent=True):
                fetch.waiters.append(waiter)
                waiter.fetches_left += 1
        return None if waiter.fetches_left else Status.OK

    def _join(self, waiter: Waiter, request: Request) -> bool:
        """Wait for the fetches that touch the blocks; whether they cover them all.

        A prefetch that has not started goes ahead now: it has become a fault.
        """
        covered = 0
        end = request.first + request.blocks
        for fetch in self._active:  # thousands at worst, and asked for once a second at most
            overlap = min(end, fetch.first + fetch.count) - max(request.first, fetch.first)
            same = fetch.slot == request.slot and fetch.generation == request.generation
            if same and overlap > 0:
                fetch.waiters.append(waiter)
                waiter.fetches_left += 1
                covered += overlap
                if not fetch.started and not fetch.urgent:
                    fetch.urgent = True
                    self._urgent.append(fetch)
        return covered >= request.blocks

    def _claim(self, request: Request, *, urgent: bool) -> Sequence[Fetch]:
        """Fetches for the blocks that are MISSING."""
        slot, generation = request.slot, request.generation
        if not _is_sane(request) or not self._is_there(request):
            return ()
        fetches = []
        first, end = request.first, request.first + request.blocks
        while first < end:
            skipped, run = self._table.adopt(slot, first, end - first)
            if not run:
                break
            fetch = Fetch(slot, generation, first + skipped, run, urgent)
            fetches.append(fetch)
            self._queue(fetch)
            first += skipped + run
        return fetches

    def _is_there(self, request: Request) -> bool:
        """Whether the file that was meant still exists; nobody ever means an odd generation."""
        generation = request.generation
        return generation % 2 == 0 and self._table.generation(request.slot) == generation

    def _queue(self, fetch: Fetch) -> None:
        self._active.add(fetch)
        if fetch.urgent:
            self._urgent.append(fetch)
        else:
            self._prefetches.append(fetch)
            self._queued_blocks += fetch.count


def _is_sane(request: Request) -> bool:
    return (
        0 < request.blocks <= REQUEST_BLOCKS_MAX
        and request.first + request.blocks <= FILE_BLOCKS_MAX
    )
