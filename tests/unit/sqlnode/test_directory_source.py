"""A plain directory as a page source: what it lists, what it gives, what it refuses.

In scope: the contract of `PageSource` on real files. Out of scope: damage that only checksums show
(tests/native/test_failures.py).
"""

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from sqlnode.directory_source import DirectorySource
from sqlnode.page_source import CutDescription, DataFile, PageRange, SourceError
from sqlnode.pagefault.block_map import Pages

BLOCK = 8192


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, content in {
        "PG_VERSION": b"18\n",
        "global/pg_control": b"control",
        "global/1262": bytes([1]) * BLOCK,
        "base/5/1": bytes([2]) * BLOCK * 3 + b"torn",
        "base/5/PG_VERSION": b"18\n",
        "base/5/t3_9": b"temporary",
        "base/5/pg_internal.init": b"cache",
        "base/pgsql_tmp/pgsql_tmp1.0/16384": bytes(BLOCK),
        "pg_xact/0000": bytes([3]) * BLOCK * 2,
        "pg_twophase/000002F1": b"prepared",
        "pg_wal/000000010000000000000001": b"wal",
        "postmaster.pid": b"1",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    return tmp_path


def describe(root: Path) -> CutDescription:
    return asyncio.run(DirectorySource(root).describe())


def read(root: Path, *ranges: PageRange) -> Sequence[Pages | SourceError]:
    async def work() -> Sequence[Pages | SourceError]:
        source = DirectorySource(root)
        try:
            return await source.read(ranges)
        finally:
            await source.close()

    return asyncio.run(work())


def test_what_travels_is_listed_and_nothing_else(root: Path) -> None:
    cut = describe(root)
    assert sorted(cut.files, key=lambda file: file.path) == [
        DataFile("base/5/1", 3),
        DataFile("global/1262", 1),
        DataFile("pg_xact/0000", 2),
    ]
    assert sorted(cut.small_files) == [
        "PG_VERSION",
        "base/5/PG_VERSION",
        "global/pg_control",
        "pg_twophase/000002F1",
    ]
    assert list(cut.directories) == ["base/5"]


def test_pages_come_in_the_order_that_was_asked(root: Path) -> None:
    pages = read(root, PageRange("pg_xact/0000", 1, 1), PageRange("base/5/1", 0, 3))
    assert [bytes(page) for page in pages if not isinstance(page, SourceError)] == [
        bytes([3]) * BLOCK,
        bytes([2]) * BLOCK * 3,
    ]


def test_range_that_fails_does_not_fail_its_neighbours(root: Path) -> None:
    good, short, missing, torn = read(
        root,
        PageRange("base/5/1", 1, 1),
        PageRange("base/5/1", 2, 2),
        PageRange("base/5/404", 0, 1),
        PageRange("base/5/1", 3, 1),
    )
    assert good == bytes([2]) * BLOCK
    assert isinstance(short, SourceError)
    assert isinstance(torn, SourceError)
    assert str(short) == f"{root}/base/5/1 ends before block 3; restore the file from a backup"
    assert str(missing) == (
        f"{root}/base/5/404 cannot be read ({os.strerror(errno.ENOENT)}); "
        "restore the file from a backup"
    )


def test_file_that_was_put_in_place_of_another_is_read(root: Path) -> None:
    async def work() -> None:
        source = DirectorySource(root)
        wanted = [PageRange("global/1262", 0, 1)]
        assert await source.read(wanted) == [bytes([1]) * BLOCK]
        (root / "restored").write_bytes(bytes([9]) * BLOCK)
        (root / "restored").replace(root / "global/1262")
        assert await source.read(wanted) == [bytes([9]) * BLOCK]
        await source.close()

    asyncio.run(work())


def test_more_files_are_served_than_are_kept_open(root: Path) -> None:
    for number in range(600):
        (root / f"base/5/{number + 1000}").write_bytes(bytes([number % 255]) * BLOCK)
    ranges = [PageRange(f"base/5/{number + 1000}", 0, 1) for number in range(600)]
    before = len(os.listdir("/proc/self/fd"))
    assert [page[0] for page in read(root, *ranges) if not isinstance(page, SourceError)] == [
        number % 255 for number in range(600)
    ]
    assert len(os.listdir("/proc/self/fd")) <= before


def test_directory_that_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is no data directory \(no global/pg_control\)"):
        describe(tmp_path)


def test_tablespace_outside_the_directory_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "pg_tblspc").mkdir()
    (root / "pg_tblspc/16400").symlink_to(tmp_path)
    with pytest.raises(SourceError, match="pg_tblspc/16400 is a tablespace outside the data"):
        describe(root)
