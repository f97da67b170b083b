"""The keeper's loop: what it cuts, in which order, and what it does when something fails.

In scope: the decisions and their order, over a real feed and an engine without postgres. Out of
scope: real engines, in integration/test_storage_pages.py and test_storage_faults.py.
"""

import pytest
from unit.fabric.rpc_world import in_loop
from unit.storage.engine_in_memory import KeeperWorld, PinnedLog, with_more_connections
from unit.storage.log_in_memory import FAST
from unit.storage.wal_writer import Writer

from storage import keeper as keeper_module
from storage.keeper import KeeperState
from storage.wal_scan import CheckpointFound


def world_with(sizes: list[int]) -> tuple[KeeperWorld, Writer, list[CheckpointFound]]:
    """WAL with a checkpoint behind each so many bytes."""
    writer = Writer()
    found = []
    for size in sizes:
        writer.record(bytes(size))
        found.append(writer.checkpoint())
    return KeeperWorld(PinnedLog(bytes(writer.content))), writer, found


def write_more(world: KeeperWorld, writer: Writer, size: int = 100) -> CheckpointFound:
    """Commit a record and a checkpoint."""
    writer.record(bytes(size))
    found = writer.checkpoint()
    world.log.append(bytes(writer.content)[len(world.log.content) :])
    return found


@in_loop
async def test_each_checkpoint_that_comes_becomes_a_cut_and_the_pin_follows() -> None:
    world, writer, found = world_with([1000])
    async with world.keeping() as keeper:
        await world.until_cut(found[0].end)
        for _ in range(3):
            found.append(write_more(world, writer))
            await world.until_cut(found[-1].end)
        await world.until(lambda: world.log.pins[-1] == found[-1].redo)
        assert world.cut_ends == [one.end for one in found]
        assert world.log.pins[1:] == [one.redo for one in found]
        assert len(world.engines) == 1
        assert keeper.lag_bytes == 0


@in_loop
async def test_who_is_behind_passes_checkpoints_over() -> None:
    world, _, found = world_with([100, 100, 100])
    async with world.keeping():
        await world.until_cut(found[-1].end)
        assert world.cut_ends == [found[-1].end]


@in_loop
async def test_who_is_far_behind_finds_the_last_checkpoint_of_a_step() -> None:
    world, _, found = world_with([100_000] * 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.redo_plan.LOOK_AHEAD_BYTES_MIN", 20_000)
        patch.setattr("storage.redo_plan.STEP_BYTES_MAX", 450_000)
        async with world.keeping():
            await world.until_cut(found[-1].end)
    # The window holds one checkpoint at most, so each step would have ended at the next one.
    assert world.cut_ends == [found[3].end, found[5].end]


@in_loop
async def test_wal_without_a_checkpoint_is_replayed_as_it_comes() -> None:
    world, _, found = world_with([600_000])
    async with world.keeping():
        await world.until_cut(found[0].end)
        assert world.cut_ends == [found[0].end]
        assert len(world.ahead) > 5, "the window is a tenth of the WAL"
        assert world.ahead == sorted(world.ahead)
        assert world.ahead[-1] < found[0].end
        # It went through the window, and was read from the log once.
        assert sum(size for _, size in world.log.reads) < 700_000
        assert len(world.engines) == 1


@in_loop
async def test_little_wal_without_a_checkpoint_starts_no_engine() -> None:
    world, writer, _ = world_with([])
    writer.record(bytes(FAST.window_bytes_max // 3))
    world.log.append(bytes(writer.content)[len(world.log.content) :])
    async with world.keeping() as keeper:
        await world.until(lambda: world.feed.received == world.log.end)
        await world.until(lambda: keeper.state is KeeperState.WAITING)
        assert not world.engines


@in_loop
async def test_engine_that_fails_with_wal_and_no_checkpoint_is_made_anew() -> None:
    world, _, found = world_with([300_000])
    world.failures = 1
    async with world.keeping():
        await world.until_cut(found[0].end)
        assert len(world.engines) == 2
        assert world.cut_ends == [found[0].end]


@in_loop
async def test_false_checkpoint_is_passed_over_with_the_same_engine() -> None:
    world, writer, found = world_with([1000])
    world.false = {found[0].end}
    async with world.keeping() as keeper:
        await world.until(lambda: keeper.state is KeeperState.WAITING and bool(world.steps))
        assert world.cut_ends == []
        later = write_more(world, writer)
        await world.until_cut(later.end)
        assert world.steps == [found[0].end, later.end]
        assert len(world.engines) == 1


@in_loop
async def test_store_without_room_is_tried_again_with_the_same_engine() -> None:
    world, writer, found = world_with([1000])
    async with world.keeping() as keeper:
        world.store.refusals = 3
        await world.until(lambda: keeper.state is KeeperState.FULL)
        assert "no room" in keeper.problem
        later = write_more(world, writer)
        await world.until_cut(later.end)
        await world.until(lambda: not keeper.problem)
        assert world.cut_ends in ([later.end], [found[0].end, later.end])
        assert len(world.engines) == 1
        assert keeper.newest.lsn == later.end


@in_loop
async def test_engine_that_fails_is_discarded_and_another_one_begins_at_the_newest_cut() -> None:
    world, writer, found = world_with([1000])
    async with world.keeping() as keeper:
        await world.until_cut(found[0].end)
        world.failures = 1
        later = write_more(world, writer)
        await world.until(lambda: keeper.state is KeeperState.FAILING)
        assert "told to fail" in keeper.problem
        await world.until_cut(later.end)
        assert [engine.is_closed for engine in world.engines] == [True, False]
        await world.until(lambda: not keeper.problem)


@in_loop
async def test_grown_settings_are_given_to_the_next_engine_without_a_complaint() -> None:
    world, writer, found = world_with([1000])
    async with world.keeping() as keeper:
        await world.until_cut(found[0].end)
        world.limits = with_more_connections(400)
        later = write_more(world, writer)
        await world.until_cut(later.end)
        limits = [engine.spec.limits for engine in world.engines]
        assert limits == [None, world.limits]
        assert not keeper.problem


@in_loop
async def test_engine_without_work_is_stopped_and_made_anew_for_the_next_checkpoint() -> None:
    world, writer, found = world_with([1000])
    world.idle_stop_s = 0.02
    async with world.keeping() as keeper:
        await world.until_cut(found[0].end)
        await world.until(lambda: not keeper.has_engine)
        later = write_more(world, writer)
        await world.until_cut(later.end)
        assert len(world.engines) == 2


@in_loop
async def test_pin_that_failed_is_tried_again_while_nothing_else_is_to_be_done() -> None:
    world, _, found = world_with([1000])
    world.log.is_pin_refused = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper_module, "PIN_RETRY_S", 0.01)
        async with world.keeping():
            await world.until_cut(found[0].end)
            assert world.log.pins == []
            world.log.is_pin_refused = False
            await world.until(lambda: world.log.pins[-1:] == [found[0].redo])
