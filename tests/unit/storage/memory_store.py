"""A page store that is obviously right: each cut has a whole copy of all of its files.

It follows the words of `ChangedFile` literally (cut the copy, set the length, write the blocks),
and knows nothing of versions, deltas and collection. Tests compare the real one with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fabric.ids import BranchName, CutSeq
from sqlnode.harvest import ChangedFile
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages
from storage.cut import Cut, CutContents, StoredFile
from storage.page_store import (
    BranchStats,
    CutGoneError,
    NewCut,
    NoSuchPageError,
    PageVersion,
    ReadPages,
    StoreError,
)

ZEROS = bytes(BLOCK_BYTES)


@dataclass
class File:
    """A copy of a file, and for each block the cut that wrote it last."""

    file_id: int
    pages: list[bytes] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)


@dataclass
class Branch:
    """What is known of a branch."""

    cuts: dict[CutSeq, CutContents] = field(default_factory=dict)
    files: dict[CutSeq, dict[str, File]] = field(default_factory=dict)
    dropped: set[CutSeq] = field(default_factory=set)
    next_file_id: int = 1


class MemoryStore:
    """A `PageStore` that keeps everything, many times over."""

    def __init__(self) -> None:
        self._branches: dict[BranchName, Branch] = {}

    def branches(self) -> Sequence[BranchName]:
        """Those with a cut."""
        return sorted(self._branches)

    def cuts(self, branch: BranchName) -> Sequence[Cut]:
        """Ascending."""
        found = self._branches.get(branch, Branch())
        return [one.cut for seq, one in found.cuts.items() if seq not in found.dropped]

    def contents(self, branch: BranchName, seq: CutSeq) -> CutContents:
        """All but the pages."""
        return self._readable(branch, seq).cuts[seq]

    def read(
        self, branch: BranchName, seq: CutSeq, ranges: Sequence[PageRange]
    ) -> list[Pages | StoreError]:
        """Copies."""
        files = self._readable(branch, seq).files[seq]
        answers: list[Pages | StoreError] = []
        for path, first, blocks in ranges:
            if path not in files or first + blocks > len(files[path].pages):
                answers.append(NoSuchPageError(path))
            else:
                answers.append(b"".join(files[path].pages[first : first + blocks]))
        return answers

    def publish(self, branch: BranchName, new: NewCut, read_pages: ReadPages) -> Cut:
        """Copy everything, and change the copy."""
        found = self._branches.get(branch, Branch())
        newest = max(found.cuts, default=None)
        if newest is not None:
            last = found.cuts[newest].cut
            if new.lsn <= last.lsn or new.tli < last.tli:
                raise ValueError("not after the newest cut")
        seq = CutSeq((newest or 0) + 1)
        files = {} if newest is None else dict(found.files[newest])
        next_file_id = found.next_file_id
        for path in new.removed:
            files.pop(path, None)
        for changed in new.files:
            if changed.keep_blocks == 0:
                files.pop(changed.path, None)
            elif changed.path not in files:
                raise ValueError("changed, but not there")
            if changed.path not in files:
                files[changed.path] = File(next_file_id)
                next_file_id += 1
            files[changed.path] = changed_copy(files[changed.path], changed, seq, read_pages)
        cut = Cut(seq=seq, tli=new.tli, lsn=new.lsn, redo=new.redo, taken_at_s=new.taken_at_s)
        found.next_file_id = next_file_id
        found.files[seq] = files
        found.cuts[seq] = CutContents(
            cut=cut,
            files={path: StoredFile(path, f.file_id, len(f.pages)) for path, f in files.items()},
            small_files=dict(new.small_files),
            directories=list(new.directories),
        )
        self._branches[branch] = found
        return cut

    def drop(self, branch: BranchName, seqs: Sequence[CutSeq]) -> None:
        """Mark them."""
        found = self._branches.get(branch)
        if found is None:
            return
        if max(found.cuts) in seqs:
            raise ValueError("the newest stays")
        found.dropped.update(seq for seq in seqs if seq in found.cuts)

    def collect(self, branch: BranchName, *, pages_max: int) -> int:
        """Forget what is dropped, all at once."""
        found = self._branches.get(branch)
        if pages_max < 1:
            raise ValueError("collect something")
        if found is None:
            return 0
        gone = len(found.dropped)
        for seq in found.dropped:
            del found.cuts[seq], found.files[seq]
        found.dropped.clear()
        return gone

    def versions(self, branch: BranchName, *, after: CutSeq, upto: CutSeq) -> Iterator[PageVersion]:
        """By the seqs that stand beside the pages."""
        if after > upto:
            raise ValueError("nothing in between")
        files = self._readable(branch, upto).files[upto]
        for file in sorted(files.values(), key=lambda file: file.file_id):
            for block, (page, seq) in enumerate(zip(file.pages, file.seqs, strict=True)):
                if seq > after:
                    yield PageVersion(
                        file_id=file.file_id, block=block, page=None if page == ZEROS else page
                    )

    def remove_branch(self, branch: BranchName) -> None:
        """Forget it."""
        self._branches.pop(branch, None)

    def stats(self, branch: BranchName) -> BranchStats:
        """Counted."""
        found = self._branches.get(branch)
        if found is None:
            return BranchStats(cuts=0, files=0, pages=0, garbage_cuts=0)
        files = found.cuts[max(found.cuts)].files
        return BranchStats(
            cuts=len(found.cuts) - len(found.dropped),
            files=len(files),
            pages=sum(file.blocks for file in files.values()),
            garbage_cuts=len(found.dropped),
        )

    def size_bytes(self) -> int:
        """Nothing is on a disk."""
        return 0

    def close(self) -> None:
        """Forget all."""
        self._branches.clear()

    def _readable(self, branch: BranchName, seq: CutSeq) -> Branch:
        found = self._branches.get(branch)
        if found is None or seq not in found.cuts or seq in found.dropped:
            raise CutGoneError(f"{branch} {seq}")
        return found


def changed_copy(old: File, changed: ChangedFile, seq: CutSeq, read_pages: ReadPages) -> File:
    """Do what a harvest says to a copy of a file."""
    file = File(old.file_id, list(old.pages), list(old.seqs))
    for kept in (changed.keep_blocks, changed.blocks):
        if kept is not None:
            del file.pages[kept:], file.seqs[kept:]
    added = changed.blocks - len(file.pages)
    file.pages += [ZEROS] * added
    file.seqs += [seq] * added
    for block in changed.changed:
        file.pages[block] = bytes(read_pages(changed.path, block, 1))
        file.seqs[block] = seq
    return file
