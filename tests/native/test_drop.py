"""Blocks leave their files again to make room, and nobody can tell.

In scope: which blocks go and which stay, by what the library sees of them; readers, writers,
truncaters and removers at the very moment at which a block is dropped; and proof that the races are
found in a library that does one step less. Out of scope: what is chosen (test_cache_bound), and
whether the rules are right for a real postgres (tests/integration/test_cache_bound).
"""

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.harness import BrokerThread, Build, Place, counters, write_tree
from native.sources import VersionedSource, versioned_page
from native.test_differential import forgetful_library
from sqlnode.pagefault.block_map import (
    BLOCK_BYTES,
    BlockMap,
    BlockState,
    Dropped,
    LsnRange,
    Slot,
)

FILE = "base/5/16384"
OTHER = "base/5/77"
BLOCKS = 200
FIRST_CUT = 1
ALL = LsnRange(1, 1000)
MISSING = BlockState.MISSING


def make(place: Place, **options: object) -> None:
    content = b"".join(versioned_page(FIRST_CUT, block) for block in range(BLOCKS))
    place.lazy({FILE: content, "pg_xact/0000": content}, tracks_changes=False, **options)


def found(block_map: BlockMap, path: str = FILE) -> Slot:
    slot = block_map.find(path)
    assert slot is not None
    return slot


def drop(
    serving: BrokerThread, first: int, count: int, lsns: LsnRange = ALL, path: str = FILE
) -> Dropped:
    async def dropping() -> Dropped:
        broker = serving.broker
        return broker.drop(found(broker.block_map, path), first, count, lsns)

    result: Dropped = serving.call(dropping())
    return result


def states(place: Place, first: int, count: int, path: str = FILE) -> list[BlockState]:
    with BlockMap(place.compute.block_map) as block_map:
        number = found(block_map, path).number
        return [block_map.state(number, block) for block in range(first, first + count)]


def allocated(place: Place, path: str = FILE) -> int:
    return (place.compute.data / path).stat().st_blocks * 512


# Which go.


def test_dropped_blocks_are_holes_and_come_back(place: Place) -> None:
    make(place)
    with place.serve() as serving, place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        content = driver.good(f"pread f 0 {BLOCKS * BLOCK_BYTES}").data
        before = allocated(place)
        outcome = drop(serving, 0, 100)
        assert outcome.dropped + outcome.used == 100
        assert drop(serving, 0, 100).dropped == outcome.used
        assert states(place, 0, 100) == [MISSING] * 100
        assert allocated(place) <= before - 100 * BLOCK_BYTES
        assert driver.good("size f").result == BLOCKS * BLOCK_BYTES
        assert driver.good(f"pread f 0 {BLOCKS * BLOCK_BYTES}").data == content
    assert counters(place.compute)["dropped_blocks"] == 100


def test_block_that_was_read_since_the_last_look_stays(place: Place) -> None:
    make(place)
    with place.serve() as serving, place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good(f"pread f 0 {10 * BLOCK_BYTES}")
        assert drop(serving, 0, 10) == Dropped(used=10)
        driver.good(f"pread f {3 * BLOCK_BYTES} {BLOCK_BYTES}")
        assert drop(serving, 0, 10) == Dropped(dropped=9, used=1)
        assert drop(serving, 0, 10) == Dropped(dropped=1)


def test_page_that_storage_may_not_have_stays(place: Place) -> None:
    make(place)
    pages = {
        0: versioned_page(1001, 0),  # too new
        1: bytes(BLOCK_BYTES),  # without content
        2: versioned_page(7, 3),  # another block's: its checksum is wrong
        3: versioned_page(0, 3),  # never in WAL
        4: versioned_page(1000, 4),
    }
    write_tree(place.root, {"pages": b"".join(pages.values())})
    with place.serve() as serving, place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good(f"open p {place.root}/pages ro")
        for block in pages:
            at = block * BLOCK_BYTES
            driver.good(f"copy_page p {at} f {at}")
        drop(serving, 0, 5)
        assert drop(serving, 0, 5) == Dropped(dropped=1, newer=4)
        assert [bool(state & MISSING) for state in states(place, 0, 5)] == [False] * 4 + [True]
        before = driver.good(f"pread f 0 {4 * BLOCK_BYTES}").data
        assert before == driver.good(f"pread p 0 {4 * BLOCK_BYTES}").data


def test_only_relations_and_only_without_harvests(place: Place) -> None:
    make(place)
    with place.serve() as serving, place.driver() as driver:
        driver.good("open x pg_xact/0000 rw")
        driver.good(f"pread x 0 {BLOCKS * BLOCK_BYTES}")
        assert [drop(serving, 0, 100, path="pg_xact/0000") for _ in range(2)] == [Dropped()] * 2


def test_nothing_is_dropped_where_changes_are_harvested(place: Place) -> None:
    place.lazy({FILE: versioned_page(1, 0)})
    with place.serve() as serving, place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good(f"pread f 0 {BLOCK_BYTES}")
        assert states(place, 0, 1) == [BlockState(0)]
        assert drop(serving, 0, 1) == Dropped(error=errno.EPERM)


@pytest.mark.parametrize("call", [f"fopen {FILE} r", f"mmap f 0 {BLOCKS * BLOCK_BYTES} private"])
def test_file_that_is_read_behind_our_back_is_kept(place: Place, call: str) -> None:
    make(place)
    with place.serve() as serving, place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good(call)
        assert [drop(serving, 0, 100).dropped for _ in range(2)] == [0, 0]


def test_removed_file_that_was_whole_is_not_read_as_zeros(place: Place) -> None:
    make(place)
    with place.serve() as serving, place.driver() as driver, place.driver() as remover:
        driver.good(f"open f {FILE} rw")
        driver.good(f"pread f 0 {BLOCKS * BLOCK_BYTES}")
        driver.good(f"pread f 0 {BLOCK_BYTES}")
        drop(serving, 0, 10)
        assert drop(serving, 0, 10).dropped == 10
        remover.good(f"unlink {FILE}")
        assert driver.run(f"pread f 0 {BLOCK_BYTES}").error == "ENOENT"


# At the same moment.


@contextlib.contextmanager
def dropping(place: Place) -> Iterator[BrokerThread]:
    """A broker that drops whatever it can, all the time; the cut is as far as the WAL."""
    wal = place.root / "wal"
    wal.write_bytes(FIRST_CUT.to_bytes(4, "little"))
    cut = FIRST_CUT

    def page_cut(block: int) -> int:
        return cut if block < 100 else FIRST_CUT

    async def drop_all(serving: BrokerThread) -> None:
        nonlocal cut
        block_map = serving.broker.block_map
        while True:
            for slot in block_map.slots():
                cut = int.from_bytes(wal.read_bytes()[:4], "little")
                if slot.is_live and slot.path != "pg_xact/0000":
                    serving.broker.drop(slot, 0, 100, LsnRange(1, cut))
                    serving.broker.drop(slot, 100, 100, LsnRange(1, cut))
                await asyncio.sleep(0)

    source = VersionedSource(place.source, page_cut)
    with place.serve(source, verify_checksums=True) as serving:

        async def begin() -> asyncio.Task[None]:
            return asyncio.create_task(drop_all(serving))

        async def end(task: asyncio.Task[None]) -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled(), task.exception()

        task = serving.call(begin())
        try:
            yield serving
        finally:
            serving.call(end(task))


def hammer(place: Place, times: int) -> int:
    """Return how many reads were wrong, of a writer and of a reader."""
    with dropping(place), place.driver() as writer, place.driver() as reader:
        for driver in (writer, reader):
            driver.good(f"open f {FILE} rw")
        writer.send(f"hammer f 0 4 {times} {place.root}/wal")
        reader.send(f"watch f 100 40 {times}")
        return writer.receive().result + reader.receive().result


def test_reads_and_writes_of_blocks_that_are_being_dropped_are_right(place: Place) -> None:
    make(place)
    assert hammer(place, 400) == 0
    seen = counters(place.compute)
    assert seen["dropped_blocks"] > 100
    assert seen["repeats"] > 0


def test_truncation_leaves_no_block_to_be_fetched(place: Place) -> None:
    make(place)
    with dropping(place), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.good(f"regrow f 20 4 500 {place.root}/wal").result == 0
    assert counters(place.compute)["dropped_blocks"] > 0


def test_removal_and_a_new_file_of_the_name_are_not_disturbed(place: Place) -> None:
    make(place)
    with dropping(place), place.driver() as driver, place.driver() as other:
        other.good(f"open f {FILE} rw")
        other.send(f"hammer f 0 2 200 {place.root}/wal")
        assert driver.good(f"remake 1000 {OTHER}").result == 0
        assert other.receive().result == 0
    with BlockMap(place.compute.block_map) as block_map:
        assert block_map.find(OTHER) is None
        assert found(block_map).missing == sum(
            bool(block_map.state(found(block_map).number, block) & MISSING)
            for block in range(BLOCKS)
        )


# Each takes one step away: (file, what is there, what is there instead). The pause is where a block
# has to be dropped to be missed: without it, a machine's load decides whether that ever happens.
CARELESS = {
    "a call is not repeated": (
        "calls_io.c",
        "\t\tssize_t got = call; \\\n\t\tif (got <= 0 || !fault_dropped_since(file, drops)) \\\n",
        "\t\tusleep(200); \\\n\t\tssize_t got = call; \\\n\t\tif (drops != UINT32_MAX) \\\n",
    ),
}


@pytest.mark.parametrize("fault", CARELESS)
def test_races_are_found_in_a_library_that_is_careless(
    builds: dict[str, Build], tmp_path: Path, fault: str
) -> None:
    """The agent's half and the driver's are of one library, so only the driver's is careless."""
    build = builds["preloaded"]
    careless = Build(fault, build.driver, forgetful_library(tmp_path, *CARELESS[fault]))
    place = Place(careless, tmp_path / "place")
    place.root.mkdir()
    make(place)
    wrong = 0
    for _ in range(20):
        wrong += hammer(place, 300)
        if wrong:
            return
    pytest.fail("nothing was noticed")
