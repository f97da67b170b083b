"""How a node gets a cut that it cannot make: from another node, page by page, or from a snapshot.

    no cut of the branch here   ─► the newest cut that others have, as the first one here
    the log lacks WAL behind it ─► a newer one, on top of those that are served meanwhile

A copy is of one cut, which is pinned where it comes from, and whose WAL is pinned in the log. It is
published as a whole: a node that dies half-way has what it had, and begins anew. From then on the
node makes its own cuts of the log.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import structlog

from fabric.ids import BranchName, NodeName
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from sqlnode.harvest import ChangedFile
from sqlnode.page_source import CutDescription, PageRange, PageSource, SourceError
from sqlnode.pagefault.block_map import Pages

from .client import StorageClient
from .cut import Cut
from .methods import LSN_FIRST
from .page_store import NewCut, PageStore, StoreError
from .storage_pages import StoragePages
from .threads import in_thread

log = structlog.get_logger()

T = TypeVar("T")

LEASE_S: Final = 6 * 3600  # of the cut that is copied: a terabyte at 50 MB/s
READ_TIMEOUT_S: Final = 120.0
DESCRIBE_TIMEOUT_MS: Final = 10_000

Restore = Callable[[BranchName, PageStore], Cut]
"""Gives a store the newest snapshot of a branch that is newer than all it has; for a thread.
SeedError: not now."""

Chosen = Callable[[BranchName, Cut], Awaitable[None]]
"""Told which cut is to be copied, so that the log keeps the WAL behind it."""


class SeedError(Exception):
    """The branch cannot be copied now; the sentence says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSources:
    """Where a node gets cuts that it cannot make."""

    node: NodeName
    client_of: Callable[[Sequence[str]], StorageClient]
    restore: Restore | None
    chosen: Chosen

    async def fetch(
        self, branch: BranchName, store: PageStore, orders: Sequence[Sequence[str]]
    ) -> Cut:
        """Give a store a newer cut than it has: from nodes, in one order or another, else from a
        snapshot. SeedError: nobody has one, or it cannot be had now.
        """
        reasons: list[str] = []
        for nodes in filter(None, orders):
            client = self.client_of(nodes)
            try:
                cut = await copy_branch(client, store, branch, node=self.node, chosen=self.chosen)
            except (RpcError, SeedError, TimeoutError) as error:
                reasons.append(str(error) or "the other nodes are too slow")
            else:
                log.info("branch copied", branch=branch, lsn=str(cut.lsn))
                return cut
            finally:
                await client.close()
        if self.restore is not None:
            try:
                cut = await in_thread(self.restore, branch, store)
            except SeedError as error:
                reasons.append(str(error))
            else:
                await self.chosen(branch, cut)
                return cut
        if reasons:
            raise SeedError("; ".join(dict.fromkeys(reasons)))
        raise SeedError(
            f"{branch} has no {'newer ' if store.cuts(branch) else ''}cut here, and there is "
            "neither a node nor an object store to get one from: adopt it with the address of a "
            "storage node that has it"
        )


async def copy_branch(
    client: StorageClient,
    store: PageStore,
    branch: BranchName,
    *,
    node: NodeName,
    chosen: Chosen | None = None,
) -> Cut:
    """Copy the newest cut of a branch from another node, if it is newer than those of the store."""
    known = store.cuts(branch)
    first = Lsn(known[-1].lsn + 1) if known else LSN_FIRST
    cut, description = await client.describe(branch, first=first, timeout_ms=DESCRIBE_TIMEOUT_MS)
    await client.pin(branch, node, cut.lsn, lease_s=LEASE_S)
    if chosen is not None:
        await chosen(branch, cut)
    pages = StoragePages(client, branch, cut.lsn, position=lambda: cut.lsn)
    reader = _BlockingReader(pages, asyncio.get_running_loop())
    try:
        new = await in_thread(replacing, store, branch, first_of(cut, description))
        return await reader.closing(in_thread(store.publish, branch, new, reader.read))
    finally:
        await client.unpin(branch, node)


def replacing(store: PageStore, branch: BranchName, new: NewCut) -> NewCut:
    """Return a cut that is whole in itself as the next one of a store: what it lacks is removed.

    Every file is made anew there, so nothing of the cuts before can show through.
    """
    known = store.cuts(branch)
    if not known:
        return new
    try:
        before = store.contents(branch, known[-1].seq).files
    except StoreError as error:
        raise SeedError(f"a newer cut of {branch} cannot be stored: {error}") from error
    named = {file.path for file in new.files}
    return replace(new, removed=[path for path in before if path not in named])


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
