"""A page store in memory whose pages say which cut they are of, and which can be made to fail.

A page is its own name, repeated: path, block and the Lsn of the cut that it was written for. So a
test can tell from the bytes alone whether a page is too old or of the future.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence

from fabric.ids import BranchName, CutSeq
from fabric.lsn import Lsn, Tli
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages
from storage.cut import Cut, CutContents, StoredFile
from storage.page_store import (
    BranchStats,
    CutGoneError,
    DamagedError,
    NewCut,
    NoSuchPageError,
    PageVersion,
    ReadPages,
    StoreError,
)
from storage.read_pool import LOOP_BLOCKS_MAX

MAIN = BranchName("main")
FILES = {"base/5/1": 300, "base/5/2": 10, "global/1262": 2, "pg_xact/0000": 3}
SMALL_FILES = {"PG_VERSION": b"18\n", "global/pg_control": b"control"}
DIRECTORIES = ["base/5"]


def page_of(path: str, block: int, lsn: int) -> bytes:
    """Return the page that a store has for a cut."""
    name = f"{path} {block} {Lsn(lsn)};".encode()
    return (name * (BLOCK_BYTES // len(name) + 1))[:BLOCK_BYTES]


def pages_of(wanted: PageRange, lsn: int) -> bytes:
    """Return the pages of a range."""
    blocks = range(wanted.first, wanted.first + wanted.blocks)
    return b"".join(page_of(wanted.path, block, lsn) for block in blocks)


def lsn_of(page: Pages) -> Lsn:
    """Return the cut that a page is of."""
    return Lsn.parse(bytes(page[:100]).split(b";")[0].rsplit(b" ", 1)[1].decode())


def make_cut(seq: int, lsn: int) -> Cut:
    """Return a cut whose replay begins a little earlier."""
    redo = Lsn(max(0, lsn - 5))
    return Cut(seq=CutSeq(seq), tli=Tli(1), lsn=Lsn(lsn), redo=redo, taken_at_s=1000.0 + seq)


class MemoryPages:
    """Implements `PageStore`, as far as the page service needs it."""

    def __init__(self) -> None:
        self.contents_of: dict[tuple[BranchName, CutSeq], CutContents] = {}
        self.damaged: set[tuple[str, int]] = set()
        self.error: StoreError | None = None  # of every read and description
        self.gate = threading.Event()  # reads of several blocks, in threads, wait
        self.gate.set()
        self.entered = threading.Semaphore(0)  # released by each of them
        self.reads: list[list[PageRange]] = []
        self._cache: dict[tuple[str, int, int, int], bytes] = {}

    def add(
        self,
        lsn: int,
        *,
        seq: int | None = None,
        branch: BranchName = MAIN,
        files: Mapping[str, int] = FILES,
        small_files: Mapping[str, bytes] = SMALL_FILES,
    ) -> Cut:
        """Publish a cut of such files, by path with their blocks."""
        cut = make_cut(len(self.cuts(branch)) + 1 if seq is None else seq, lsn)
        self.contents_of[branch, cut.seq] = CutContents(
            cut=cut,
            files={
                path: StoredFile(path, number, blocks)
                for number, (path, blocks) in enumerate(files.items())
            },
            small_files=small_files,
            directories=DIRECTORIES,
        )
        return cut

    def branches(self) -> Sequence[BranchName]:
        """Return the branches that have a cut."""
        return sorted({branch for branch, _ in self.contents_of})

    def cuts(self, branch: BranchName) -> Sequence[Cut]:
        """Return the cuts, ascending."""
        return [self.contents_of[key].cut for key in sorted(self.contents_of) if key[0] == branch]

    def contents(self, branch: BranchName, seq: CutSeq) -> CutContents:
        """Return everything of a cut but its pages."""
        if self.error is not None:
            raise self.error
        try:
            return self.contents_of[branch, seq]
        except KeyError:
            raise CutGoneError(f"there is no cut {seq}") from None

    def read(
        self, branch: BranchName, seq: CutSeq, ranges: Sequence[PageRange]
    ) -> list[Pages | StoreError]:
        """Return the pages, or the error of the test."""
        self.reads.append(list(ranges))
        if sum(wanted.blocks for wanted in ranges) > LOOP_BLOCKS_MAX:
            self.entered.release()
            self.gate.wait()
        contents = self.contents(branch, seq)
        return [self._range(contents, wanted) for wanted in ranges]

    def _range(self, contents: CutContents, wanted: PageRange) -> Pages | StoreError:
        file = contents.files.get(wanted.path)
        if file is None or wanted.first + wanted.blocks > file.blocks:
            return NoSuchPageError(f"the cut has no such blocks of {wanted.path}")
        for block in range(wanted.first, wanted.first + wanted.blocks):
            if (wanted.path, block) in self.damaged:
                return DamagedError(f"{wanted.path} block {block} has a wrong checksum")
        key = (*wanted, int(contents.cut.lsn))
        if key not in self._cache:
            self._cache[key] = pages_of(wanted, contents.cut.lsn)
        return self._cache[key]

    def drop(self, branch: BranchName, seqs: Sequence[CutSeq]) -> None:
        """Let cuts go."""
        for seq in seqs:
            del self.contents_of[branch, seq]

    # What the page service has no use for.

    def publish(self, branch: BranchName, new: NewCut, read_pages: ReadPages) -> Cut:
        """Not needed: see `add`."""
        raise NotImplementedError

    def collect(self, branch: BranchName, *, pages_max: int) -> int:
        """Not needed."""
        raise NotImplementedError

    def versions(self, branch: BranchName, *, after: CutSeq, upto: CutSeq) -> Iterator[PageVersion]:
        """Not needed."""
        raise NotImplementedError

    def remove_branch(self, branch: BranchName) -> None:
        """Not needed."""
        raise NotImplementedError

    def stats(self, branch: BranchName) -> BranchStats:
        """Not needed."""
        raise NotImplementedError

    def size_bytes(self) -> int:
        """Not needed."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to let go of."""
