"""The client of storage nodes: whom it asks, what it believes, when it gives up.

In scope: nodes that are dead, behind, ahead, damaged, busy, broken or lying, beside one that is
sound; all of them dead. Out of scope: what every source promises (test_page_service_contract).
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from unit.fabric.rpc_world import in_loop
from unit.storage.lying_nodes import lying
from unit.storage.memory_pages import (
    DIRECTORIES,
    FILES,
    MAIN,
    SMALL_FILES,
    lsn_of,
    page_of,
    pages_of,
)
from unit.storage.page_world import NOBODY, Node, client_of, pages_from, storage_nodes

from fabric.frames import Payload
from fabric.ids import BranchName
from fabric.lsn import Lsn
from fabric.rpc_errors import DeadlineError, RetryError
from sqlnode.page_source import (
    DamagedPageError,
    PageRange,
    SourceError,
    SourceUnreachableError,
)
from sqlnode.pagefault.block_map import BLOCK_BYTES, FILE_BLOCKS_MAX, Pages
from storage.methods import (
    BLOCKS_MAX,
    PART_BYTES_MAX,
    RANGES_MAX,
    PagesRead,
    RangeStatus,
    ReadPages,
    SkeletonPart,
    encode_skeleton,
)
from storage.page_store import StoreBrokenError
from storage.storage_pages import BATCH_HEADER_BYTES_MAX, StoragePages, batches_of, joined

ONE = PageRange("base/5/1", 0, 1)
TWO = PageRange("base/5/2", 1, 1)
SOON_MS = 300


async def only_page(source: StoragePages) -> Pages:
    [page] = await source.read([ONE])
    assert not isinstance(page, SourceError), str(page)
    return page


# --- From S to X ----------------------------------------------------------------------------------


@given(
    st.lists(st.sets(st.integers(1, 20), min_size=1), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_no_page_is_ever_older_than_s_or_newer_than_x(
    cuts: list[set[int]], asked: list[tuple[int, int]]
) -> None:
    @in_loop
    async def story() -> None:
        async with storage_nodes(len(cuts)) as nodes, client_of(*nodes) as client:
            for node, lsns in zip(nodes, cuts, strict=True):
                node.publish(*sorted(lsns))
            for first, length in asked:
                last = first + length
                fits = any(first <= lsn <= last for lsns in cuts for lsn in lsns)
                source = pages_from(client, first, last, timeout_ms=10_000 if fits else 5)
                [page] = await source.read([ONE])
                if fits:
                    assert not isinstance(page, SourceError), str(page)
                    assert first <= lsn_of(page) <= last
                else:
                    assert isinstance(page, SourceError)

    story()


@in_loop
async def test_x_moves_with_the_compute_and_s_with_what_it_is_told() -> None:
    position = Lsn(100)
    async with storage_nodes() as [node], client_of(node) as client:
        node.publish(100, 200, 300)
        source = StoragePages(client, MAIN, Lsn(100), position=lambda: position, timeout_ms=SOON_MS)
        assert lsn_of(await only_page(source)) == 100
        position = Lsn(250)
        assert lsn_of(await only_page(source)) == 200
        source.moved_to(Lsn(201))
        assert source.cut_lsn == 201
        [failed] = await source.read([ONE])
        assert isinstance(failed, SourceError)
        with pytest.raises(ValueError, match="cannot go back"):
            source.moved_to(Lsn(200))


@in_loop
async def test_a_compute_that_replays_from_before_its_cut_gets_pages_of_the_cut() -> None:
    async with storage_nodes() as [node], client_of(node) as client:
        node.publish(100, 200, 300)
        assert lsn_of(await only_page(pages_from(client, 200, 150))) == 200


# --- Nodes that cannot answer ---------------------------------------------------------------------


def make_lagging(node: Node) -> None:
    node.publish(10)


def make_ahead(node: Node) -> None:
    node.publish(900)


def make_damaged(node: Node) -> None:
    node.publish(100)
    node.store.damaged.update({("base/5/1", 0), ("base/5/2", 1)})


def make_broken(node: Node) -> None:
    node.publish(100)
    node.store.error = StoreBrokenError("the disk is gone")


def make_buggy(node: Node) -> None:
    node.publish(100)
    node.store.read = lambda *_: 1 / 0  # type: ignore[assignment,method-assign]  # a bug


def make_full(node: Node) -> None:
    node.publish(100)
    node.service.budget.used_bytes = 1 << 60


def make_empty(node: Node) -> None:
    del node


@pytest.mark.parametrize(
    "spoil",
    [make_lagging, make_ahead, make_damaged, make_broken, make_buggy, make_full, make_empty],
)
@in_loop
async def test_pages_come_from_another_node_when_one_cannot_give_them(
    spoil: Callable[[Node], None],
) -> None:
    async with storage_nodes(2) as [bad, good], client_of(bad, good) as client:
        spoil(bad)
        good.publish(100)
        source = pages_from(client, 100, 150)
        with capture_logs():
            pages = await source.read([ONE, TWO])
        assert list(pages) == [page_of("base/5/1", 0, 100), page_of("base/5/2", 1, 100)]
        assert good.store.reads == [[ONE, TWO]]


@in_loop
async def test_pages_come_from_another_node_when_one_is_dead_from_the_start() -> None:
    async with storage_nodes() as [good], client_of(NOBODY, good) as client:
        good.publish(100)
        assert await only_page(pages_from(client, 100, 150)) == page_of("base/5/1", 0, 100)


@in_loop
async def test_pages_come_from_another_node_when_one_dies() -> None:
    async with storage_nodes(2) as [dying, good], client_of(dying, good) as client:
        dying.publish(100)
        good.publish(100)
        source = pages_from(client, 100, 150)
        await only_page(source)
        assert good.store.reads == []
        await dying.close()
        assert await only_page(source) == page_of("base/5/1", 0, 100)
        assert len(good.store.reads) == 1


@in_loop
async def test_pages_come_from_another_node_when_one_is_silent() -> None:
    """Its machine may just have gone, and a failover waits for this page."""
    silent: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: silent.append(writer), "127.0.0.1")
    host, port = listener.sockets[0].getsockname()
    try:
        async with (
            storage_nodes() as [good],
            client_of(f"tcp://{host}:{port}", good) as client,
        ):
            good.publish(100)
            source = pages_from(client, 100, 150, timeout_ms=1_500)
            assert await only_page(source) == page_of("base/5/1", 0, 100)
    finally:
        for writer in silent:
            writer.transport.abort()
        listener.close()
        await listener.wait_closed()


@in_loop
async def test_whoever_answered_last_is_asked_first() -> None:
    async with storage_nodes(2) as [lagging, good], client_of(lagging, good) as client:
        lagging.publish(10)
        good.publish(100)
        source = pages_from(client, 100, 150)
        await only_page(source)
        lagging.publish(100)
        await only_page(source)
        assert (len(lagging.store.reads), len(good.store.reads)) == (0, 2)


@in_loop
async def test_only_what_is_damaged_is_read_twice() -> None:
    async with storage_nodes(2) as [bad, good], client_of(bad, good) as client:
        bad.publish(100)
        good.publish(100)
        bad.store.damaged.add(("base/5/1", 0))
        with capture_logs():
            pages = await pages_from(client, 100, 150).read([TWO, ONE, TWO])
        assert list(pages) == [pages_of(wanted, 100) for wanted in (TWO, ONE, TWO)]
        assert good.store.reads == [[ONE]]


@in_loop
async def test_a_lagging_node_is_waited_for_when_there_is_no_other() -> None:
    async with storage_nodes() as [node], client_of(node) as client:
        node.publish(10)
        reading = asyncio.create_task(only_page(pages_from(client, 100, 150)))
        await client.status(node.address)
        node.publish(100)
        assert lsn_of(await reading) == 100


# --- Nobody can -----------------------------------------------------------------------------------


@in_loop
async def test_when_all_are_dead_each_range_has_one_clear_sentence() -> None:
    async with client_of(NOBODY, "tcp://127.0.0.1:2") as client:
        source = pages_from(client, 100, 150, timeout_ms=SOON_MS)
        results = await source.read([ONE, TWO])
        for result, name in zip(results, ("base/5/1 block 0", "base/5/2 block 1"), strict=True):
            assert type(result) is SourceUnreachableError
            text = str(result)
            assert text.startswith(
                f"{name} of main cannot be had: no storage node answered in time "
            )
            assert NOBODY in text
            assert "tcp://127.0.0.1:2" in text
        with pytest.raises(DeadlineError, match="no storage node answered in time"):
            await client.describe(MAIN, timeout_ms=SOON_MS)
        with pytest.raises(DeadlineError, match="no storage node answered in time"):
            await client.watch(MAIN, after=Lsn(1), wait_ms=1, timeout_ms=SOON_MS)
        with pytest.raises(RetryError, match="no storage node keeps main at 0/64"):
            await client.pin(MAIN, "c1", Lsn(100), lease_s=60)
        await client.unpin(MAIN, "c1")


@in_loop
async def test_what_is_damaged_on_every_node_is_damage_at_once() -> None:
    async with storage_nodes(2) as nodes, client_of(*nodes) as client:
        for node in nodes:
            make_damaged(node)
        with capture_logs():
            [failed] = await pages_from(client, 100, 150).read([ONE])
        assert isinstance(failed, DamagedPageError)
        assert "damaged on every storage node" in str(failed)


@in_loop
async def test_what_is_damaged_where_it_can_be_had_is_damage() -> None:
    async with storage_nodes() as [node], client_of(node, NOBODY) as client:
        make_damaged(node)
        with capture_logs():
            [failed] = await pages_from(client, 100, 150, timeout_ms=SOON_MS).read([ONE])
        assert isinstance(failed, DamagedPageError)
        assert "no other node gives it" in str(failed)


@in_loop
async def test_a_cut_that_is_nowhere_cannot_be_described() -> None:
    async with storage_nodes() as [node], client_of(node) as client:
        node.publish(100)
        with pytest.raises(SourceError, match=r"0/C8 cannot be described: .*; take another cut"):
            await pages_from(client, 200, 200, timeout_ms=SOON_MS).describe()


def test_a_client_needs_somebody_to_ask() -> None:
    with pytest.raises(ValueError, match="needs the address"):
        client_of()


# --- Liars ----------------------------------------------------------------------------------------


def of_the_future(request: ReadPages) -> tuple[PagesRead, Payload]:
    return PagesRead(request.last + 1, (RangeStatus.OK,)), bytes(BLOCK_BYTES)


def too_old(request: ReadPages) -> tuple[PagesRead, Payload]:
    return PagesRead(request.first - 1, (RangeStatus.OK,)), bytes(BLOCK_BYTES)


def too_short(request: ReadPages) -> tuple[PagesRead, Payload]:
    return PagesRead(request.first, (RangeStatus.OK,)), bytes(BLOCK_BYTES - 1)


def too_long(request: ReadPages) -> tuple[PagesRead, Payload]:
    return PagesRead(request.first, (RangeStatus.DAMAGED,)), bytes(BLOCK_BYTES)


def too_few(request: ReadPages) -> tuple[PagesRead, Payload]:
    return PagesRead(request.first, ()), b""


@pytest.mark.parametrize("lie", [of_the_future, too_old, too_short, too_long, too_few])
@in_loop
async def test_an_answer_that_cannot_be_right_is_not_believed(
    lie: Callable[[ReadPages], tuple[PagesRead, Payload]],
) -> None:
    async with lying() as liar, storage_nodes() as [good], client_of(liar.address, good) as client:
        good.publish(100)
        liar.pages = lie
        assert await only_page(pages_from(client, 100, 150)) == page_of("base/5/1", 0, 100)
        assert liar.calls == 1


@in_loop
async def test_a_skeleton_that_cannot_be_right_is_not_believed() -> None:
    async with lying() as liar, storage_nodes() as [good], client_of(liar.address, good) as client:
        cut = good.publish(100)
        other = encode_skeleton([("base/5/666", 1)], {}, [])
        for part, payload in [
            (SkeletonPart(cut, len(other), crc32(other) ^ 1), other),
            (SkeletonPart(cut, 10, 0), b""),
            (SkeletonPart(cut, 10, 0), bytes(10)),
            (SkeletonPart(cut, 10, 0x156E9BE2), b"0123456789"),
            (SkeletonPart(cut, 5, 0), bytes(10)),
        ]:
            liar.skeleton = lambda _, answer=(part, payload): answer
            client._good.clear()  # so that the liar is asked first again
            described, description = await client.describe(MAIN)
            assert described == cut
            assert {file.path for file in description.files} == set(FILES)
        assert liar.calls == 5


# --- Cuts -----------------------------------------------------------------------------------------


@in_loop
async def test_the_newest_cut_of_a_range_is_described() -> None:
    async with storage_nodes() as [node], client_of(node) as client:
        node.publish(100, 200, 300)
        cut, description = await client.describe(MAIN)
        assert cut.lsn == 300
        assert dict(description.small_files) == SMALL_FILES
        assert list(description.directories) == DIRECTORIES
        cut, _ = await client.describe(MAIN, first=Lsn(0), last=Lsn(250))
        assert cut.lsn == 200


@in_loop
async def test_a_skeleton_of_many_parts_is_put_together() -> None:
    incompressible = random.Random(1).randbytes(2 * PART_BYTES_MAX + 12345)
    async with storage_nodes(2) as [empty, node], client_of(empty, node) as client:
        files = {f"base/5/{number}": number for number in range(1000)}
        cut = node.store.add(100, files=files, small_files={"pg_twophase/000002F1": incompressible})
        node.service.published(MAIN, cut)
        _, description = await client.describe(MAIN)
        assert {file.path: file.blocks for file in description.files} == files
        assert description.small_files["pg_twophase/000002F1"] == incompressible


@in_loop
async def test_a_watch_ends_with_the_next_cut_or_with_its_time() -> None:
    async with storage_nodes() as [node], client_of(NOBODY, node) as client:
        known = node.publish(100)
        assert await client.watch(MAIN, after=Lsn(99), wait_ms=60_000) == known
        assert await client.watch(MAIN, after=known.lsn, wait_ms=1) is None
        watching = asyncio.create_task(client.watch(MAIN, after=known.lsn, wait_ms=60_000))
        while not node.service._watchers:  # that it has begun shows nowhere else
            await client.status(node.address)
        newer = node.publish(200)
        assert await watching == newer


@in_loop
async def test_a_watch_goes_on_at_another_node_when_its_own_closes() -> None:
    async with storage_nodes(2) as [closing, other], client_of(closing, other) as client:
        closing.publish(100)
        other.publish(100)
        watching = asyncio.create_task(client.watch(MAIN, after=Lsn(100), wait_ms=60_000))
        while not closing.service._watchers:  # as above
            await client.status(closing.address)
        await closing.close()
        while not other.service._watchers:  # as above
            await client.status(other.address)
        other.publish(200)
        cut = await watching
        assert cut is not None
        assert cut.lsn == 200


@in_loop
async def test_a_cut_is_kept_on_every_node_that_can() -> None:
    async with storage_nodes(3) as [one, two, without], client_of(one, two, without) as client:
        one.publish(100)
        two.publish(100, 200)
        assert await client.pin(MAIN, "c1", Lsn(100), lease_s=60) == 2
        assert one.service.pinned(MAIN) == two.service.pinned(MAIN) == {"c1": 100}
        assert without.service.pinned(MAIN) == {}
        await client.unpin(MAIN, "c1")
        assert one.service.pinned(MAIN) == two.service.pinned(MAIN) == {}


@in_loop
async def test_branches_do_not_meet() -> None:
    dev = BranchName("dev")
    async with storage_nodes(2) as [one, two], client_of(one, two) as client:
        one.publish(100)
        two.publish(200, branch=dev)
        assert (await client.describe(dev))[0].lsn == 200
        assert (await client.describe(MAIN))[0].lsn == 100


# --- Batches: pure --------------------------------------------------------------------------------

paths = st.sampled_from(
    ["base/5/1", "pg_xact/0000", "pg_tblspc/16400/PG_18_202506291/5/1" + "2" * 60]
)
wanted_ranges = st.lists(
    st.builds(PageRange, paths, st.integers(0, 100), st.integers(1, 3000) | st.just(1)),
    max_size=60,
)


@given(wanted_ranges, st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_batches_fit_a_request_and_come_together_again(
    ranges: list[PageRange], repeat: int
) -> None:
    ranges = ranges * (repeat if sum(wanted.blocks for wanted in ranges) < 1000 else 1)
    batches = batches_of(ranges)
    for batch in batches:
        assert 1 <= len(batch) <= RANGES_MAX
        assert sum(piece.wanted.blocks for piece in batch) <= BLOCKS_MAX
        assert sum(len(piece.wanted.path) for piece in batch) <= BATCH_HEADER_BYTES_MAX
    answers = [[names_of(piece.wanted) for piece in batch] for batch in batches]
    assert joined(batches, answers) == [names_of(wanted) for wanted in ranges]


def names_of(wanted: PageRange) -> bytes:
    blocks = range(wanted.first, wanted.first + wanted.blocks)
    return b"".join(block.to_bytes(4, "big") for block in blocks)


def test_what_fits_one_request_is_one_batch() -> None:
    assert len(batches_of([PageRange("base/5/1", 0, 1)] * RANGES_MAX)) == 1
    assert len(batches_of([PageRange("base/5/1", 0, BLOCKS_MAX)])) == 1
    assert len(batches_of([PageRange("base/5/1", 0, 1)] * (RANGES_MAX + 1))) == 2
    assert len(batches_of([PageRange("base/5/1", 0, FILE_BLOCKS_MAX)])) == 128
    assert batches_of([]) == []


def test_a_range_of_which_a_part_is_missing_is_missing() -> None:
    batches = batches_of([PageRange("base/5/1", 0, 2 * BLOCKS_MAX), ONE])
    answers: Sequence[list[Pages | SourceError]] = [[b"first"], [SourceError("no")], [b"one"]]
    missing, one = joined(batches, answers)
    assert isinstance(missing, SourceError)
    assert one == b"one"
