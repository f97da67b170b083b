"""Publishing a cut: plan it, write it beside the store, make it visible as a whole.

The cut's record, its delta and all of its pages go into the same table files, which RocksDB takes
in one step. So a cut that can be seen has all of its pages, and of one that was interrupted nothing
is left.
"""

from collections.abc import Callable, Iterator
from typing import Final

from fabric.ids import CutSeq
from sqlnode.pagefault.block_map import BLOCK_BYTES

from .cut import Cut, CutContents
from .page_store import CutGoneError, NewCut, ReadPages
from .rocks_catalog import BranchState, Catalog
from .rocks_database import RocksDatabase
from .rocks_keys import Kind, branch_name_key, cut_key, page_key
from .rocks_plan import CutPlan, PageRun, cut_records, plan_cut
from .rocks_values import BaseRecord, CutRecord, encoded, sealed, sealed_page

_READ_BLOCKS_MAX: Final = 128  # 1 MiB at a time comes out of the redo engine's files

Passing = Callable[[str], None]
"""Told which step was reached; tests end the process there."""


def publish_cut(
    database: RocksDatabase,
    catalog: Catalog,
    state: BranchState,
    new: NewCut,
    read_pages: ReadPages,
    *,
    passing: Passing,
) -> Cut:
    """Publish; the caller holds `state.publishing`."""
    before, head, base = None, None, None
    newest = state.cuts.newest
    if newest is not None:
        before, head = catalog.contents(state, newest), state.cuts.heads[newest]
        _require_later(before.cut, new)
        base = catalog.base(state, CutSeq(head.base))
    cut = Cut(
        seq=CutSeq(1) if newest is None else newest.next(),
        tli=new.tli,
        lsn=new.lsn,
        redo=new.redo,
        taken_at_s=new.taken_at_s,
    )
    plan = plan_cut(
        {} if before is None else before.files,
        new,
        next_file_id=1 if head is None else head.next_file_id,
        run_blocks_max=_READ_BLOCKS_MAX,
    )
    record, own_base = cut_records(
        cut, plan, new, base_seq=0 if head is None else head.base, base=base
    )
    entries = _entries(state, read_pages, cut=cut, plan=plan, record=record, own_base=own_base)
    passing("planned")
    with database.tables(_passed(entries, passing)) as paths:
        passing("written")
        with state.changing:
            if state.is_removed:
                raise CutGoneError(f"branch {state.name} was removed while cut {cut.seq} was made")
            database.ingest(paths)
            passing("ingested")
            contents = CutContents(
                cut=cut,
                files=plan.files,
                small_files=dict(new.small_files),
                directories=list(new.directories),
            )
            catalog.know(state, contents)
            state.cuts = state.cuts.with_new(cut.seq, record)
    return cut


def _require_later(newest: Cut, new: NewCut) -> None:
    if new.lsn <= newest.lsn or new.tli < newest.tli:
        raise ValueError(
            f"a cut at {new.lsn} on timeline {new.tli} is not after cut {newest.seq} "
            f"at {newest.lsn} on timeline {newest.tli}"
        )


def _entries(
    state: BranchState,
    read_pages: ReadPages,
    *,
    cut: Cut,
    plan: CutPlan,
    record: CutRecord,
    own_base: BaseRecord | None,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield everything of a cut, ascending by key."""
    number = state.number
    if cut.seq == 1:
        name_key = branch_name_key(state.name)
        yield name_key, encoded(name_key, number)
    if own_base is not None:
        base_key = cut_key(Kind.BASE, number, cut.seq)
        yield base_key, encoded(base_key, own_base)
    record_key = cut_key(Kind.CUT, number, cut.seq)
    yield record_key, encoded(record_key, record)
    delta_key = cut_key(Kind.DELTA, number, cut.seq)
    yield delta_key, encoded(delta_key, plan.delta)
    for run in plan.runs:
        yield from _page_entries(run, number, cut.seq, read_pages)


def _page_entries(
    run: PageRun, number: int, seq: CutSeq, read_pages: ReadPages
) -> Iterator[tuple[bytes, bytes]]:
    blocks = range(run.first, run.first + run.blocks)
    keys = [page_key(number, run.file_id, block, seq) for block in blocks]
    if run.zeros:
        for key in keys:
            yield key, sealed(key, b"")
        return
    pages = memoryview(read_pages(run.path, run.first, run.blocks))
    if len(pages) != run.blocks * BLOCK_BYTES:
        raise ValueError(
            f"{len(pages)} bytes were read of {run.path} instead of {run.blocks} blocks"
        )
    for offset, key in enumerate(keys):
        start = offset * BLOCK_BYTES
        yield key, sealed_page(key, bytes(pages[start : start + BLOCK_BYTES]))


def _passed(
    entries: Iterator[tuple[bytes, bytes]], passing: Passing
) -> Iterator[tuple[bytes, bytes]]:
    for entry in entries:
        passing("entry")
        yield entry
