"""The page store of this node as a page source: for the redo engine's broker, in the same process.

The engine reads pages as of the node's newest cut, or of an older one that is kept: `move_to` says
which. Its reads share the threads of the page service, and are not refused when that is busy: a
broker bounds its own reads.

A range that is damaged here is read from other nodes (`peer_pages`), as of the same cut. The page
store itself is made anew as a whole (`healing`), because what is damaged in it stays in the way of
its compactions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from fabric.ids import BranchName
from sqlnode.page_source import (
    CutDescription,
    DamagedPageError,
    DataFile,
    PageRange,
    PageSource,
    SourceError,
)
from sqlnode.pagefault.block_map import Pages

from .client import StorageClient
from .cut import Cut
from .page_store import CutGoneError, DamagedError, NoSuchPageError, StoreError
from .read_pool import ReadPool
from .storage_pages import StoragePages

log = structlog.get_logger()


Fallback = Callable[[Cut], PageSource]
"""Gives the pages that other nodes have as of a cut."""


def peer_pages(client: StorageClient, branch: BranchName) -> Fallback:
    """Return what other nodes have of a branch, as of any cut that they have, too."""
    return lambda cut: StoragePages(client, branch, cut.lsn, position=lambda: cut.lsn)


@dataclass(slots=True)
class StoreSourceCounters:
    """What happened so far."""

    damaged: int = 0  # ranges
    healed: int = 0  # of them


class StoreSource:
    """Implements `PageSource`: pages of one branch as of one cut of this node's store."""

    def __init__(
        self, pool: ReadPool, branch: BranchName, cut: Cut, *, fallback: Fallback | None = None
    ) -> None:
        self.counters = StoreSourceCounters()
        self._pool = pool
        self._branch = branch
        self._cut = cut
        self._fallback = fallback

    @property
    def cut(self) -> Cut:
        """The cut that pages are given of."""
        return self._cut

    def move_to(self, cut: Cut) -> None:
        """Give pages of a newer cut from now on; reads under way may still be of the old one."""
        if cut.lsn < self._cut.lsn:
            raise ValueError(f"the source cannot go back from {self._cut.lsn} to {cut.lsn}")
        self._cut = cut

    async def describe(self) -> CutDescription:
        """Return the cut's files. Raises `SourceError`."""
        try:
            contents = await self._pool.contents(self._branch, self._cut.seq)
        except StoreError as error:
            raise SourceError(
                f"{self._branch} at {self._cut.lsn} cannot be described: {error}"
            ) from error
        return CutDescription(
            files=[DataFile(file.path, file.blocks) for file in contents.files.values()],
            small_files=contents.small_files,
            directories=contents.directories,
        )

    async def read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        """Return the pages of each range, or why not; a damaged one from elsewhere if possible."""
        cut = self._cut
        results = await self._pool.read(self._branch, cut.seq, ranges)
        if cut is not self._cut and any(isinstance(result, CutGoneError) for result in results):
            cut = self._cut  # it was dropped because there is a newer one, which is as good
            results = await self._pool.read(self._branch, cut.seq, ranges)
        outcomes = [
            _source_error(self._branch, cut, wanted, result)
            if isinstance(result, StoreError)
            else result
            for wanted, result in zip(ranges, results, strict=True)
        ]
        damaged = [i for i, pages in enumerate(outcomes) if isinstance(pages, DamagedPageError)]
        if damaged:
            await self._heal(cut, ranges, outcomes, damaged)
        return outcomes

    async def close(self) -> None:
        """Nothing: the threads are the page service's, and the fallback is its owner's."""

    async def _heal(
        self,
        cut: Cut,
        ranges: Sequence[PageRange],
        outcomes: list[Pages | SourceError],
        damaged: Sequence[int],
    ) -> None:
        """Read damaged ranges elsewhere; what is damaged there too stays an error."""
        self.counters.damaged += len(damaged)
        if self._fallback is None:
            return
        others = await self._fallback(cut).read([ranges[index] for index in damaged])
        for index, other in zip(damaged, others, strict=True):
            if isinstance(other, SourceError):
                outcomes[index] = DamagedPageError(f"{outcomes[index]!s}; and elsewhere: {other}")
            else:
                # The caller goes on, but the disk of this node needs somebody who looks at it.
                log.error("storage.page_healed", branch=self._branch, error=str(outcomes[index]))
                outcomes[index] = other
                self.counters.healed += 1


def _source_error(
    branch: BranchName, cut: Cut, wanted: PageRange, error: StoreError
) -> SourceError:
    where = f"{wanted.path} of {branch} at {cut.lsn}, blocks {wanted.first} to "
    where += f"{wanted.first + wanted.blocks - 1}"
    match error:
        case DamagedError():
            return DamagedPageError(f"{where}, is damaged in the page store: {error}")
        case NoSuchPageError():
            return SourceError(f"{where}, is not in the cut: {error}")
        case CutGoneError():
            return SourceError(f"{where}, is of a cut that was dropped: move to a newer one")
        case _:
            return SourceError(f"{where}, cannot be read: {error}")
