"""Which branches and cuts there are, and what they consist of: the page store's memory of itself.

What can change is replaced as a whole (`BranchState.cuts`), so that readers never wait for a lock:
who publishes, drops or collects holds `changing` for the moment in which that becomes true on the
disk and here. File lists are decoded when they are asked for, and a few stay decoded.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Generic, TypeVar

from fabric.ids import BranchName, CutSeq

from .cut import Cut, CutContents
from .page_store import CutGoneError, DamagedError, StoreBrokenError, StoreDamagedError
from .rocks_database import RocksDatabase
from .rocks_keys import (
    BRANCH_PREFIX,
    FORMAT_KEY,
    KINDS_OF_BRANCH,
    NEXT_BRANCH_KEY,
    Kind,
    behind,
    branch_name_key,
    branch_prefix,
    cut_key,
    seq_of_cut_key,
)
from .rocks_plan import cut_contents
from .rocks_values import (
    FORMAT_VERSION,
    BaseRecord,
    CutHead,
    CutRecord,
    DeltaRecord,
    Record,
    decoded,
    encoded,
)

_BASES_CACHED: Final = 4  # one is enough for one branch that is published


@dataclass(frozen=True)
class Cuts:
    """The cuts of a branch at one moment, ascending; also those that wait to be collected."""

    heads: Mapping[CutSeq, CutHead] = field(default_factory=dict)
    dropped: frozenset[CutSeq] = frozenset()

    @cached_property
    def readable(self) -> Mapping[CutSeq, Cut]:
        """Return those that are not dropped."""
        heads = self.heads.items()
        return {seq: head.cut(seq) for seq, head in heads if seq not in self.dropped}

    @property
    def seqs(self) -> Sequence[CutSeq]:
        """Return all numbers."""
        return list(self.heads)

    @property
    def newest(self) -> CutSeq | None:
        """Return the newest, which is never a dropped one."""
        return next(reversed(list(self.heads)), None)

    def with_new(self, seq: CutSeq, head: CutHead) -> "Cuts":
        """Return them after a publish."""
        return replace(self, heads={**self.heads, seq: head})

    def with_dropped(self, seqs: Collection[CutSeq]) -> "Cuts":
        """Return them after a drop."""
        return replace(self, dropped=self.dropped.union(seqs))

    def without(self, seqs: Collection[CutSeq]) -> "Cuts":
        """Return them after a collection."""
        heads = {seq: head for seq, head in self.heads.items() if seq not in seqs}
        return Cuts(heads, self.dropped.difference(seqs))


class BranchState:
    """One branch. Its number is never used again."""

    def __init__(self, name: BranchName, number: int, cuts: Cuts) -> None:
        self.name = name
        self.number = number
        self.cuts = cuts
        self.is_removed = False
        self.publishing = threading.Lock()  # for as long as a publish takes
        self.changing = threading.Lock()  # for the moment in which something becomes true

    def require_readable(self, seq: CutSeq) -> None:
        """Raise CutGoneError unless the cut can be read.

        After a read this says that all of it was right: nothing that a cut needs is deleted
        before the cut is dropped.
        """
        if self.is_removed or seq not in self.cuts.readable:
            raise CutGoneError(f"branch {self.name} has no cut {seq} (any more); take a newer one")


class Catalog:
    """All branches of a store."""

    def __init__(self, database: RocksDatabase, directory: Path, *, contents_cached: int) -> None:
        self._database = database
        self._contents: _Recent[CutContents] = _Recent(contents_cached)
        self._bases: _Recent[BaseRecord] = _Recent(_BASES_CACHED)
        self._creating = threading.Lock()
        self._branches: dict[BranchName, BranchState] = {}
        try:
            self._load(directory)
        except DamagedError as error:
            raise StoreDamagedError(
                f"the page store {directory} is damaged ({error}); "
                "remove the directory and let the node build it anew"
            ) from error

    def _load(self, directory: Path) -> None:
        found = self._database.get(FORMAT_KEY)
        if found is None:
            batch = self._database.batch()
            batch[FORMAT_KEY] = encoded(FORMAT_KEY, FORMAT_VERSION)
            self._database.write(batch)
        elif (version := decoded(FORMAT_KEY, found, int)) != FORMAT_VERSION:
            raise StoreBrokenError(
                f"the page store {directory} has format {version}, and this program knows "
                f"{FORMAT_VERSION}; use the program that wrote it, or remove the directory"
            )
        for key, value in self._database.items(BRANCH_PREFIX):
            name = BranchName(key[1:].decode())
            number = decoded(key, value, int)
            self._branches[name] = BranchState(name, number, self._load_cuts(number))

    def _load_cuts(self, number: int) -> Cuts:
        heads = {
            seq_of_cut_key(key): decoded(key, value, CutHead)
            for key, value in self._database.items(branch_prefix(Kind.CUT, number))
        }
        dropped = self._database.items(branch_prefix(Kind.DROPPED, number))
        return Cuts(heads, frozenset(seq_of_cut_key(key) for key, _ in dropped))

    # Branches.

    def names(self) -> Sequence[BranchName]:
        """Return the branches that have a cut."""
        return sorted(name for name, state in self._branches.items() if state.cuts.heads)

    def find(self, name: BranchName) -> BranchState | None:
        """Return a branch."""
        return self._branches.get(name)

    def readable(self, name: BranchName, seq: CutSeq) -> BranchState:
        """Return the branch of a cut that can be read, or raise CutGoneError."""
        state = self._branches.get(name)
        if state is None:
            raise CutGoneError(f"there is no branch {name} here; ask another node")
        state.require_readable(seq)
        return state

    def find_or_create(self, name: BranchName) -> BranchState:
        """Return a branch, with a number of its own; it is stored with its first cut."""
        with self._creating:
            state = self._branches.get(name)
            if state is None:
                found = self._database.get(NEXT_BRANCH_KEY)
                number = 1 if found is None else decoded(NEXT_BRANCH_KEY, found, int)
                batch = self._database.batch()
                batch[NEXT_BRANCH_KEY] = encoded(NEXT_BRANCH_KEY, number + 1)
                self._database.write(batch)
                state = self._branches[name] = BranchState(name, number, Cuts())
            return state

    def remove(self, name: BranchName) -> None:
        """Forget a branch, durably."""
        state = self._branches.get(name)
        if state is None:
            return
        with state.changing:
            batch = self._database.batch()
            batch.delete(branch_name_key(name))
            for kind in KINDS_OF_BRANCH:
                prefix = branch_prefix(kind, state.number)
                batch.delete_range(prefix, behind(prefix))
            self._database.write(batch)
            state.is_removed = True
            self._branches.pop(name, None)

    # What a cut consists of.

    def contents(self, state: BranchState, seq: CutSeq) -> CutContents:
        """Return a cut's contents, also if it is dropped. CutGoneError: it is collected."""
        key = (state.number, seq)
        known = self._contents.get(key)
        if known is None:
            try:
                record = self._record(Kind.CUT, state, seq, CutRecord)
                base = self.base(state, CutSeq(record.base))
            except DamagedError:
                if state.is_removed or seq not in state.cuts.heads:
                    raise CutGoneError(f"branch {state.name} has no cut {seq} any more") from None
                raise
            known = cut_contents(record.cut(seq), record, base)
            self._contents.put(key, known)
        return known

    def base(self, state: BranchState, seq: CutSeq) -> BaseRecord:
        """Return a list to which cuts refer."""
        key = (state.number, seq)
        known = self._bases.get(key)
        if known is None:
            known = self._record(Kind.BASE, state, seq, BaseRecord)
            self._bases.put(key, known)
        return known

    def delta(self, state: BranchState, seq: CutSeq) -> DeltaRecord:
        """Return which pages a cut changed since the one before it that is not collected."""
        return self._record(Kind.DELTA, state, seq, DeltaRecord)

    def know(self, state: BranchState, contents: CutContents) -> None:
        """Keep what was just published: the next cut begins with it."""
        self._contents.put((state.number, contents.cut.seq), contents)

    def _record(self, kind: Kind, state: BranchState, seq: CutSeq, record: type[Record]) -> Record:
        key = cut_key(kind, state.number, seq)
        value = self._database.get(key)
        if value is None:
            raise DamagedError(f"cut {seq} of branch {state.name} has lost its {kind.name} record; "
                               "get it from another node, and rebuild the store")  # fmt: skip
        return decoded(key, value, record)


Item = TypeVar("Item")


class _Recent(Generic[Item]):
    """The items that were used last."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._items: OrderedDict[Hashable, Item] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Item | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Hashable, item: Item) -> None:
        with self._lock:
            self._items[key] = item
            self._items.move_to_end(key)
            while len(self._items) > self._count_max:
                self._items.popitem(last=False)
