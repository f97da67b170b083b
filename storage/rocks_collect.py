"""Collecting what dropped cuts left, bit by bit.

Dropped cuts are taken in groups of neighbours, oldest first:

    before    d1  d2 .. dk    behind         `before` and `behind` remain (`before` may be none)

Nobody reads d1..dk, so of each page's versions in (before, behind] only the newest is of use, and
that one only if `behind` has the block. Which pages those are say the deltas of d1..behind; no
other page has a version there. Without a `before` the versions that d1 and its elders left go as
well: those of pages written after d1 (the deltas of d2..behind), and those of blocks that `behind`
has no more. A file that neither `before` nor `behind` has goes as one range.

When all of a group is deleted, one durable batch forgets the cuts and makes the delta of `behind`
that of (before, behind]. Until then everything can be repeated: deleting twice is harmless, and
what is decided depends on `before` and `behind` alone, which stay at least until the group is done.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fabric.ids import CutSeq

from .cut import CutContents
from .rocks_values import DeltaRecord, runs_of

# A group's deltas are in memory together.
_GROUP_CUTS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring dropped cuts, and what remains on both sides."""

    before: CutSeq | None
    dropped: Sequence[CutSeq]
    behind: CutSeq


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What to look at for a group."""

    dead_files: Mapping[int, int]  # file id -> blocks: all of their versions go
    candidates: Mapping[int, Sequence[int]]  # file id -> ascending blocks
    visible_blocks: Mapping[int, int]  # file id -> length in `behind`
    delta: DeltaRecord | None  # of `behind`, once the group is gone; None: it needs none

    def pages(self) -> Iterator[tuple[int, int]]:
        """Yield the (file id, block) whose versions have to be looked at."""
        for file_id, blocks in self.candidates.items():
            for block in blocks:
                yield file_id, block


def next_group(seqs: Sequence[CutSeq], dropped: Collection[CutSeq]) -> Group | None:
    """Return the oldest dropped cuts that lie together. `seqs`: all cuts, ascending."""
    first = next((index for index, seq in enumerate(seqs) if seq in dropped), None)
    if first is None:
        return None
    end = first
    # The newest cut is never dropped, so something is behind. A cut at which a long group is broken
    # off serves as well as one that remains: it is collected later.
    while seqs[end] in dropped and end - first < _GROUP_CUTS_MAX:
        end += 1
    return Group(seqs[first - 1] if first else None, seqs[first:end], seqs[end])


def work_of(
    group: Group,
    *,
    before: CutContents | None,
    oldest: CutContents,
    behind: CutContents,
    changed: Mapping[int, Sequence[int]],
) -> Work:
    """Decide what to look at. `oldest` is d1; `changed` merges `deltas_of(group)`."""
    visible = {file.file_id: file.blocks for file in behind.files.values()}
    kept = visible if before is None else {*visible, *(f.file_id for f in before.files.values())}
    dead = {file_id: len(blocks) for file_id, blocks in changed.items() if file_id not in kept}
    candidates = {file_id: blocks for file_id, blocks in changed.items() if file_id in kept}
    if before is None:
        for file in oldest.files.values():
            file_id, length = file.file_id, visible.get(file.file_id, 0)
            if file_id not in kept:
                dead[file_id] = max(file.blocks, dead.get(file_id, 0))
            elif file.blocks > length:
                void = range(length, file.blocks)
                candidates[file_id] = sorted({*candidates.get(file_id, ()), *void})
    return Work(
        dead_files=dead,
        candidates=candidates,
        visible_blocks=visible,
        delta=None if before is None else _visible_delta(changed, visible),
    )


def deltas_of(group: Group) -> Sequence[CutSeq]:
    """Return the cuts whose deltas say which pages have something to collect."""
    between = group.dropped if group.before is not None else group.dropped[1:]
    return [*between, group.behind]


def useless(versions: Sequence[bytes], *, visible: bool) -> Sequence[bytes]:
    """Return which of a page's versions in (before, behind], newest first, nobody needs."""
    return versions[1:] if visible else versions


def _visible_delta(changed: Mapping[int, Sequence[int]], visible: Mapping[int, int]) -> DeltaRecord:
    runs: dict[int, list[int]] = {}
    for file_id, blocks in changed.items():
        length = visible.get(file_id, 0)
        kept = runs_of([block for block in blocks if block < length])
        if kept:
            runs[file_id] = kept
    return DeltaRecord(runs)
