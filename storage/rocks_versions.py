"""What changed between two cuts: by the deltas of the cuts in between, a part at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from fabric.ids import CutSeq

from .page_store import DamagedError, PageVersion
from .rocks_catalog import BranchState, Catalog
from .rocks_database import RocksDatabase
from .rocks_errors import rocks_errors
from .rocks_plan import merged_delta
from .rocks_read import walk_pages
from .rocks_values import runs_of

# With one iterator. It keeps old files of the database from being deleted, and its pages are in
# memory together: 2 MiB.
_WALK_BLOCKS_MAX: Final = 256


def changed_runs(
    catalog: Catalog, state: BranchState, after: CutSeq, upto: CutSeq
) -> Mapping[int, Sequence[int]]:
    """Return, by file id, runs of the blocks of `upto` that changed behind `after`.

    The delta of a cut has what changed since the cut before it that is not collected. So if `after`
    is collected, the first delta behind it says too much, never too little.
    """
    lengths = {file.file_id: file.blocks for file in catalog.contents(state, upto).files.values()}
    cuts = state.cuts
    if after < cuts.seqs[0]:  # the oldest cut has no delta: what it has is all there is before
        return {file_id: [0, lengths[file_id]] for file_id in sorted(lengths)}
    try:
        deltas = [catalog.delta(state, seq) for seq in cuts.seqs if after < seq <= upto]
    except DamagedError:
        state.require_readable(upto)
        if state.cuts is cuts:
            raise
        return changed_runs(catalog, state, after, upto)  # deltas were merged meanwhile
    return {
        file_id: runs_of([block for block in blocks if block < lengths.get(file_id, 0)])
        for file_id, blocks in merged_delta(deltas).items()
    }


def versions_of_runs(
    database: RocksDatabase,
    state: BranchState,
    seq: CutSeq,
    runs: Mapping[int, Sequence[int]],
) -> Iterator[PageVersion]:
    """Yield the pages of runs as a cut has them. CutGoneError: it was dropped meanwhile."""
    for file_id, of_file in runs.items():
        for first, count in zip(of_file[::2], of_file[1::2], strict=True):
            for start in range(first, first + count, _WALK_BLOCKS_MAX):
                blocks = min(_WALK_BLOCKS_MAX, first + count - start)
                pages = _pages(database, state, file_id, seq=seq, first=start, blocks=blocks)
                for offset, page in enumerate(pages):
                    yield PageVersion(file_id=file_id, block=start + offset, page=page)


def _pages(
    database: RocksDatabase,
    state: BranchState,
    file_id: int,
    *,
    seq: CutSeq,
    first: int,
    blocks: int,
) -> list[bytes | None]:
    try:
        with rocks_errors(f"reading cut {seq} of branch {state.name}"):
            walk = walk_pages(
                database.range_iterator(),
                state.number,
                file_id,
                seq=seq,
                first=first,
                blocks=blocks,
            )
            return [None if page is None else bytes(page) for page in walk]
    finally:
        state.require_readable(seq)  # what is missing may have been collected, and is no damage
