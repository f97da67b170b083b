"""Committed WAL of a group, from memory, from the log on disk, and from the archive."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from unit.log_service.group_world import (
    GENESIS,
    SEGMENT,
    START,
    World,
    timeline_after,
    wal_bytes,
    world_of,
)

from fabric.ids import BranchName, ClusterName
from fabric.lsn import Lsn, Tli
from log_service.archive import archived_upto, upload
from log_service.archive_plan import ArchiveLayout, plan_archive
from log_service.record_bodies import Trim
from log_service.replication_source import WalRemovedError
from log_service.wal_source import GroupWal
from object_store.memory import MemoryStore

LAYOUT = ArchiveLayout(
    cluster=ClusterName("demo"),
    branch=BranchName("main"),
    segment_bytes=SEGMENT,
    first_tli=Tli(1),
)
FORK = Lsn(START + 20_000)


def source_of(world: World, member: int, store: MemoryStore | None = None) -> GroupWal:
    replica = world.replicas[member]
    return GroupWal(replica.group, threads=replica.writer, store=store, layout=lambda: LAYOUT)


def run(tmp_path: Path, story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with world_of(tmp_path, 3) as world:
            await story(world)

    asyncio.run(main())


async def promoted(world: World) -> None:
    """WAL of timeline 1 beyond the fork, and of timeline 2 from there, more than memory holds."""
    leader = world.group(1)
    await world.write(leader, *([2500] * 10))
    await world.finish(leader.propose(timeline_after(leader.committed.history, 2, FORK)))
    await world.write(leader, *([2500] * 4), 77)


def expected(lsn: int, size_bytes: int) -> bytes:
    """What the newest timeline has at a place."""
    below = max(0, min(size_bytes, FORK - lsn))
    return wal_bytes(lsn, below, 1) + wal_bytes(lsn + below, size_bytes - below, 2)


def test_every_committed_byte_can_be_read_from_everywhere(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await promoted(world)
        rng = random.Random(1)
        for member in (1, 2):
            wal = source_of(world, member)
            assert wal.committed == FORK + 10_077
            in_memory = 0
            for _ in range(60):
                lsn = Lsn(rng.randrange(START, wal.committed))
                size_bytes = rng.randrange(1, 9000)
                in_memory += wal.read_now(Tli(2), lsn, size_bytes) is not None
                data = b"".join(await wal.read(Tli(2), lsn, size_bytes))
                assert 0 < len(data) <= min(size_bytes, wal.committed - lsn)
                assert data == expected(lsn, len(data))
            assert 0 < in_memory < 60

    run(tmp_path, story)


def test_nothing_is_served_that_is_not_committed(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        leader = world.group(1)
        await world.write(leader, 1000)
        world.cut_off = {2, 3}
        await world.write(leader, 1000)
        wal = source_of(world, 1)
        assert wal.committed == START + 1000
        for read in (wal.read_now, wal.read_blocking):
            pieces = read(Tli(1), Lsn(START + 990), 1000)
            assert pieces is not None
            assert b"".join(pieces) == wal_bytes(START + 990, 10)
            with pytest.raises(WalRemovedError, match="no committed byte"):
                read(Tli(1), Lsn(START + 1000), 10)

    run(tmp_path, story)


def test_what_is_behind_a_fork_is_never_served(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await promoted(world)
        wal = source_of(world, 1)
        assert wal.fork_of(Tli(1)) == (2, FORK)
        assert wal.fork_of(Tli(2)) is None
        data = b"".join(await wal.read(Tli(1), Lsn(FORK - 10), 1000))
        assert data == wal_bytes(FORK - 10, 10, 1)
        for lsn in (FORK, FORK + 100):
            with pytest.raises(WalRemovedError, match="no committed byte"):
                await wal.read(Tli(1), Lsn(lsn), 10)

    run(tmp_path, story)


def test_it_says_whose_wal_it_is(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await promoted(world)
        wal = source_of(world, 2)
        assert wal.system_identifier == GENESIS.system_identifier
        assert wal.segment_bytes == SEGMENT
        assert wal.server_version == "18.1"
        assert wal.tli == 2
        assert wal.history_files.keys() == {2}
        assert wal.start(Tli(1)) == wal.start(Tli(2)) == START

    run(tmp_path, story)


def test_who_subscribes_is_told_of_commits_until_it_stops(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        wal = source_of(world, 2)
        told: list[Lsn] = []
        stop = wal.subscribe(lambda: told.append(wal.committed))
        await world.write(world.group(1), 1000)
        assert told[-1] == START + 1000
        stop()
        count = len(told)
        await world.write(world.group(1), 1000)
        assert len(told) == count

    run(tmp_path, story)


async def trimmed(world: World) -> None:
    """Nothing but the end of a segment and some is left in the log, or in memory."""
    leader = world.group(1)
    await world.write(leader, *([120_000] * 10))
    await world.write(leader, *([500] * 30))
    await world.finish(leader.propose(Trim(Lsn(START + SEGMENT))))
    index = leader.disk.index_of_wal(1, START + SEGMENT)
    assert index is not None
    await world.finish(leader.trim(index - 1))


def test_trimmed_wal_is_gone_without_an_archive(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await trimmed(world)
        wal = source_of(world, 1)
        assert wal.start(Tli(1)) == START + SEGMENT
        with pytest.raises(WalRemovedError, match="start from a newer cut"):
            await wal.read(Tli(1), START, 100)
        data = b"".join(await wal.read(Tli(1), Lsn(START + SEGMENT), 100))
        assert data == wal_bytes(START + SEGMENT, 100)

    run(tmp_path, story)


def test_trimmed_wal_is_read_from_the_archive(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        store, leader = MemoryStore(), world.group(1)
        wal = source_of(world, 1, store)
        await world.write(leader, *([120_000] * 10))
        history, end = leader.committed.history, leader.committed.end
        state = archived_upto(store, LAYOUT, history, start=START, committed=end)
        for item in plan_archive(LAYOUT, state, history=history, history_files={}, committed=end):
            upload(store, item, lambda *place: b"".join(wal.read_blocking(*place)))
        await world.write(leader, *([500] * 30))
        await world.finish(leader.propose(Trim(Lsn(START + SEGMENT))))
        await world.finish(leader.trim(leader.applied_index))
        assert wal.start(Tli(1)) == START
        for lsn in (START, Lsn(START + SEGMENT - 50)):
            data = b"".join(await wal.read(Tli(1), lsn, 100))
            assert data == wal_bytes(lsn, len(data))
        with pytest.raises(WalRemovedError, match="not archived"):
            await wal.read(Tli(1), Lsn(START + SEGMENT), 100)

    run(tmp_path, story)
