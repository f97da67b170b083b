"""The page store: versions of every page of every branch of a node, by cut.

    publish(changes)  ──►  a new cut: all of it, durably, or nothing
    read(cut, ranges) ──►  for each block its newest version at or before the cut
    drop(cuts)        ──►  nobody may read them any more; `collect` gives their space back

A page version is stored under (branch, file, block, seq). A cut names its files by number
(`StoredFile.file_id`), and a number is never used again, so a file that was dropped and made anew
under the same name has none of the old one's pages.

Every block of a file of a cut has a version at or before it, also one of zeros: a version that
cannot be found is damage and never reads as zeros.

All methods wait for the disk; call them in threads. One thread publishes for a branch at a time,
and one collects; any number read meanwhile. What is read is checked.

    StoreError
    ├── CutGoneError       there is no such cut (any more): take a newer one
    ├── NoSuchPageError    the cut has no such file, or the file is shorter: the caller is wrong
    ├── DamagedError       a version is damaged or missing: get the page from another node
    ├── StoreFullError     no room: nothing was published; free some, the cut can be tried again
    └── StoreBrokenError   the store cannot be opened or written: a human must look, or rebuild it
        └── StoreDamagedError   it cannot be opened because of what is in it: rebuild it
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fabric.ids import BranchName, CutSeq
from fabric.lsn import Lsn, Tli
from sqlnode.harvest import ChangedFile
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import Pages

from .cut import Cut, CutContents


class StoreError(Exception):
    """A call that the page store did not carry out."""


class CutGoneError(StoreError):
    """There is no such cut, or not any more: take a newer one."""


class NoSuchPageError(StoreError):
    """The cut has no such file, or the file is shorter."""


class DamagedError(StoreError):
    """A version is damaged or missing: get the page elsewhere."""


class StoreFullError(StoreError):
    """There is no room; nothing was published."""


class StoreBrokenError(StoreError):
    """The store cannot be opened or written."""


class StoreDamagedError(StoreBrokenError):
    """The store cannot be opened because of what is in it: another try will not help."""


ReadPages = Callable[[str, int, int], Pages]
"""(path, first block, blocks) -> the pages as they are to be stored, already checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCut:
    """What a cut changes since the branch's newest one."""

    tli: Tli
    lsn: Lsn
    redo: Lsn
    taken_at_s: float
    files: Sequence[ChangedFile]
    removed: Sequence[str]
    small_files: Mapping[str, bytes]  # all of them
    directories: Sequence[str]  # all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class PageVersion:
    """One stored page; None: a page of zeros."""

    file_id: int
    block: int
    page: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchStats:
    """What a branch takes."""

    cuts: int
    files: int  # of the newest cut
    pages: int  # of the newest cut
    garbage_cuts: int  # dropped, and not collected yet


class PageStore(Protocol):
    """Pages of the branches of one node."""

    def branches(self) -> Sequence[BranchName]:
        """Return the branches that have a cut."""

    def cuts(self, branch: BranchName) -> Sequence[Cut]:
        """Return the cuts that can be read, ascending; none for an unknown branch."""

    def contents(self, branch: BranchName, seq: CutSeq) -> CutContents:
        """Return everything of a cut but its pages."""

    def read(
        self, branch: BranchName, seq: CutSeq, ranges: Sequence[PageRange]
    ) -> list[Pages | StoreError]:
        """Return the pages of each range, whole, or why not.

        Raises CutGoneError if the cut cannot be read, also if it was dropped meanwhile.
        """

    def publish(self, branch: BranchName, new: NewCut, read_pages: ReadPages) -> Cut:
        """Store a cut, durably and as a whole, and make it the newest.

        ValueError: it is not after the newest cut, or does not fit it.
        """

    def drop(self, branch: BranchName, seqs: Sequence[CutSeq]) -> None:
        """Let cuts go, durably; the newest of a branch stays (ValueError)."""

    def collect(self, branch: BranchName, *, pages_max: int) -> int:
        """Look at some versions that dropped cuts may have left; return how many were deleted.

        0 with `garbage_cuts` 0 means that there is nothing left to do.
        """

    def versions(self, branch: BranchName, *, after: CutSeq, upto: CutSeq) -> Iterator[PageVersion]:
        """Yield, by file and block, the newest version of each page that changed in (after, upto].

        Only pages that the cut `upto` has. With `after` 0: every page of it.
        """

    def remove_branch(self, branch: BranchName) -> None:
        """Forget a branch with all of its cuts."""

    def stats(self, branch: BranchName) -> BranchStats:
        """Return what a branch takes."""

    def size_bytes(self) -> int:
        """Return the bytes on disk of the whole store."""

    def close(self) -> None:
        """Let go of everything."""
