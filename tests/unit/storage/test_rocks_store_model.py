"""Random histories: the page store in RocksDB answers as the model that copies everything.

In scope: all methods, in any order, with files that are made, extended, truncated, grown again,
removed and made anew, cuts dropped and collected in small steps, the store closed and opened again.
Out of scope: crashes and damage.
"""

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from unit.storage.contract import MAIN, page
from unit.storage.memory_store import MemoryStore

from fabric.ids import CutSeq
from fabric.lsn import Lsn, Tli
from sqlnode.harvest import ChangedFile
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages
from storage import rocks_plan
from storage.page_store import NewCut, PageStore
from storage.rocks_database import RocksSettings
from storage.rocks_keys import SEQ_MAX, Kind, branch_prefix
from storage.rocks_store import RocksStore

PATHS = ["base/1/10", "base/1/11", "base/1/12"]
BLOCKS_MAX = 14
# Where a sync costs nothing: what survives a crash is the business of another test.
MEMORY_DISK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  # mkdtemp follows
# Many small tables, so that cuts span several, and tiny caches.
SMALL = RocksSettings(
    block_cache_bytes=0, memtable_bytes=1 << 16, table_bytes_max=1 << 16, contents_cached=2
)
WORDS = [page(number) for number in range(5)] + [bytes(BLOCK_BYTES)]


@pytest.fixture(autouse=True, scope="module")
def new_bases_are_frequent() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rocks_plan, "_CHANGES_MIN", 2)
        yield


class Stores(RuleBasedStateMachine):
    """Both stores, and what a redo engine would have in its files."""

    @initialize()
    def open(self) -> None:
        """Both are empty."""
        self.directory = Path(tempfile.mkdtemp(prefix="seawall-model-", dir=MEMORY_DISK))
        self.rocks = RocksStore(self.directory, SMALL)
        self.model = MemoryStore()
        self.lengths: dict[str, int] = {}
        self.cuts_made = 0

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "directory"):
            self.rocks.close()
            shutil.rmtree(self.directory)

    @rule(data=st.data(), count=st.integers(1, 4))
    def publish_some(self, data: st.DataObject, count: int) -> None:
        """Most of what can go wrong is in how cuts follow each other, so there are many."""
        for _ in range(count):
            self.publish(data)
        if data.draw(st.booleans()):
            self.drop(data)
            self.collect_all()

    def publish(self, data: st.DataObject) -> None:
        """Harvest something random."""
        files: list[ChangedFile] = []
        removed: list[str] = []
        for path in PATHS:
            choices = ["nothing", "new"]
            if path in self.lengths:
                choices += ["write", "write", "truncate", "remove", "anew"]
            what = data.draw(st.sampled_from(choices))
            if what in ("remove", "anew"):
                removed.append(path)
                del self.lengths[path]
            if what in ("nothing", "remove"):
                continue
            keep = data.draw(st.integers(0, BLOCKS_MAX)) if what == "truncate" else None
            keep = 0 if what in ("new", "anew") else keep
            blocks = data.draw(st.integers(0, BLOCKS_MAX))
            if what == "write":
                blocks = max(blocks, self.lengths[path])
            changed = sorted(data.draw(st.sets(st.integers(0, blocks - 1)))) if blocks else []
            files.append(ChangedFile(path=path, blocks=blocks, keep_blocks=keep, changed=changed))
            self.lengths[path] = blocks
        self.cuts_made += 1
        seed = data.draw(st.integers(0, 3))
        small = {"PG_VERSION": b"15\n", "global/pg_control": b"%d" % self.cuts_made}
        if seed == 0:
            small["base/1/pg_filenode.map"] = b"map"
        new = NewCut(
            tli=Tli(1),
            lsn=Lsn(self.cuts_made * 10),
            redo=Lsn(self.cuts_made * 10 - 5),
            taken_at_s=float(self.cuts_made),
            files=files,
            removed=removed,
            small_files=small,
            directories=["base"] if seed else [],
        )

        def read_pages(path: str, first: int, blocks: int) -> Pages:
            shift = self.cuts_made + seed + len(path)
            return b"".join(
                WORDS[(block * 7 + shift) % len(WORDS)] for block in range(first, first + blocks)
            )

        assert self.rocks.publish(MAIN, new, read_pages) == self.model.publish(
            MAIN, new, read_pages
        )

    @precondition(lambda self: self.cuts_made > 1)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """Let some go, never the newest."""
        older = [cut.seq for cut in self.model.cuts(MAIN)][:-1]
        seqs = data.draw(st.sets(st.sampled_from(older))) if older else set()
        self.rocks.drop(MAIN, sorted(seqs))
        self.model.drop(MAIN, sorted(seqs))

    @rule(pages_max=st.sampled_from([1, 3, 10, 1000]))
    def collect(self, pages_max: int) -> None:
        """Collect a little."""
        self.rocks.collect(MAIN, pages_max=pages_max)

    @rule()
    def collect_all(self) -> None:
        """After collecting everything nothing useless is left."""
        while self.rocks.collect(MAIN, pages_max=5) or self.rocks.stats(MAIN).garbage_cuts:
            pass
        self.model.collect(MAIN, pages_max=1)
        assert self.rocks.stats(MAIN) == self.model.stats(MAIN)
        if self.cuts_made:
            assert stored_versions(self.rocks) == needed_versions(self.rocks)
            seqs = [cut.seq for cut in self.model.cuts(MAIN)]
            for after, upto in pairwise(seqs[-4:]):
                self.check_versions(after, upto, seqs)

    @precondition(lambda self: self.cuts_made > 0)
    @rule()
    def compact(self) -> None:
        """Let RocksDB rewrite its files."""
        self.rocks.compact(MAIN)

    @rule()
    def reopen(self) -> None:
        """As after an orderly end."""
        self.rocks.close()
        self.rocks = RocksStore(self.directory, SMALL)

    @precondition(lambda self: self.cuts_made > 0)
    @rule(data=st.data())
    def compare_versions(self, data: st.DataObject) -> None:
        """What changed is told right, at least."""
        seqs = [cut.seq for cut in self.model.cuts(MAIN)]
        upto = data.draw(st.sampled_from(seqs))
        self.check_versions(CutSeq(data.draw(st.integers(0, upto))), upto, seqs)

    def check_versions(self, after: CutSeq, upto: CutSeq, seqs: list[CutSeq]) -> None:
        """Compare; more than what changed is told only if `after` is not there any more."""
        ours = list(self.rocks.versions(MAIN, after=after, upto=upto))
        theirs = list(self.model.versions(MAIN, after=after, upto=upto))
        assert {(one.file_id, one.block): one.page for one in ours}.items() >= {
            (one.file_id, one.block): one.page for one in theirs
        }.items()
        places = [(one.file_id, one.block) for one in ours]
        assert places == sorted(set(places))
        if after == 0 or after in seqs:
            assert ours == theirs

    @invariant()
    def every_cut_reads_the_same(self) -> None:
        """Whatever happened."""
        if not hasattr(self, "rocks"):
            return
        cuts = self.model.cuts(MAIN)
        assert self.rocks.cuts(MAIN) == cuts
        for cut in cuts:
            contents = self.model.contents(MAIN, cut.seq)
            assert self.rocks.contents(MAIN, cut.seq) == contents
            whole = [PageRange(file.path, 0, file.blocks) for file in contents.files.values()]
            last = [
                PageRange(file.path, file.blocks - 1, 1)
                for file in contents.files.values()
                if file.blocks
            ]
            assert answers(self.rocks, cut.seq, whole + last) == answers(
                self.model, cut.seq, whole + last
            )


def answers(store: PageStore, seq: CutSeq, ranges: list[PageRange]) -> list[object]:
    return list(store.read(MAIN, seq, ranges))


def stored_versions(store: RocksStore) -> set[tuple[int, int, int]]:
    """All versions that are there, as (file id, block, seq)."""
    # White box: that nothing useless is left cannot be seen from outside.
    found = store._database.items(branch_prefix(Kind.PAGE, 1))
    keys = [struct.unpack(">BIQIQ", key) for key, _ in found]
    return {(file_id, block, SEQ_MAX - inverted) for _, _, file_id, block, inverted in keys}


def needed_versions(store: RocksStore) -> set[tuple[int, int, int]]:
    """Those of them that a cut reads."""
    by_page: dict[tuple[int, int], list[int]] = {}
    for file_id, block, seq in stored_versions(store):
        by_page.setdefault((file_id, block), []).append(seq)
    return {
        (file.file_id, block, max(seq for seq in by_page[file.file_id, block] if seq <= cut.seq))
        for cut in store.cuts(MAIN)
        for file in store.contents(MAIN, cut.seq).files.values()
        for block in range(file.blocks)
    }


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
