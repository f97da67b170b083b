"""The feed against a log of a few lines: forks, trimming, silence, stale nodes, back-pressure.

In scope: what the feed offers and when, in answers that a real log gives rarely. Out of scope: a
real engine and real log nodes, in tests/integration/test_wal_feed.py.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import structlog
from unit.log_service.replication_world import DEADLINE_S, in_loop
from unit.storage.wal_writer import SEGMENT_BYTES, START, Writer

from fabric.ids import BranchName, Epoch, NodeName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from fabric.rpc import Answer
from fabric.rpc_errors import BadRequestError, DeadlineError, RetryError
from log_service.history import TimelineHistory, extend_history
from log_service.methods import Topology, Wal
from log_service.replication_source import WalRemovedError
from storage.wal_feed import WalFacts, WalFeed, WalFeedSettings, WrongLogError

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


def is_received(feed: WalFeed, lsn: Lsn) -> bool:
    return feed.received > lsn


def take(feed: WalFeed, lsn: Lsn) -> bytes:
    """What is at hand from a position on, as an engine takes it."""
    taken = b""
    while pieces := feed.source.read_now(feed.source.tli, lsn + len(taken), 8192):
        taken += b"".join(pieces)
    return taken


def with_checkpoint_first(size_bytes: int) -> bytes:
    """WAL that an engine may be given a little of: a checkpoint, and nothing of use behind it."""
    writer = Writer()
    writer.checkpoint()
    rest = random.Random(1).randbytes(size_bytes - len(writer.content))
    return bytes(writer.content) + rest


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Failures are logged on purpose here."""
    structlog.reset_defaults()


@in_loop
async def test_what_was_received_is_offered_and_no_more() -> None:
    log = FakeLog(bytes(range(250)) * 40)
    async with feeding(log) as feed:
        await until(feed, lambda: feed.received == log.end)
        assert feed.source.committed == feed.committed == log.end
        assert take(feed, log.start) == log.content
        assert feed.source.read_now(Tli(1), log.end, 10) is None
        assert feed.is_idle_at(log.end)
        log.append(b"more")
        await until(feed, lambda: feed.received == log.end)
        assert not feed.is_idle_at(log.end - 1)
        assert take(feed, log.end - 4) == b"more"


@in_loop
async def test_checkpoint_is_known_before_it_can_be_sent() -> None:
    writer = Writer()
    writer.record(bytes(30_000))
    wanted = [writer.checkpoint(), writer.checkpoint()]
    log = FakeLog(bytes(writer.content))
    async with feeding(log) as feed:
        seen: list[bool] = []

        def look() -> None:
            if feed.received >= wanted[0].end:
                seen.append(feed.next_checkpoint(log.start) == wanted[0])

        feed.subscribe(look)
        await until(feed, lambda: feed.received == log.end)
        assert seen
        assert all(seen)
        assert list(feed.checkpoints) == wanted
        assert feed.next_checkpoint(wanted[0].end) == wanted[1]
        assert feed.next_checkpoint(wanted[1].end) is None
        assert not feed.checkpoints


@in_loop
async def test_checkpoint_of_the_cut_itself_is_not_found_again() -> None:
    writer = Writer()
    writer.record(b"a")
    cut = writer.checkpoint()
    later = writer.checkpoint()
    log = FakeLog(bytes(writer.content))
    async with feeding(log, start=cut.end) as feed:
        await until(feed, lambda: feed.received == log.end)
        assert list(feed.checkpoints) == [later]


@in_loop
async def test_pulling_stops_when_nothing_is_taken_and_goes_on_when_it_is() -> None:
    log = FakeLog(with_checkpoint_first(300_000))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.received - log.start == FAST.window_bytes_max)
        await until(feed, lambda: feed.committed == log.end)
        taken = b""
        while len(taken) < len(log.content):
            here = log.start + len(taken)
            await until(feed, partial(is_received, feed, here))
            taken += take(feed, here)
            assert feed.received - log.start <= len(taken) + FAST.window_bytes_max
        assert taken == log.content


@in_loop
async def test_checkpoint_beyond_the_window_is_found_all_the_same() -> None:
    writer = Writer()
    writer.record(bytes(300_000))
    wanted = writer.checkpoint()
    writer.record(bytes(200_000))
    log = FakeLog(bytes(writer.content))
    async with feeding(log) as feed:
        await until(feed, lambda: bool(feed.checkpoints))
        assert list(feed.checkpoints) == [wanted]
        await until(feed, lambda: feed.committed == log.end)
        assert feed.received < log.end
        got = b""
        while len(got) < len(log.content):
            lsn = log.start + len(got)
            await until(feed, partial(is_received, feed, lsn))
            wanted_bytes = min(8192, feed.source.committed - lsn)
            pieces = feed.source.read_now(Tli(1), lsn, wanted_bytes)
            got += b"".join(pieces or await feed.source.read(Tli(1), lsn, wanted_bytes))
            feed.discard_checkpoints(log.start + len(got))
        assert got == log.content


@in_loop
async def test_older_wal_is_read_from_the_log_again() -> None:
    log = FakeLog(with_checkpoint_first(300_000))
    async with feeding(log, start=log.start + 250_000) as feed:
        await until(feed, lambda: feed.received == log.end)
        got = b""
        while len(got) < 300_000:
            lsn = log.start + len(got)
            pieces = feed.source.read_now(Tli(1), lsn, 8192)
            got += b"".join(pieces or await feed.source.read(Tli(1), lsn, 8192))
        assert got == log.content
        again = [size for lsn, size in log.reads if lsn < START + 240_000]
        assert len(again) == 1, "each read of an engine was a call to the log"


@in_loop
async def test_timeline_ends_for_the_engine_when_all_of_it_is_here() -> None:
    log = FakeLog(with_checkpoint_first(100_000))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.received - log.start == FAST.window_bytes_max)
        log.promote(2, log.end)
        log.append(b"second")
        take(feed, log.start)
        await until(feed, lambda: feed.committed == log.end)
        assert feed.source.tli == 1
        assert feed.source.fork_of(Tli(1)) is None
        assert feed.source.history_files == {}
        while (here := feed.received) < log.end:
            take(feed, here - 1)
            await until(feed, partial(is_received, feed, here))
        assert feed.source.tli == 2
        assert feed.source.fork_of(Tli(1)) == (2, log.end - 6)
        assert feed.source.history_files == {Tli(2): log.files[Tli(2)]}
        assert take(feed, log.end - 6) == b"second"


@in_loop
async def test_what_lies_behind_a_fork_is_forgotten() -> None:
    writer = Writer()
    wanted = [writer.checkpoint()]
    fork = Lsn(writer.end)
    dead = writer.checkpoint()
    log = FakeLog(bytes(writer.content))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.received == log.end)
        assert list(feed.checkpoints) == [*wanted, dead]
        log.promote(2, fork)
        await until(feed, lambda: feed.source.tli == 2)
        assert feed.source.committed == feed.committed == fork
        assert list(feed.checkpoints) == wanted
        heir = Writer()
        assert [heir.checkpoint()] == wanted
        heir.record(b"end of recovery")
        wanted.append(heir.checkpoint(tli=2))
        log.append(bytes(heir.content[fork - START :]))
        await until(feed, lambda: feed.received == log.end)
        assert list(feed.checkpoints) == wanted
        assert take(feed, log.start) == bytes(heir.content)


@in_loop
async def test_two_promotions_at_once_are_followed_from_the_oldest() -> None:
    log = FakeLog(bytes(1000))
    log.promote(2, log.end)
    log.append(bytes(1000))
    log.promote(4, log.end)
    log.append(bytes(1000))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.received == log.end)
        assert feed.source.tli == 4
        assert feed.source.fork_of(Tli(1)) == (2, START + 1000)
        assert feed.source.fork_of(Tli(2)) == (4, START + 2000)
        assert feed.source.history_files == log.files


@in_loop
async def test_log_that_does_not_answer_is_tried_again() -> None:
    log = FakeLog(bytes(1000))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.received == log.end)
        log.is_down = True
        log.changed.set()
        await until(feed, lambda: bool(feed.complaint))
        assert feed.source.committed == log.end
        assert take(feed, log.start) == log.content
        log.append(b"news")
        log.is_down = False
        await until(feed, lambda: feed.received == log.end and not feed.complaint)
        assert feed.failed is None


@in_loop
async def test_node_that_was_cut_off_is_not_believed_for_long() -> None:
    log = FakeLog(bytes(1000))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.received == log.end)
        log.stale_end = log.end
        log.append(b"news")
        await until(feed, lambda: feed.received == log.end)
        log.stale_end = log.end - 100
        log.append(b"more news")
        await until(feed, lambda: feed.received == log.end)


@in_loop
async def test_trimmed_wal_ends_the_feed_with_a_sentence() -> None:
    log = FakeLog(bytes(100_000), trimmed=Lsn(START + 50_000))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.failed is not None)
        assert isinstance(feed.failed, WalRemovedError)
        assert "start from a newer cut, or from a cut of another storage node" in feed.complaint
    async with feeding(log, start=log.start + 60_000) as feed:
        await until(feed, lambda: feed.received == log.end)
        with pytest.raises(WalRemovedError, match="any more"):
            await feed.source.read(Tli(1), log.start, 10)
        assert feed.failed is None


@in_loop
async def test_log_of_another_cluster_or_history_is_refused() -> None:
    async with feeding(FakeLog(bytes(10), identifier=SystemIdentifier(7))) as feed:
        await until(feed, lambda: feed.failed is not None)
        assert isinstance(feed.failed, WrongLogError)
        assert "is that of system 7, and not of 42" in feed.complaint
    log = FakeLog(bytes(1000))
    log.promote(2, log.end - 500)
    async with feeding(log, start=log.start + 900) as feed:
        await until(feed, lambda: feed.failed is not None)
        assert "is not in the history of timeline 2" in feed.complaint
        assert feed.received <= log.start


@in_loop
async def test_paused_feed_keeps_nothing_and_waits_with_one_long_poll() -> None:
    log = FakeLog(bytes(50_000))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.received == log.end)
        feed.pause()
        received = feed.received
        assert feed.source.read_now(Tli(1), log.start, 10) is None
        while log.polls[-1] != FAST.idle_poll_ms:
            await log.asked.wait()
            log.asked.clear()
        polls = len(log.polls)
        log.append(bytes(50_000))
        await until(feed, lambda: feed.committed == log.end)
        assert feed.received == received
        assert len(log.polls) == polls
        feed.resume()
        await until(feed, lambda: feed.received == log.end)
        assert take(feed, received) == log.content[received - START :]
        assert b"".join(await feed.source.read(Tli(1), log.start, 100)) == bytes(100)
