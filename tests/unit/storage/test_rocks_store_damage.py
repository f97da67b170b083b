"""What is damaged, missing, misplaced or not ours is said to be so, and never read as pages.

In scope: flipped bytes in the files of the database, lost and misplaced versions, a directory of
something else, a second opener, a full disk. Out of scope: crashes.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rocksdict import Options, Rdict
from unit.storage.contract import MAIN, A, B, changed, file_of, new, publish, says

from fabric.ids import CutSeq
from sqlnode.page_source import PageRange
from storage.page_store import (
    DamagedError,
    StoreBrokenError,
    StoreError,
    StoreFullError,
)
from storage.rocks_database import RocksSettings
from storage.rocks_keys import FORMAT_KEY, Kind, cut_key, page_key
from storage.rocks_store import RocksStore
from storage.rocks_values import encoded

BLOCKS = 24
FLIPS = 100
UNCACHED = RocksSettings(block_cache_bytes=0)


def filled(directory: Path) -> dict[CutSeq, list[bytes]]:
    """A store of three cuts, in table files of both kinds; what the cuts have."""
    with closing(RocksStore(directory, UNCACHED)) as store:
        publish(store, "one", new(A, BLOCKS), new(B, 3))
        store.compact(MAIN)
        publish(store, "two", changed(A, BLOCKS, range(0, BLOCKS, 2)))
        publish(store, "three", changed(A, BLOCKS, range(0, BLOCKS, 3)))
        return {cut.seq: file_of(store, cut, A) for cut in store.cuts(MAIN)}


def raw(directory: Path) -> Rdict:
    return Rdict(str(directory / "rocks"), Options(raw_mode=True))


def read_all(directory: Path, pages: dict[CutSeq, list[bytes]]) -> tuple[int, int]:
    """How many answers were right and how many were refused; there is no third kind."""
    right = refused = 0
    try:
        store = RocksStore(directory, UNCACHED)
    except StoreBrokenError:
        return 0, 1
    with closing(store):
        for seq, expected in pages.items():
            ranges = [PageRange(A, block, 1) for block in range(BLOCKS)]
            ranges.append(PageRange(A, 0, BLOCKS))
            for one, answer in zip(ranges, store.read(MAIN, seq, ranges), strict=True):
                if isinstance(answer, StoreError):
                    assert isinstance(answer, DamagedError), answer
                    refused += 1
                else:
                    assert answer == b"".join(expected[one.first : one.first + one.blocks])
                    right += 1
    return right, refused


def test_a_flipped_byte_is_found_or_harmless_wherever_it_is(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    pages = filled(whole)
    tables = sorted((whole / "rocks").glob("*.sst"))
    assert len(tables) >= 3
    sizes = [table.stat().st_size for table in tables]
    chosen = random.Random(4)
    found = 0
    for number in range(FLIPS):
        # Evenly over all files, so that page data, indexes, filters and footers have their turn.
        place = (number * sum(sizes) + chosen.randrange(sum(sizes))) // FLIPS
        index = 0
        while place >= sizes[index]:
            place -= sizes[index]
            index += 1
        damaged = tmp_path / "damaged"
        shutil.copytree(whole, damaged)
        with (damaged / "rocks" / tables[index].name).open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << chosen.randrange(8)]))
        _, refused = read_all(damaged, pages)
        found += refused > 0
        shutil.rmtree(damaged)
    assert found > FLIPS // 2
    assert read_all(whole, pages) == (3 * (BLOCKS + 1), 0)


def test_a_misplaced_version_is_not_taken(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(raw(tmp_path)) as database:
        database[page_key(1, 1, 4, 3)] = database[page_key(1, 1, 5, 1)]
    with closing(RocksStore(tmp_path)) as store:
        one, other, both = store.read(
            MAIN, CutSeq(3), [PageRange(A, 4, 1), PageRange(A, 5, 1), PageRange(A, 4, 2)]
        )
        assert isinstance(one, DamagedError)
        assert isinstance(both, DamagedError)
        assert other == says("one", A, 5)


def test_a_lost_version_does_not_read_as_zeros_and_harms_no_other(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(raw(tmp_path)) as database:
        del database[page_key(1, 1, 5, 1)]
        del database[page_key(1, 1, BLOCKS - 1, 1)]
    with closing(RocksStore(tmp_path)) as store:
        ranges = [(5, 1), (4, 1), (3, 6), (6, 4), (BLOCKS - 1, 1), (BLOCKS - 2, 2)]
        answers = store.read(MAIN, CutSeq(2), [PageRange(A, *one) for one in ranges])
        refused = [isinstance(answer, DamagedError) for answer in answers]
        assert refused == [True, False, True, False, True, True]
        with pytest.raises(DamagedError):
            list(store.versions(MAIN, after=CutSeq(0), upto=CutSeq(2)))


def test_a_cut_whose_list_is_damaged_gives_no_pages(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(raw(tmp_path)) as database:
        del database[cut_key(Kind.BASE, 1, 1)]
    with closing(RocksStore(tmp_path)) as store:
        assert [type(one) for one in store.read(MAIN, CutSeq(2), [PageRange(A, 0, 1)] * 2)] == [
            DamagedError
        ] * 2
        with pytest.raises(DamagedError):
            store.contents(MAIN, CutSeq(2))


def test_a_damaged_record_keeps_the_store_closed(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(raw(tmp_path)) as database:
        database[cut_key(Kind.CUT, 1, 2)] = database[cut_key(Kind.CUT, 1, 1)]
    with pytest.raises(StoreBrokenError, match="damaged"):
        RocksStore(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(raw(tmp_path)) as database:
        database[FORMAT_KEY] = encoded(FORMAT_KEY, 2)
    for _ in range(2):  # the refused one has let go of the lock
        with pytest.raises(StoreBrokenError, match="format 2"):
            RocksStore(tmp_path)


@pytest.mark.parametrize("garbage", ["CURRENT", "a file", "no manifest"])
def test_a_directory_of_something_else_is_refused(tmp_path: Path, garbage: str) -> None:
    directory = tmp_path / "pages"
    if garbage == "a file":
        directory.write_bytes(b"nothing of ours")
    else:
        filled(directory)
        (directory / "rocks" / "CURRENT").write_bytes(b"garbage\n")
        if garbage == "no manifest":
            (directory / "rocks" / "CURRENT").write_bytes(b"MANIFEST-000077\n")
    with pytest.raises(StoreBrokenError, match="cannot be opened"):
        RocksStore(directory)


def test_a_second_opener_is_told_of_the_first(tmp_path: Path) -> None:
    code = "import sys, pathlib; from storage.rocks_store import RocksStore; " \
           "RocksStore(pathlib.Path(sys.argv[1]))"  # fmt: skip
    with closing(RocksStore(tmp_path)) as store:
        with pytest.raises(StoreBrokenError, match="open already"):
            RocksStore(tmp_path)
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True
        )
        assert other.returncode != 0
        assert "open already" in other.stderr
        publish(store, "one", new(A, 1))
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    cut = publish(store, "one", new(A, 1))
    store.close()
    store.close()
    (answer,) = store.read(MAIN, cut.seq, [PageRange(A, 0, 1)])
    assert isinstance(answer, StoreBrokenError)
    with pytest.raises(StoreBrokenError, match="closed"):
        publish(store, "two", changed(A, 1, [0]))


def test_what_a_publish_left_unfinished_is_removed(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "staging" / "1-1.sst").write_bytes(bytes(1000))
    with closing(RocksStore(tmp_path)):
        assert list((tmp_path / "staging").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small disk")
    command = [mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["/bin/umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("reserve_bytes", [0, 4 << 20])
def test_a_full_disk_publishes_nothing_and_goes_on_when_there_is_room(
    small_disk: Path, reserve_bytes: int
) -> None:
    settings = RocksSettings(reserve_bytes=reserve_bytes, memtable_bytes=1 << 16)
    with closing(RocksStore(small_disk / "pages", settings)) as store:
        first = publish(store, "one", new(A, 200))
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(12 << 20))
        for _ in range(2):
            with pytest.raises(StoreFullError):
                publish(store, "two", changed(A, 3000, range(3000)))
            assert store.cuts(MAIN) == [first]
            assert file_of(store, first, A)[199] == says("one", A, 199)
        ballast.unlink()
        second = publish(store, "two", changed(A, 300, range(200, 300)))
        assert file_of(store, second, A)[250] == says("two", A, 250)
    with closing(RocksStore(small_disk / "pages", settings)) as store:
        assert store.cuts(MAIN) == [first, second]


def test_most_of_a_hundred_cuts_go_and_their_room_comes_back(tmp_path: Path) -> None:
    with closing(RocksStore(tmp_path)) as store:
        publish(store, "0", new(A, 40))
        for number in range(1, 100):
            publish(store, str(number), changed(A, 40, range(number % 2, 40, 2)))
        store.compact(MAIN)
        before = store.size_bytes()
        last = store.cuts(MAIN)[-1]
        pages = file_of(store, last, A)
        store.drop(MAIN, [cut.seq for cut in store.cuts(MAIN)[:-1]])
        deleted = 0
        while store.stats(MAIN).garbage_cuts:
            deleted += store.collect(MAIN, pages_max=25)
        assert deleted == 40 + 99 * 20 - 40
        store.compact(MAIN)
        assert store.size_bytes() < before / 10
        assert file_of(store, last, A) == pages
