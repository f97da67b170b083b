"""The contract of `PageSource`, for every source of storage and for the directory before them.

In scope: what `sqlnode.page_source` promises to a broker. `StoragePages` asks real nodes over real
sockets. Out of scope: which cut answers (test_page_service), other nodes (test_storage_client).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from unit.fabric.rpc_world import in_loop
from unit.storage.memory_pages import DIRECTORIES, FILES, MAIN, SMALL_FILES, page_of, pages_of
from unit.storage.page_world import client_of, pages_from, storage_nodes

from sqlnode.directory_source import DirectorySource
from sqlnode.page_source import DataFile, PageRange, PageSource, SourceError
from storage.store_source import StoreSource

CUT = 100

MakeSource: TypeAlias = Callable[[Path], AbstractAsyncContextManager[PageSource]]


@asynccontextmanager
async def directory_source(root: Path) -> AsyncIterator[PageSource]:
    for path, blocks in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(pages_of(PageRange(path, 0, blocks), CUT))
    for path, content in SMALL_FILES.items():
        (root / path).write_bytes(content)
    yield DirectorySource(root)


@asynccontextmanager
async def store_source(root: Path) -> AsyncIterator[PageSource]:
    del root
    async with storage_nodes() as [node]:
        yield StoreSource(node.service.pool, MAIN, node.publish(CUT))


@asynccontextmanager
async def storage_pages(root: Path) -> AsyncIterator[PageSource]:
    del root
    async with storage_nodes(2) as [one, other], client_of(one, other) as client:
        one.publish(CUT)
        other.publish(CUT)
        yield pages_from(client, CUT, CUT)


each_source = pytest.mark.parametrize("make", [directory_source, store_source, storage_pages])


@each_source
@in_loop
async def test_the_cut_is_described_as_it_is(make: MakeSource, tmp_path: Path) -> None:
    async with make(tmp_path) as source:
        cut = await source.describe()
        await source.close()
    assert {file.path: file for file in cut.files} == {
        path: DataFile(path, blocks) for path, blocks in FILES.items()
    }
    assert dict(cut.small_files) == SMALL_FILES
    assert list(cut.directories) == DIRECTORIES


@each_source
@in_loop
async def test_pages_come_whole_and_in_the_order_that_was_asked(
    make: MakeSource, tmp_path: Path
) -> None:
    ranges = [
        PageRange("pg_xact/0000", 2, 1),
        PageRange("base/5/1", 100, 128),
        PageRange("base/5/1", 0, 1),
        PageRange("base/5/2", 3, 5),
    ]
    async with make(tmp_path) as source:
        results = await source.read(ranges)
        await source.close()
    pages = [bytes(result) for result in results if not isinstance(result, SourceError)]
    assert pages == [pages_of(wanted, CUT) for wanted in ranges]


@each_source
@in_loop
async def test_ranges_that_fail_do_not_fail_their_neighbours(
    make: MakeSource, tmp_path: Path
) -> None:
    ranges = [
        PageRange("base/5/2", 0, 1),
        PageRange("base/5/2", 9, 2),  # ends behind the file
        PageRange("base/5/404", 0, 1),
        PageRange("base/5/../../etc/passwd", 0, 1),
        PageRange("base/5/2", 9, 1),
    ]
    async with make(tmp_path) as source:
        first, short, missing, outside, last = await source.read(ranges)
        await source.close()
    assert first == page_of("base/5/2", 0, CUT)
    assert last == page_of("base/5/2", 9, CUT)
    for failed in (short, missing, outside):
        assert isinstance(failed, SourceError)


@each_source
@in_loop
async def test_nothing_asked_is_nothing_read(make: MakeSource, tmp_path: Path) -> None:
    async with make(tmp_path) as source:
        assert list(await source.read([])) == []
        await source.close()


@each_source
@in_loop
async def test_more_than_one_request_holds_is_read_all_the_same(
    make: MakeSource, tmp_path: Path
) -> None:
    ranges = [PageRange("base/5/1", first % 290, 7) for first in range(400)]
    async with make(tmp_path) as source:
        results = await source.read(ranges)
        await source.close()
    pages = [bytes(result) for result in results if not isinstance(result, SourceError)]
    assert pages == [pages_of(wanted, CUT) for wanted in ranges]
