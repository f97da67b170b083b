"""Deleting what `rocks_collect` found useless, a few pages at a time, beside all others.

Where it has got to is known in memory only. After a restart a group begins anew, which costs
looking.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from .rocks_catalog import BranchState, Catalog
from .rocks_collect import Group, Work, deltas_of, next_group, useless, work_of
from .rocks_database import RocksDatabase
from .rocks_errors import rocks_errors
from .rocks_keys import Kind, cut_key, file_range
from .rocks_plan import merged_delta
from .rocks_read import versions_of_page
from .rocks_values import encoded


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A group that is being collected."""

    group: Group
    work: Work
    pages: Iterator[tuple[int, int]]


class Collector:
    """Collects for all branches of a store, one call at a time."""

    def __init__(self, database: RocksDatabase, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog
        self._under_way: dict[int, _UnderWay] = {}  # by branch number
        self._lock = threading.Lock()

    def step(self, state: BranchState, *, pages_max: int) -> int:
        """Look at up to `pages_max` pages and delete what is useless; return how much it was."""
        with self._lock:
            under_way = self._under_way.get(state.number)
            deleted = 0
            if under_way is None:
                group = next_group(state.cuts.seqs, state.cuts.dropped)
                if group is None:
                    return 0
                under_way = self._under_way[state.number] = self._begin(state, group)
                deleted = self._delete_files(state, under_way.work)
            pages = list(islice(under_way.pages, pages_max))
            try:
                deleted += self._delete_versions(state, under_way, pages)
                if len(pages) < pages_max:
                    self._forget(state, under_way)
                    del self._under_way[state.number]
            except BaseException:
                self._under_way.pop(state.number, None)  # the pages have left the iterator
                raise
            return deleted

    def _begin(self, state: BranchState, group: Group) -> _UnderWay:
        contents = self._catalog.contents
        work = work_of(
            group,
            before=None if group.before is None else contents(state, group.before),
            oldest=contents(state, group.dropped[0]),
            behind=contents(state, group.behind),
            changed=merged_delta([self._catalog.delta(state, seq) for seq in deltas_of(group)]),
        )
        return _UnderWay(group, work, work.pages())

    def _delete_files(self, state: BranchState, work: Work) -> int:
        batch = self._database.batch()
        for file_id in work.dead_files:
            batch.delete_range(*file_range(state.number, file_id))
        self._database.write(batch, durable=False)
        return sum(work.dead_files.values())

    def _delete_versions(
        self, state: BranchState, under_way: _UnderWay, pages: list[tuple[int, int]]
    ) -> int:
        group, visible_blocks = under_way.group, under_way.work.visible_blocks
        batch = self._database.batch()
        iterator = self._database.walk_iterator()
        with rocks_errors(f"collecting branch {state.name}"):
            for file_id, block in pages:
                keys = versions_of_page(
                    iterator,
                    state.number,
                    file_id,
                    block,
                    after=group.before or 0,
                    upto=group.behind,
                )
                for key in useless(keys, visible=block < visible_blocks.get(file_id, 0)):
                    batch.delete(key)
        deleted = len(batch)
        if deleted:
            # Durable with the batch that ends the group: the log is one, in order.
            self._database.write(batch, durable=False)
        return deleted

    def _forget(self, state: BranchState, under_way: _UnderWay) -> None:
        group, number = under_way.group, state.number
        with state.changing:
            if state.is_removed:
                return
            heads = state.cuts.heads
            remaining = state.cuts.without(group.dropped)
            batch = self._database.batch()
            for seq in group.dropped:
                for kind in (Kind.CUT, Kind.DELTA, Kind.DROPPED):
                    batch.delete(cut_key(kind, number, seq))
            bases = {head.base for head in remaining.heads.values()}
            for base in {heads[seq].base for seq in group.dropped} - bases:
                batch.delete(cut_key(Kind.BASE, number, base))
            key = cut_key(Kind.DELTA, number, group.behind)
            if under_way.work.delta is None:
                batch.delete(key)
            else:
                batch[key] = encoded(key, under_way.work.delta)
            self._database.write(batch)
            state.cuts = remaining
