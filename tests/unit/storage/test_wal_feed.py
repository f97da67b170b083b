"""The feed against a log of a few lines: forks, trimming, silence, stale nodes, back-pressure.

In scope: what the feed offers and when, in answers that a real log gives rarely. Out of scope: a
real engine and real log nodes, in tests/integration/test_wal_feed.py.
"""

import random
from functools import partial

import pytest
import structlog
from unit.log_service.replication_world import in_loop
from unit.storage.log_in_memory import FAST, FakeLog, feeding, until
from unit.storage.wal_writer import START, Writer

from fabric.ids import SystemIdentifier
from fabric.lsn import Lsn, Tli
from log_service.history import TimelineHistory
from log_service.replication_source import WalRemovedError
from storage.wal_feed import WalFeed, WrongLogError


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
        log.append(b"more")
        await until(feed, lambda: feed.received == log.end)
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
async def test_checkpoint_far_behind_the_window_is_found_by_who_looks_ahead() -> None:
    writer = Writer()
    wanted = []
    for _ in range(4):
        wanted.append(writer.checkpoint())
        writer.record(bytes(300_000))
    log = FakeLog(bytes(writer.content))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.received - log.start == FAST.window_bytes_max)
        await until(feed, lambda: feed.committed == log.end)
        received = feed.received
        for upto, last in ((log.end, 3), (wanted[3].end, 3), (wanted[3].end - 1, 2)):
            assert await feed.look_ahead(after=wanted[0].end, upto=Lsn(upto)) == wanted[last]
        assert await feed.look_ahead(after=wanted[3].end, upto=log.end) is None
        assert await feed.look_ahead(after=wanted[2].end, upto=log.end + 10_000) == wanted[3]
        assert feed.received == received
        assert list(feed.checkpoints) == wanted[:1], "what was looked at is not offered"


@in_loop
async def test_looking_ahead_finds_nothing_while_the_log_is_silent() -> None:
    log = FakeLog(with_checkpoint_first(300_000))
    async with feeding(log) as feed:
        await until(feed, lambda: feed.committed == log.end)
        log.is_down = True
        assert await feed.look_ahead(after=log.start, upto=log.end) is None
        assert feed.failed is None


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
async def test_history_of_the_cuts_own_timeline_is_offered_after_a_later_promotion() -> None:
    log = FakeLog(bytes(1000))
    log.promote(2, log.end)
    log.append(bytes(1000))
    cut = log.end
    log.promote(3, log.end)
    log.append(bytes(1000))
    async with feeding(log, start=cut, tli=2) as feed:
        await until(feed, lambda: feed.received == log.end)
        assert feed.source.history_files == log.files


@in_loop
async def test_first_timeline_of_a_log_may_have_no_history() -> None:
    log = FakeLog(bytes(1000), history=TimelineHistory(Tli(5)))
    log.promote(6, log.end)
    log.append(bytes(1000))
    async with feeding(log, tli=5) as feed:
        await until(feed, lambda: feed.received == log.end)
        assert feed.source.history_files == {Tli(6): log.files[Tli(6)]}


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
        assert isinstance(feed.failed, WalRemovedError)  # no engine starts from this cut any more


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
