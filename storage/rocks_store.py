"""The page store in RocksDB: all branches of a node in one database (docs/formats/page_store.md).

    rocks_keys, rocks_values   what is stored, and under which keys
    rocks_database             how RocksDB is used: few keys by its log, many by whole files
    rocks_catalog              which branches and cuts there are, and what files they have
    rocks_plan, rocks_publish  a cut comes to be
    rocks_read                 pages of a cut
    rocks_versions             what changed between two cuts
    rocks_collect, _collector  which versions nobody needs, and how they go

Readers take no lock. They look at the end whether the cut could still be read; if so, all of the
answer was right, because what a cut needs goes only after the cut was dropped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fabric.ids import BranchName, CutSeq
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import Pages

from .cut import Cut, CutContents, StoredFile
from .page_store import (
    BranchStats,
    DamagedError,
    NewCut,
    NoSuchPageError,
    PageVersion,
    ReadPages,
    StoreBrokenError,
    StoreError,
)
from .rocks_catalog import BranchState, Catalog
from .rocks_collector import Collector
from .rocks_database import RocksDatabase, RocksSettings
from .rocks_keys import Kind, behind, branch_prefix, cut_key
from .rocks_publish import Passing, publish_cut
from .rocks_read import read_pages
from .rocks_space import branch_sizes
from .rocks_values import encoded
from .rocks_versions import changed_runs, versions_of_runs


@dataclass(slots=True)
class Damage:
    """What damage was met since the store was opened."""

    count: int = 0
    newest: str = ""

    def note(self, error: DamagedError) -> None:
        """Count one more; from any thread, and one that is lost is no loss."""
        self.newest = str(error)
        self.count += 1


class RocksStore:
    """A `PageStore` in one directory. One process has it open at a time."""

    def __init__(
        self,
        directory: Path,
        settings: RocksSettings | None = None,
        *,
        passing: Passing = lambda _: None,
    ) -> None:
        """StoreBrokenError: it cannot be opened. `passing` is told the steps of a publish."""
        settings = settings or RocksSettings()
        self.damage = Damage()
        self._passing = passing
        self._database = RocksDatabase(directory, settings)
        try:
            self._catalog = Catalog(
                self._database, directory, contents_cached=settings.contents_cached
            )
        except BaseException:
            self._database.close()
            raise
        self._collector = Collector(self._database, self._catalog)

    # What there is.

    def branches(self) -> Sequence[BranchName]:
        """Return the branches that have a cut."""
        return self._catalog.names()

    def cuts(self, branch: BranchName) -> Sequence[Cut]:
        """Return the cuts that can be read, ascending."""
        state = self._catalog.find(branch)
        return [] if state is None else list(state.cuts.readable.values())

    def contents(self, branch: BranchName, seq: CutSeq) -> CutContents:
        """Return everything of a cut but its pages."""
        with self._noting():
            return self._catalog.contents(self._catalog.readable(branch, seq), seq)

    def stats(self, branch: BranchName) -> BranchStats:
        """Return what a branch takes; zeros for an unknown one."""
        state = self._catalog.find(branch)
        cuts = None if state is None else state.cuts
        if state is None or cuts is None or cuts.newest is None:
            return BranchStats(cuts=0, files=0, pages=0, garbage_cuts=0)
        files = self._catalog.contents(state, cuts.newest).files
        return BranchStats(
            cuts=len(cuts.readable),
            files=len(files),
            pages=sum(file.blocks for file in files.values()),
            garbage_cuts=len(cuts.dropped),
        )

    def size_bytes(self) -> int:
        """Return the bytes on disk of the whole store."""
        return self._database.size_bytes()

    def branch_sizes(self) -> dict[BranchName, int]:
        """Return the bytes on disk of each branch, about (see `rocks_space`)."""
        found = map(self._catalog.find, self._catalog.names())
        states = [state for state in found if state is not None]
        sizes = branch_sizes(self._database.table_files(), [state.number for state in states])
        return {state.name: sizes[state.number] for state in states}

    # Reading.

    def read(
        self, branch: BranchName, seq: CutSeq, ranges: Sequence[PageRange]
    ) -> list[Pages | StoreError]:
        """Return the pages of each range, whole, or why not. Raises CutGoneError."""
        state = self._catalog.readable(branch, seq)
        try:
            files = self._catalog.contents(state, seq).files
        except DamagedError as error:
            self.damage.note(error)
            return [error for _ in ranges]
        answers = [
            self._read_range(state, seq, files.get(wanted.path), wanted) for wanted in ranges
        ]
        state.require_readable(seq)
        for answer in answers:
            if isinstance(answer, DamagedError):
                self.damage.note(answer)
        return answers

    def _read_range(
        self, state: BranchState, seq: CutSeq, file: StoredFile | None, wanted: PageRange
    ) -> Pages | StoreError:
        path, first, blocks = wanted
        if file is None or first < 0 or blocks < 0 or first + blocks > file.blocks:
            return NoSuchPageError(
                f"cut {seq} of branch {state.name} has no {blocks} blocks from {first} on "
                f"of {path}; look at the cut's contents"
            )
        number, file_id = state.number, file.file_id
        try:
            return read_pages(self._database, number, file_id, seq=seq, first=first, blocks=blocks)
        except (DamagedError, StoreBrokenError) as error:
            return type(error)(f"{path} of branch {state.name}: {error}")

    def versions(self, branch: BranchName, *, after: CutSeq, upto: CutSeq) -> Iterator[PageVersion]:
        """Yield the newest version of each page that changed in (after, upto].

        More pages than those if `after` is a cut that is not there any more.
        """
        if after > upto:
            raise ValueError(f"there is nothing between cut {after} and an earlier one, {upto}")
        state = self._catalog.readable(branch, upto)
        runs = changed_runs(self._catalog, state, after, upto)
        return self._noted(versions_of_runs(self._database, state, upto, runs))

    # Changing.

    def publish(self, branch: BranchName, new: NewCut, read_pages: ReadPages) -> Cut:
        """Store a cut, durably and as a whole, and make it the newest."""
        state = self._catalog.find_or_create(branch)
        with state.publishing, self._noting():
            return publish_cut(
                self._database, self._catalog, state, new, read_pages, passing=self._passing
            )

    def drop(self, branch: BranchName, seqs: Sequence[CutSeq]) -> None:
        """Let cuts go, durably; those that are gone already are fine."""
        state = self._catalog.find(branch)
        if state is None:
            return
        with state.changing, self._noting():
            if state.cuts.newest in seqs:
                raise ValueError(f"cut {state.cuts.newest} is the newest of branch {branch}: "
                                 "it has to stay")  # fmt: skip
            known = [seq for seq in seqs if seq in state.cuts.readable]
            if not known or state.is_removed:
                return
            batch = self._database.batch()
            for seq in known:
                key = cut_key(Kind.DROPPED, state.number, seq)
                batch[key] = encoded(key, 0)
            self._database.write(batch)
            state.cuts = state.cuts.with_dropped(known)

    def remove_branch(self, branch: BranchName) -> None:
        """Forget a branch with all of its cuts."""
        self._catalog.remove(branch)

    def close(self) -> None:
        """Let go of everything."""
        self._database.close()

    # Giving space back.

    def collect(self, branch: BranchName, *, pages_max: int) -> int:
        """Look at some versions that dropped cuts may have left; return how many were deleted."""
        if pages_max < 1:
            raise ValueError(f"collecting looks at one page at least, not at {pages_max}")
        state = self._catalog.find(branch)
        if state is None:
            return 0
        with self._noting():
            return self._collector.step(state, pages_max=pages_max)

    def compact(self, branch: BranchName) -> None:
        """Give back at once the space of what was collected; else that happens by and by."""
        state = self._catalog.find(branch)
        if state is not None:
            prefix = branch_prefix(Kind.PAGE, state.number)
            self._database.compact(prefix, behind(prefix))

    def _noted(self, versions: Iterator[PageVersion]) -> Iterator[PageVersion]:
        with self._noting():
            yield from versions

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except DamagedError as error:
            self.damage.note(error)
            raise
