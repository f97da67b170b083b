"""Replicas of a log that restart, lag, are trimmed or have no room: nothing is lost."""

import asyncio
from dataclasses import replace

from unit.log_service.group_world import (
    HOLDER,
    START,
    World,
    append_of,
    info_of,
    records_of,
    replayed,
    story,
    timeline_after,
    wal_bytes,
)

from fabric.ids import Epoch
from fabric.lsn import Lsn
from log_service.branch import encode_branch
from log_service.record_bodies import EpochBody, Pin, Trim
from raft.messages import Message
from raft.types import Role

# --- Restart ------------------------------------------------------------------------------------


@story()
async def test_a_restart_at_any_time_loses_nothing_that_is_committed(world: World) -> None:
    leader = world.group(1)
    for round_number in range(6):
        await world.write(leader, 300, 5000)
        await world.finish(leader.propose(Pin(f"pin-{round_number}", START)))
        if round_number % 2:
            history = leader.committed.history
            tli = round_number + 1
            fork = Lsn(leader.committed.end - 100)
            await world.finish(leader.propose(timeline_after(history, tli, fork)))
        member = 2 + round_number % 2
        again = (await world.crash(member)).group
        assert again.applied_index == 0
        await world.beat(6)
        assert again.applied_index == leader.applied_index
        world.assert_agreed()


@story()
async def test_all_restart_at_once_and_the_committed_state_is_back(world: World) -> None:
    await world.write(world.group(1), 300, 5000)
    await world.finish(world.group(1).propose(Pin("backup", START)))
    world.propose_wal(world.group(1), 77)
    before = encode_branch(world.group(1).committed)
    for member in (1, 2, 3):
        await world.crash(member)
    assert world.group(1).committed.genesis is None
    new = await world.elect(2)
    world.assert_agreed()
    found = new.committed.copy()
    assert found.end in {START + 5300, START + 5377}  # nobody was told that the rest is committed
    found.end = START + 5300
    assert encode_branch(found) == before


@story()
async def test_a_tick_between_a_message_and_its_work_does_not_make_the_leader_forget(
    world: World,
) -> None:
    """It leads before it has applied what it finds on its disk; nothing is checked till then."""
    await world.write(world.group(1), 300, 5000)
    for member in (1, 2, 3):
        await world.crash(member)
    new = world.group(2)
    step = new.step

    ticks = 0

    def step_and_tick(message: Message) -> None:
        nonlocal ticks
        step(message)
        if new.raft.is_leader_ready and not ticks:
            ticks += 1
            new.tick()

    new.step = step_and_tick  # type: ignore[method-assign]  # the fault of this test
    await world.elect(2)
    assert ticks
    assert new.tail is not None
    assert new.tail.end == new.committed.end == START + 5300
    assert new.tail.epoch == new.committed.epoch


@story()
async def test_what_a_disk_never_had_does_not_count_after_a_crash(world: World) -> None:
    world.cut_off = {3}
    world.replicas[2].writer.is_held = True
    leader = world.group(1)
    await world.write(leader, 1000)
    await world.crash(1)
    assert world.group(1).disk.wal_end == (1, START + 1000)
    world.replicas[2].writer.let_go()
    await world.settle()
    world.cut_off = set()
    new = await world.elect(1)
    assert new.committed.end == START + 1000  # acknowledged by nobody, and still the log's


# --- Trimming -----------------------------------------------------------------------------------


async def _varied(world: World) -> None:
    """A log with every kind of entry, of more than one segment of the disk."""
    leader = world.group(1)
    for tli in (2, 3, 4):
        await world.write(leader, *([60_000] * 4), 17)
        await world.finish(leader.propose(Pin("backup", leader.committed.end)))
        fork = Lsn(leader.committed.end - 1000)
        await world.finish(leader.propose(timeline_after(leader.committed.history, tli, fork)))
        await world.finish(leader.propose(EpochBody(Epoch(tli), HOLDER)))
        await world.finish(leader.propose(Pin("backup", None)))
        await world.finish(leader.propose(Trim(Lsn(fork - 2000))))
    await world.write(leader, 5)


@story()
async def test_a_trimmed_log_starts_from_the_exact_state_of_every_index(world: World) -> None:
    await _varied(world)
    leader, trimmed = world.group(1), world.group(2)
    founders = [info_of(member) for member in (1, 2, 3)]
    records = records_of(leader.disk, leader.applied_index)
    for index in range(1, leader.applied_index + 1):
        await world.finish(trimmed.trim(index))
        assert trimmed.disk.start.index == index
        assert trimmed.disk.start.state == encode_branch(replayed(founders, records[:index]))
        if index % 5 == 0:
            trimmed = (await world.crash(2)).group
            assert trimmed.applied_index == index
            await world.beat(6)
    world.assert_agreed()
    assert trimmed.disk.start.index == leader.applied_index


@story()
async def test_only_what_is_applied_and_durable_is_trimmed(world: World) -> None:
    leader = world.group(1)
    world.cut_off = {2, 3}
    await world.write(leader, 1000)
    await world.finish(leader.trim(leader.raft.last_index))
    assert leader.disk.start.index == 0
    world.cut_off = set()
    await world.beat(6)
    world.replicas[1].writer.is_held = True
    await world.write(leader, 1000)
    assert leader.applied_index == leader.raft.last_index  # by the others' disks
    await leader.trim(leader.applied_index)
    assert leader.disk.start.index == 0


@story()
async def test_a_replica_behind_the_trimmed_log_is_restored(world: World) -> None:
    world.cut_off = {3}
    await _varied(world)
    leader, lagging = world.group(1), world.group(3)
    await world.finish(leader.trim(leader.applied_index))
    world.cut_off = set()
    await world.beat(30)
    assert lagging.disk.start.index == leader.disk.start.index
    world.assert_agreed()
    await world.write(leader, 123)
    world.assert_agreed()
    again = (await world.crash(3)).group
    await world.beat(6)
    world.assert_agreed()
    world.cut_off = {1}
    new = await world.elect(3)
    assert new is again
    await world.write(new, 9)
    assert world.group(2).committed.end == new.committed.end


@story()
async def test_a_restore_during_a_trim_leaves_the_restored_log(world: World) -> None:
    await world.write(world.group(1), 1000)
    world.cut_off = {3}
    await _varied(world)
    leader, lagging = world.group(1), world.group(3)
    await world.finish(leader.trim(leader.applied_index))
    world.replicas[3].writer.is_held = True
    trim = asyncio.ensure_future(lagging.trim(lagging.applied_index))
    await asyncio.sleep(0)
    world.cut_off = set()
    await world.beat(30)
    assert lagging.applied_index == leader.applied_index
    world.replicas[3].writer.let_go()
    await world.finish(trim)
    await world.beat()
    assert lagging.disk.start.index == leader.disk.start.index
    world.assert_agreed()
    await world.write(leader, 10)
    await world.finish(lagging.trim(lagging.applied_index))
    assert lagging.disk.start.state == encode_branch(leader.committed)


@story()
async def test_a_replica_that_was_away_is_served_from_the_disk(world: World) -> None:
    world.cut_off = {3}
    leader = world.group(1)
    for _ in range(30):
        await world.write(leader, 3000)
    assert leader.recent.first_index > 10  # only the disk has the rest
    world.cut_off = set()
    await world.beat(30)
    world.assert_agreed()


@story()
async def test_reads_of_memory_and_disk_are_the_wal_that_was_written(world: World) -> None:
    leader = world.group(1)
    await world.write(leader, 3000, 3000, 3000)
    pieces = leader.recent.wal(1, leader.committed.end - 100, 1000)
    assert pieces is not None
    assert b"".join(pieces) == wal_bytes(leader.committed.end - 100, 100)
    views, _ = leader.disk.read_wal(1, START + 17, 8000)
    assert b"".join(views) == wal_bytes(START + 17, 8000)


@story()
async def test_entries_in_the_place_of_stale_ones_stay_in_memory_until_they_are_on_disk(
    world: World,
) -> None:
    old, replica = world.group(1), world.replicas[1]
    world.cut_off = {1}
    world.propose_wal(old, *([3000] * 8))  # durable here, and never committed
    await world.settle()
    stale_from = old.raft.commit_index + 1
    new = await world.elect(2)
    await world.write(new, *([1000] * 9))
    replica.writer.is_held = True
    full = append_of(new, stale_from - 1)
    old.step(replace(full, entries=(), commit=0))  # a new term: the write that comes first
    await world.settle()
    old.step(full)
    await world.settle()
    assert old.applied_index == new.applied_index > stale_from
    while replica.disk.hard_state[0] < new.raft.term:
        assert old.recent.first_index <= stale_from
        replica.writer.let_go_one()
        await replica.writer.until_idle()
    assert old.recent.first_index <= stale_from
    await old.trim(old.applied_index)
    assert old.disk.start.index == 0
    replica.writer.let_go()
    await world.settle()
    assert replica.fatal == []
    assert old.disk.wal_end == (1, new.committed.end)


# --- A full disk --------------------------------------------------------------------------------


@story(1)
async def test_a_full_disk_is_tried_again_and_nothing_is_lost(world: World) -> None:
    replica = world.replicas[1]
    replica.disk.is_full = True
    leader = replica.group
    await world.write(leader, 1000)
    assert leader.is_disk_full
    await world.write(leader, 500)
    assert leader.committed.end == START
    replica.disk.is_full = False
    committed = asyncio.Event()
    leader.on_commit.add(committed.set)
    await committed.wait()
    await world.settle()
    assert not leader.is_disk_full
    assert leader.committed.end == START + 1500
    assert leader.disk.wal_end == (1, START + 1500)
    assert replica.fatal == []


@story()
async def test_votes_of_several_terms_outlive_the_second_attempt_at_a_full_disk(
    world: World,
) -> None:
    replica = world.replicas[3]
    await world.write(world.group(1), 100)
    replica.disk.is_full = True
    await world.write(world.group(1), 100)
    assert replica.group.is_disk_full
    replica.writer.is_held = True
    for leader, successor in ((1, 2), (2, 1)):
        world.group(leader).transfer(successor)
        await world.settle()
        await world.beat()
    attempts = replica.disk.attempts
    replica.writer.let_go()
    while replica.disk.attempts < attempts + 3:
        await replica.writer.until_tried()
    assert replica.disk.hard_state[0] == replica.group.raft.term
    replica.disk.is_full = False
    while replica.group.is_disk_full:
        await replica.writer.until_tried()
    await world.beat(6)
    assert replica.fatal == []
    world.assert_agreed()


@story()
async def test_a_leader_whose_disk_is_full_hands_over(world: World) -> None:
    world.replicas[1].disk.is_full = True
    leader = world.group(1)
    world.propose_wal(leader, 1000)
    await world.settle()
    assert leader.raft.role is Role.FOLLOWER
    new = world.group(leader.raft.leader)
    assert new.is_leading
    assert new.committed.end == START + 1000


@story()
async def test_after_a_disk_has_failed_nothing_is_vouched_for(world: World) -> None:
    replica = world.replicas[2]
    replica.disk.failure = OSError("the disk is gone")
    world.cut_off = {3}
    leader = world.group(1)
    await world.write(leader, 1000)
    assert replica.fatal == [replica.disk.failure]
    replica.disk.failure = None
    replica.group.leader_unreachable()
    replica.group.raft.campaign()
    replica.group.flush()
    await world.settle()
    await world.beat(4)
    assert leader.committed.end == START
