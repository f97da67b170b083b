"""How a node gets its first cut of a branch that others have: page by page from one of them.

The copy is of one cut, which is pinned there meanwhile, and is published here as a whole: a node
that dies half-way has nothing, and begins anew. From then on it makes its own cuts of the log.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from fabric.ids import BranchName, NodeName
from sqlnode.harvest import ChangedFile
from sqlnode.page_source import CutDescription, PageRange, PageSource, SourceError
from sqlnode.pagefault.block_map import Pages

from .client import StorageClient
from .cut import Cut
from .page_store import NewCut, PageStore
from .storage_pages import StoragePages
from .threads import in_thread

T = TypeVar("T")

LEASE_S: Final = 6 * 3600  # of the cut that is copied: a terabyte at 50 MB/s
READ_TIMEOUT_S: Final = 120.0


class SeedError(Exception):
    """The branch cannot be copied now; the sentence says why."""


async def copy_branch(
    client: StorageClient, store: PageStore, branch: BranchName, *, node: NodeName
) -> Cut:
    """Copy the newest cut of a branch from another node, as the first one here."""
    cut, description = await client.describe(branch)
    await client.pin(branch, node, cut.lsn, lease_s=LEASE_S)
    pages = StoragePages(client, branch, cut.lsn, position=lambda: cut.lsn)
    reader = _BlockingReader(pages, asyncio.get_running_loop())
    try:
        publishing = in_thread(store.publish, branch, first_of(cut, description), reader.read)
        return await reader.closing(publishing)
    finally:
        await client.unpin(branch, node)


def first_of(cut: Cut, description: CutDescription) -> NewCut:
    """Return a cut as the first one of a store: every file is new, every page is to be stored."""
    return NewCut(
        tli=cut.tli,
        lsn=cut.lsn,
        redo=cut.redo,
        taken_at_s=cut.taken_at_s,
        files=[
            ChangedFile(
                path=file.path, blocks=file.blocks, keep_blocks=0, changed=range(file.blocks)
            )
            for file in description.files
        ],
        removed=(),
        small_files=description.small_files,
        directories=description.directories,
    )


class _BlockingReader:
    """Pages of a source for a thread, while the event loop does the reading."""

    def __init__(self, source: PageSource, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._loop = loop
        self._is_closed = False

    def read(self, path: str, first: int, blocks: int) -> Pages:
        """Return pages; SeedError if they cannot be had."""
        if self._is_closed:
            raise SeedError("the copying was given up")
        reading = asyncio.run_coroutine_threadsafe(
            _one(self._source, PageRange(path, first, blocks)), self._loop
        )
        pages = reading.result(READ_TIMEOUT_S)
        if isinstance(pages, SourceError):
            raise SeedError(str(pages)) from pages
        return pages

    async def closing(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the work that reads here; when that is given up, it ends at its next page."""
        working = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            self._is_closed = True
            working.cancel()
            await asyncio.wait([working])
            raise


async def _one(source: PageSource, wanted: PageRange) -> Pages | SourceError:
    (pages,) = await source.read([wanted])
    return pages
