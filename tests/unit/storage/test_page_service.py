"""The page service without RPC: which cut answers, how much is read at once, who keeps what.

In scope: the choice of the cut, as a property over random sets of them; the budget; turns of large
and small reads; pins and their leases; long polls; the skeleton. Out of scope: RPC, see
test_page_service_rpc.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.fabric.rpc_world import in_loop
from unit.storage.memory_pages import DIRECTORIES, MAIN, SMALL_FILES, MemoryPages, make_cut
from unit.storage.page_world import Clock

from fabric.ids import BranchName, CutSeq
from fabric.lsn import Lsn
from fabric.rpc_errors import BadRequestError, BusyError, RetryError
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES
from storage.cut import newest_in_range
from storage.methods import (
    BLOCKS_MAX,
    LSN_FIRST,
    LSN_LAST,
    SkeletonError,
    decode_skeleton,
    encode_skeleton,
)
from storage.page_service import CutList, PageService, PageServiceSettings
from storage.page_store import CutGoneError, StoreError
from storage.read_pool import (
    BITE_BLOCKS_MAX,
    LOOP_BLOCKS_MAX,
    LOOP_PAUSE_READS_MAX,
    LOOP_PAUSE_READS_MIN,
    LOOP_READ_S_MAX,
    LoopPatience,
    Ticket,
    bites,
)

BYTES_MAX = BLOCKS_MAX * BLOCK_BYTES  # of the smallest budget: one request of the largest size
SMALL = [PageRange("base/5/1", 0, 1)]
LARGE = [PageRange("base/5/1", 0, 128)]


@asynccontextmanager
async def serving_pages(
    *lsns: int, settings: PageServiceSettings | None = None
) -> AsyncIterator[tuple[PageService, MemoryPages, Clock]]:
    clock, store = Clock(), MemoryPages()
    service = PageService(store, settings, monotonic_s=clock)
    service.load(MAIN, [store.add(lsn) for lsn in lsns])
    try:
        yield service, store, clock
    finally:
        store.gate.set()
        await service.close()


# --- The cut that answers -------------------------------------------------------------------------

positions = st.integers(0, 40)


@given(st.sets(positions), positions, positions, st.sets(st.integers(1, 10)))
@settings(max_examples=400, deadline=None)
def test_the_newest_cut_of_the_range_answers_never_a_newer_or_an_older_one(
    lsns: set[int], first: int, last: int, dropped: set[int]
) -> None:
    cuts = CutList()
    every = [make_cut(seq, lsn) for seq, lsn in enumerate(sorted(lsns), start=1)]
    for cut in every:
        cuts.add(cut)
    cuts.drop(CutSeq(seq) for seq in dropped)
    left = [cut for cut in every if cut.seq not in dropped]
    chosen = cuts.newest_in(Lsn(first), Lsn(last))
    assert chosen == newest_in_range(left, first=Lsn(first), last=Lsn(last))
    assert chosen is None or first <= chosen.lsn <= last
    assert len(cuts) == len(left)


def test_a_cut_that_is_not_the_newest_is_refused() -> None:
    cuts = CutList()
    cuts.add(make_cut(2, 20))
    for seq, lsn in ((3, 20), (3, 10), (2, 30)):
        with pytest.raises(ValueError, match="is not newer"):
            cuts.add(make_cut(seq, lsn))


@in_loop
async def test_whoever_has_no_cut_in_the_range_says_whether_it_may_come() -> None:
    async with serving_pages(100, 200) as (service, _, _):
        with pytest.raises(RetryError, match=r"no cut in 0/C9 \.\. 0/12C yet here, but up to 0/C8"):
            service.choose(MAIN, Lsn(201), Lsn(300))
        with pytest.raises(RetryError, match="any more here"):
            service.choose(MAIN, Lsn(101), Lsn(199))
        with pytest.raises(BadRequestError, match="the first exceeds the last"):
            service.choose(MAIN, Lsn(2), Lsn(1))
        with pytest.raises(RetryError, match="branch dev has no cut on this node"):
            service.choose(BranchName("dev"), LSN_FIRST, LSN_LAST)


@in_loop
async def test_a_cut_that_is_dropped_while_it_is_read_is_chosen_anew() -> None:
    async with serving_pages(100, 200) as (service, store, _):
        gone = CutSeq(2)

        async def read() -> Lsn:
            cut, _, _ = await service.read(MAIN, first=Lsn(0), last=Lsn(300), ranges=LARGE)
            return cut.lsn

        store.gate.clear()
        reading = asyncio.create_task(read())
        await asyncio.to_thread(store.entered.acquire)
        service.dropped(MAIN, [gone])
        store.drop(MAIN, [gone])
        store.gate.set()
        assert await reading == 100


@in_loop
async def test_a_store_that_has_lost_its_cut_is_not_asked_for_ever() -> None:
    async with serving_pages(100) as (service, store, _):
        store.contents_of.clear()
        with pytest.raises(RetryError, match="faster than they can be read"):
            await service.read(MAIN, first=Lsn(0), last=Lsn(300), ranges=SMALL)
        with pytest.raises(RetryError, match="faster than they can be read"):
            await service.skeleton(MAIN, first=Lsn(0), last=Lsn(300))
        assert service.budget.used_bytes == 0


@in_loop
async def test_a_branch_that_was_removed_is_unknown() -> None:
    async with serving_pages(100) as (service, _, _):
        service.removed(MAIN)
        with pytest.raises(RetryError, match="has no cut on this node"):
            service.choose(MAIN, LSN_FIRST, LSN_LAST)


# --- How much at once -----------------------------------------------------------------------------


@in_loop
async def test_bytes_under_way_are_bounded_and_given_back() -> None:
    settings = PageServiceSettings(bytes_under_way_max=BYTES_MAX)
    async with serving_pages(100, settings=settings) as (service, store, _):
        store.gate.clear()
        reads = [
            asyncio.create_task(service.read(MAIN, first=Lsn(0), last=Lsn(100), ranges=LARGE))
            for _ in range(BLOCKS_MAX // 128)
        ]
        await asyncio.to_thread(store.entered.acquire)
        with pytest.raises(BusyError, match="ask another node"):
            await service.read(MAIN, first=Lsn(0), last=Lsn(100), ranges=SMALL)
        assert service.budget.used_bytes == BYTES_MAX
        store.gate.set()
        answers = await asyncio.gather(*reads)
        assert service.budget.used_bytes == BYTES_MAX  # as long as somebody holds the pages
        for _, _, ticket in answers:
            ticket.release()
            ticket.release()  # once is enough
        assert service.budget.used_bytes == 0


@in_loop
async def test_no_peer_has_all_the_bytes_that_may_be_under_way() -> None:
    limits = PageServiceSettings(bytes_under_way_max=4 * BYTES_MAX)
    async with serving_pages(100, settings=limits) as (service, _, _):

        async def read(taker: str) -> Ticket:
            ranges = [PageRange("base/5/1", 0, 128)] * (BLOCKS_MAX // 128)
            answer = await service.read(
                MAIN, first=Lsn(0), last=Lsn(100), ranges=ranges, taker=taker
            )
            return answer[2]

        greedy = [await read("greedy"), await read("greedy")]
        with pytest.raises(BusyError, match="under way to you"):
            await read("greedy")
        modest = await read("modest")
        greedy.pop().release()
        greedy.append(await read("greedy"))
        for ticket in (*greedy, modest):
            ticket.release()
        assert service.budget.used_bytes == 0
        assert not service.budget._taken  # who has nothing under way costs nothing


@in_loop
async def test_a_read_that_nobody_waits_for_gives_its_bytes_back_when_its_thread_has_ended() -> (
    None
):
    async with serving_pages(100) as (service, store, _):
        store.gate.clear()
        read = asyncio.create_task(service.read(MAIN, first=Lsn(0), last=Lsn(9999), ranges=LARGE))
        await asyncio.to_thread(store.entered.acquire)
        read.cancel()
        await asyncio.sleep(0)
        assert service.budget.used_bytes == 128 * BLOCK_BYTES
        store.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await read
        assert service.budget.used_bytes == 0


@in_loop
async def test_a_single_block_is_read_while_large_reads_have_all_their_threads() -> None:
    async with serving_pages(100) as (service, store, _):
        pool = service.pool
        store.gate.clear()
        large = [
            asyncio.create_task(service.read(MAIN, first=Lsn(0), last=Lsn(100), ranges=LARGE))
            for _ in range(20)
        ]
        await asyncio.to_thread(store.entered.acquire)
        pool._patience.took(1.0)  # so that the threads are asked
        small = [asyncio.create_task(pool.read(MAIN, CutSeq(1), SMALL)) for _ in range(10)]
        done, _ = await asyncio.wait(small, timeout=20)
        store.gate.set()
        assert len(done) == len(small)
        await asyncio.gather(*large)


@in_loop
async def test_a_read_that_the_end_of_the_service_interrupts_is_another_nodes() -> None:
    async with serving_pages(100) as (service, store, _):
        store.gate.clear()
        ranges = LARGE * 4
        reading = asyncio.create_task(
            service.read(MAIN, first=Lsn(0), last=Lsn(100), ranges=ranges)
        )
        await asyncio.to_thread(store.entered.acquire)
        closing = asyncio.create_task(service.close())
        await asyncio.sleep(0)
        store.gate.set()
        with pytest.raises(BusyError, match="shutting down"):
            await reading
        await closing
        assert service.budget.used_bytes == 0
        with pytest.raises(BusyError, match="shutting down"):
            await service.pool.read(MAIN, CutSeq(1), SMALL)


@in_loop
async def test_large_reads_take_turns() -> None:
    async with serving_pages(100) as (service, store, _):
        ranges = [PageRange("base/5/1", first, 64) for first in range(0, 236, 30)]
        answers = await service.pool.read(MAIN, CutSeq(1), ranges)
        assert not any(isinstance(answer, StoreError) for answer in answers)
        assert [len(read) for read in store.reads] == [2, 2, 2, 2]


@given(st.lists(st.integers(1, 200), max_size=30))
def test_bites_are_the_ranges_in_order_and_bounded(sizes: list[int]) -> None:
    ranges = [PageRange("base/5/1", 0, blocks) for blocks in sizes]
    divided = bites(ranges, blocks_max=BITE_BLOCKS_MAX)
    assert [wanted for bite in divided for wanted in bite] == ranges
    for bite in divided:
        assert len(bite) == 1 or sum(wanted.blocks for wanted in bite) <= BITE_BLOCKS_MAX


def test_the_loop_reads_what_is_small_and_has_been_fast() -> None:
    patience = LoopPatience()
    assert not patience.may_read(LOOP_BLOCKS_MAX + 1)
    for _ in range(1000):
        assert patience.may_read(LOOP_BLOCKS_MAX)
        patience.took(LOOP_READ_S_MAX)


def test_the_loop_waits_ever_more_seldom_for_a_slow_disk() -> None:
    patience = LoopPatience()
    pauses = []
    for _ in range(10):
        assert patience.may_read(1)
        patience.took(1.0)
        pause = 0
        while not patience.may_read(1):
            pause += 1
        pauses.append(pause)
        patience._left = 0  # the read that the loop above was allowed
    assert pauses[0] == LOOP_PAUSE_READS_MIN
    assert pauses == sorted(pauses)
    assert pauses[-1] == LOOP_PAUSE_READS_MAX


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 1},
        {"bytes_under_way_max": BYTES_MAX - 1},
    ],
)
def test_settings_that_could_not_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"needs 2 threads|must admit"):
        PageServiceSettings(**wrong)


# --- Pins -----------------------------------------------------------------------------------------


@in_loop
async def test_pins_are_kept_as_long_as_their_lease() -> None:
    async with serving_pages(100, 200) as (service, _, clock):
        service.pin(MAIN, "c1", Lsn(100), lease_s=60)
        service.pin(MAIN, "c2", Lsn(100), lease_s=10)
        assert service.pinned(MAIN) == {"c1": 100, "c2": 100}
        clock.now_s += 10
        assert service.pinned(MAIN) == {"c1": 100}
        service.pin(MAIN, "c1", Lsn(200), lease_s=60)  # renewed, and moved
        clock.now_s += 59
        assert service.pinned(MAIN) == {"c1": 200}
        service.unpin(MAIN, "c1")
        service.unpin(MAIN, "nobody")
        assert service.pinned(MAIN) == {}


@in_loop
async def test_only_a_cut_that_is_there_or_to_come_can_be_kept() -> None:
    async with serving_pages(100, 200) as (service, _, _):
        service.pin(MAIN, "c1", Lsn(300), lease_s=60)
        with pytest.raises(RetryError, match="no cut at 0/96 here that could be kept"):
            service.pin(MAIN, "c1", Lsn(150), lease_s=60)
        assert service.pinned(MAIN) == {"c1": 300}


@in_loop
async def test_pins_are_bounded_and_ended_ones_make_room() -> None:
    settings = PageServiceSettings(pins_per_branch_max=2)
    async with serving_pages(100, settings=settings) as (service, _, clock):
        service.pin(MAIN, "c1", Lsn(100), lease_s=10)
        service.pin(MAIN, "c2", Lsn(100), lease_s=60)
        with pytest.raises(BusyError, match="which is the limit"):
            service.pin(MAIN, "c3", Lsn(100), lease_s=60)
        service.pin(MAIN, "c2", Lsn(100), lease_s=60)
        clock.now_s += 10
        service.pin(MAIN, "c3", Lsn(100), lease_s=60)
        assert set(service.pinned(MAIN)) == {"c2", "c3"}


# --- Long polls -----------------------------------------------------------------------------------


@in_loop
async def test_a_cut_that_is_known_already_is_told_at_once() -> None:
    async with serving_pages(100) as (service, _, _):
        cut = await service.watch(MAIN, after=Lsn(99), wait_ms=60_000)
        assert cut == make_cut(1, 100)
        assert await service.watch(MAIN, after=Lsn(100), wait_ms=0) is None
        assert await service.watch(MAIN, after=Lsn(100), wait_ms=1) is None


@in_loop
async def test_a_long_poll_ends_with_the_cut_that_it_waits_for() -> None:
    async with serving_pages(100) as (service, store, _):
        watching = asyncio.create_task(service.watch(MAIN, after=Lsn(150), wait_ms=60_000))
        await asyncio.sleep(0)
        service.published(MAIN, store.add(120))  # not yet
        await asyncio.sleep(0)
        assert not watching.done()
        service.published(MAIN, store.add(200))
        assert (await watching) == make_cut(3, 200)


@in_loop
async def test_long_polls_are_bounded() -> None:
    settings = PageServiceSettings(watchers_max=1)
    async with serving_pages(100, settings=settings) as (service, _, _):
        watching = asyncio.create_task(service.watch(MAIN, after=Lsn(150), wait_ms=60_000))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="which is the limit"):
            await service.watch(MAIN, after=Lsn(150), wait_ms=60_000)
        watching.cancel()
        await asyncio.wait([watching])
        assert await service.watch(MAIN, after=Lsn(150), wait_ms=1) is None


@in_loop
async def test_long_polls_end_when_the_branch_or_the_service_does() -> None:
    async with serving_pages(100) as (service, store, _):
        watching = asyncio.create_task(service.watch(MAIN, after=Lsn(150), wait_ms=60_000))
        await asyncio.sleep(0)
        service.removed(MAIN)
        with pytest.raises(RetryError, match="has no cut on this node"):
            await watching
        service.load(MAIN, store.cuts(MAIN))
        watching = asyncio.create_task(service.watch(MAIN, after=Lsn(150), wait_ms=60_000))
        await asyncio.sleep(0)
        await service.close()
        with pytest.raises(BusyError, match="shutting down"):
            await watching
        with pytest.raises(BusyError, match="shutting down"):
            service.choose(MAIN, LSN_FIRST, LSN_LAST)


# --- The skeleton ---------------------------------------------------------------------------------


@in_loop
async def test_a_skeleton_is_made_once_for_all_who_ask_at_the_same_time() -> None:
    async with serving_pages(100) as (service, store, _):
        calls = []
        real = store.contents
        store.contents = lambda *key: (calls.append(key), real(*key))[1]  # type: ignore[func-returns-value,method-assign]  # counts
        asks = (service.skeleton(MAIN, first=LSN_FIRST, last=LSN_LAST) for _ in range(10))
        answers = await asyncio.gather(*asks)
        assert len(calls) == 1
        cut, skeleton, _ = answers[0]
        assert cut.lsn == 100
        assert decode_skeleton(skeleton).small_files == SMALL_FILES


@in_loop
async def test_kept_skeletons_are_bounded() -> None:
    settings = PageServiceSettings(skeleton_cache_bytes_max=1)
    async with serving_pages(*range(100, 110), settings=settings) as (service, _, _):
        for lsn in range(100, 110):
            await service.skeleton(MAIN, first=Lsn(lsn), last=Lsn(lsn))
        assert len(service._skeletons) == 1  # what must not grow


def test_a_skeleton_survives_the_journey() -> None:
    files = [(f"base/5/{number}", number) for number in range(20_000)]
    description = decode_skeleton(encode_skeleton(files, SMALL_FILES, DIRECTORIES))
    assert [(file.path, file.blocks) for file in description.files] == files
    assert dict(description.small_files) == SMALL_FILES
    assert list(description.directories) == DIRECTORIES


@pytest.mark.parametrize(
    ("files", "small_files", "directories"),
    [
        ([("../../etc/passwd", 1)], {}, []),
        ([("/etc/passwd", 1)], {}, []),
        ([("base/5/1", -1)], {}, []),
        ([("base/5/1", 1 << 20)], {}, []),
        ([], {"postgresql.auto.conf": b"archive_command = 'evil'"}, []),
        ([], {"../PG_VERSION": b""}, []),
        ([], {}, [".."]),
        ([], {}, ["base/../.."]),
        ([], {}, ["/etc"]),
        ([], {}, ["base/5\0"]),
        ([], {}, ["x" * 1000]),
    ],
)
def test_a_skeleton_never_names_what_is_not_a_cuts(
    files: list[tuple[str, int]], small_files: dict[str, bytes], directories: list[str]
) -> None:
    with pytest.raises(SkeletonError):
        decode_skeleton(encode_skeleton(files, small_files, directories))


@given(st.binary(max_size=200))
def test_what_is_no_skeleton_is_refused(data: bytes) -> None:
    sound = encode_skeleton([("base/5/1", 3)], SMALL_FILES, DIRECTORIES)
    for wrong in (data, b"\x01" + data, sound[: len(data) % len(sound)]):
        with pytest.raises(SkeletonError):
            decode_skeleton(wrong)


def test_an_error_of_the_store_is_never_lost() -> None:
    assert issubclass(CutGoneError, StoreError)  # what `read` looks for
