"""A log of a few lines, and a feed that reads it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from unit.log_service.replication_world import DEADLINE_S
from unit.storage.wal_writer import SEGMENT_BYTES, START

from fabric.ids import BranchName, Epoch, NodeName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from fabric.rpc import Answer
from fabric.rpc_errors import BadRequestError, DeadlineError, RetryError
from log_service.history import TimelineHistory, extend_history
from log_service.methods import Topology, Wal
from storage.wal_feed import WalFacts, WalFeed, WalFeedSettings

IDENTIFIER = SystemIdentifier(42)
BRANCH = BranchName("main")
FAST = WalFeedSettings(
    window_bytes_max=64 * 1024,
    read_bytes_max=16 * 1024,
    poll_ms=20,
    idle_poll_ms=60_000,
    gather_ms=0,
    backoff_base_ms=1,
    backoff_cap_ms=5,
)


@dataclass(slots=True, eq=False)
class FakeLog:
    """A log in memory; every call waits for its turn, as over a network."""

    content: bytes = b""
    start: Lsn = Lsn(START)  # noqa: RUF009  # an immutable value
    history: TimelineHistory = field(default_factory=lambda: TimelineHistory(Tli(1)))
    files: dict[Tli, bytes] = field(default_factory=dict)
    identifier: SystemIdentifier = IDENTIFIER
    trimmed: Lsn = Lsn(START)  # noqa: RUF009  # as above
    is_down: bool = False
    stale_end: Lsn | None = None  # what a node believes that was cut off
    polls: list[int] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def end(self) -> Lsn:
        """The committed end."""
        return self.start + len(self.content)

    def append(self, content: bytes) -> None:
        """Commit more."""
        self.content += content
        self.changed.set()

    def promote(self, tli: int, fork: Lsn) -> None:
        """End the timeline, maybe before its end."""
        self.history = extend_history(self.history, tli=Tli(tli), end=fork, reason="test")
        self.files[Tli(tli)] = self.history.file
        self.content = self.content[: fork - self.start]
        self.changed.set()

    async def read_wal(
        self,
        branch: BranchName,
        *,
        tli: Tli,
        lsn: Lsn,
        bytes_max: int,
        wait_ms: int = 0,
        timeout_ms: int = 0,
    ) -> Answer[Wal]:
        """As a log node does."""
        del branch, timeout_ms
        await asyncio.sleep(0)
        self._refuse_if_down()
        self.polls.append(wait_ms)
        self.asked.set()
        end = self._readable(tli)
        if wait_ms and end == lsn:
            self.changed.clear()
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    while self._readable(tli) == lsn and not self.is_down:
                        await self.changed.wait()
                        self.changed.clear()
            except TimeoutError:
                pass
            self._refuse_if_down()
        end = self._readable(tli)
        fork = self.history.fork_of(tli)
        response = Wal(self.history.tli, self.stale_end or self.end, fork[1] if fork else None)
        if lsn >= end:
            return Answer(response, b"")
        if lsn < self.trimmed:
            raise BadRequestError(f"WAL at {lsn} was trimmed: start from a newer cut")
        payload = self.content[lsn - self.start : min(end, lsn + bytes_max) - self.start]
        self.reads.append((int(lsn), len(payload)))
        return Answer(response, payload)

    def _readable(self, tli: Tli) -> Lsn:
        fork = self.history.fork_of(tli)
        return fork[1] if fork else self.stale_end or self.end

    def _refuse_if_down(self) -> None:
        if self.is_down:
            raise DeadlineError("time is up: nobody is there")

    async def read_history(self, branch: BranchName, tli: Tli) -> bytes:
        """The file, if there is one."""
        del branch
        await asyncio.sleep(0)
        self._refuse_if_down()
        if tli not in self.files:
            raise BadRequestError(f"timeline {tli:d} has no history file here")
        return self.files[tli]

    async def topology(self, branch: BranchName, *, timeout_ms: int = 0) -> Topology:
        """What the leader says; asking it ends the belief in a stale node."""
        del branch, timeout_ms
        await asyncio.sleep(0)
        if self.is_down:
            raise RetryError("nobody leads")
        self.stale_end = None
        return Topology(
            version="1",
            node=NodeName("log-1"),
            leader=None,
            term=1,
            is_leading=True,
            members=(),
            epoch=Epoch(1),
            holder=None,
            is_streaming=True,
            tli=self.history.tli,
            start=self.trimmed,
            end=self.end,
            epoch_start=self.start,
            system_identifier=self.identifier,
        )


@asynccontextmanager
async def feeding(
    log: FakeLog, *, start: Lsn | None = None, tli: int = 1, settings: WalFeedSettings = FAST
) -> AsyncIterator[WalFeed]:
    facts = WalFacts(
        system_identifier=IDENTIFIER, segment_bytes=SEGMENT_BYTES, server_version="18.4"
    )
    feed = WalFeed(
        log,
        BRANCH,
        facts,
        start_lsn=start or log.start,
        start_tli=Tli(tli),
        rng=random.Random(1),
        settings=settings,
    )
    await feed.start()
    try:
        yield feed
    finally:
        await feed.close()


async def until(feed: WalFeed, condition: Callable[[], bool]) -> None:
    """Wait for a change of the feed that makes it true."""
    changed = asyncio.Event()
    unsubscribe = feed.subscribe(changed.set)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                changed.clear()
                await changed.wait()
    finally:
        unsubscribe()
