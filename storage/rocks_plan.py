"""What a cut changes in the page store, decided without I/O.

    ChangedFile (a harvest's words)  ──►  file ids, runs of pages to copy, runs of zeros, the delta

Invariant: every block of a file of a cut has a version at or before the cut. So a block that the
harvest left void (behind `keep_blocks`, or added by the new length) and did not list as changed
gets an explicit version of zeros.

Removal comes first: a harvest that lists a path as removed and as a file means the file that was
made anew. A file made anew gets a new id; its old pages cannot show through.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from sqlnode.harvest import ChangedFile

from .cut import Cut, CutContents, StoredFile
from .page_store import NewCut
from .rocks_keys import BLOCK_MAX
from .rocks_values import (
    BaseRecord,
    CutRecord,
    DeltaRecord,
    FileEntry,
    blocks_of,
    file_entries,
    runs_of,
)

# Differences are told against the whole list of an earlier cut until they are as many as an eighth
# of it: with 20,000 files a list costs 15 ms and 0.7 MB to write, which few cuts have to pay then.
_CHANGES_MIN: Final = 256
_CHANGES_DIVISOR: Final = 8


class PageRun(NamedTuple):
    """Consecutive blocks of one file to write."""

    file_id: int
    path: str
    first: int
    blocks: int
    zeros: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPlan:
    """Everything of a new cut but its pages."""

    files: dict[str, StoredFile]
    runs: list[PageRun]  # ascending by file id and block
    next_file_id: int

    @property
    def delta(self) -> DeltaRecord:
        """Return which pages are written."""
        runs: dict[int, list[int]] = {}
        for run in self.runs:
            of_file = runs.setdefault(run.file_id, [])
            if of_file and of_file[-2] + of_file[-1] == run.first:
                of_file[-1] += run.blocks
            else:
                of_file += (run.first, run.blocks)
        return DeltaRecord(runs)


def plan_cut(
    before: Mapping[str, StoredFile], new: NewCut, *, next_file_id: int, run_blocks_max: int
) -> CutPlan:
    """Decide what to write. ValueError: the changes do not fit the files before."""
    files = dict(before)
    for path in new.removed:
        files.pop(path, None)  # made and removed between two cuts: nobody ever knew it
    runs: list[PageRun] = []
    seen: set[str] = set()
    for changed in new.files:
        if changed.path in seen:
            raise ValueError(f"{changed.path} is listed twice in one cut")
        seen.add(changed.path)
        old = None if changed.keep_blocks == 0 else files.get(changed.path)
        if old is None and changed.keep_blocks != 0:
            raise ValueError(f"{changed.path} is said to have changed, but no cut has it: its "
                             "first one must list it as new (keep_blocks 0)")  # fmt: skip
        if old is None:
            old = StoredFile(changed.path, next_file_id, 0)
            next_file_id += 1
        files[changed.path] = StoredFile(changed.path, old.file_id, _checked_blocks(changed))
        runs += _runs_of_file(changed, old, run_blocks_max)
    runs.sort(key=lambda run: (run.file_id, run.first))
    return CutPlan(files=files, runs=runs, next_file_id=next_file_id)


def _checked_blocks(changed: ChangedFile) -> int:
    if not 0 <= changed.blocks <= BLOCK_MAX:
        raise ValueError(f"{changed.path} cannot have {changed.blocks} blocks")
    if changed.changed and not 0 <= min(changed.changed) <= max(changed.changed) < changed.blocks:
        raise ValueError(f"{changed.path} has changed blocks outside its {changed.blocks} blocks")
    return changed.blocks


def _runs_of_file(changed: ChangedFile, old: StoredFile, run_blocks_max: int) -> Iterator[PageRun]:
    copied = sorted(set(changed.changed))
    valid = old.blocks if changed.keep_blocks is None else min(old.blocks, changed.keep_blocks)
    for zeros, runs in ((False, runs_of(copied)), (True, _gaps(copied, valid, changed.blocks))):
        for first, count in zip(runs[::2], runs[1::2], strict=True):
            for start in range(first, first + count, run_blocks_max):
                blocks = min(run_blocks_max, first + count - start)
                yield PageRun(old.file_id, changed.path, start, blocks, zeros)


def _gaps(copied: Sequence[int], start: int, end: int) -> list[int]:
    """Return runs of what `copied` leaves out of [start, end)."""
    runs: list[int] = []
    for block in (*copied, end):
        if block > start:
            runs += (start, block - start)
        start = max(start, block + 1)
    return runs


def cut_records(
    cut: Cut, plan: CutPlan, new: NewCut, *, base_seq: int, base: BaseRecord | None
) -> tuple[CutRecord, BaseRecord | None]:
    """Return the cut's record, and a new base if it is worth to begin one."""
    entries = file_entries(plan.files)
    small_files = dict(new.small_files)
    directories = list(new.directories)
    own_base: BaseRecord | None = None
    if base is None or _is_far(base, entries, small_files):
        own_base = base = BaseRecord(entries, small_files, directories)
        base_seq = cut.seq
    record = CutRecord(
        tli=int(cut.tli),
        lsn=int(cut.lsn),
        redo=int(cut.redo),
        taken_at_s=cut.taken_at_s,
        base=int(base_seq),
        next_file_id=plan.next_file_id,
        files=_difference(base.files, entries),
        small_files=_difference(base.small_files, small_files),
        directories=None if directories == base.directories else directories,
    )
    return record, own_base


def _is_far(
    base: BaseRecord, entries: Mapping[str, FileEntry], small_files: Mapping[str, bytes]
) -> bool:
    changes = len(_difference(base.files, entries))
    changes += len(_difference(base.small_files, small_files))
    return changes > max(_CHANGES_MIN, len(base.files) // _CHANGES_DIVISOR)


Value = TypeVar("Value")


def _difference(old: Mapping[str, Value], new: Mapping[str, Value]) -> dict[str, Value | None]:
    changes: dict[str, Value | None] = {
        path: value for path, value in new.items() if old.get(path) != value
    }
    changes.update((path, None) for path in old if path not in new)
    return changes


def cut_contents(cut: Cut, record: CutRecord, base: BaseRecord) -> CutContents:
    """Return what a cut's record says, told against its base."""
    files = {
        path: StoredFile(path, *entry)
        for path, entry in base.files.items()
        if path not in record.files
    }
    files.update(
        (path, StoredFile(path, *entry))
        for path, entry in record.files.items()
        if entry is not None
    )
    small_files: dict[str, bytes | None] = {**base.small_files, **record.small_files}
    return CutContents(
        cut=cut,
        files=files,
        small_files={path: data for path, data in small_files.items() if data is not None},
        directories=base.directories if record.directories is None else record.directories,
    )


def merged_delta(deltas: Sequence[DeltaRecord]) -> dict[int, list[int]]:
    """Return, by file id, the ascending blocks that any of the deltas has."""
    merged: dict[int, set[int]] = {}
    for delta in deltas:
        for file_id, runs in delta.runs.items():
            merged.setdefault(file_id, set()).update(blocks_of(runs))
    return {file_id: sorted(blocks) for file_id, blocks in sorted(merged.items())}
