"""A cut that is whole in itself, on top of others: nothing shows through, and the others stay.

Out of scope: copying from nodes that run (tests/integration/test_storage_nodes.py).
"""

from contextlib import closing
from pathlib import Path

import pytest
from unit.storage.contract import A, B, changed, file_of, new, publish, says
from unit.storage.memory_store import MemoryStore
from unit.storage.snapshot_world import LAYOUT, MAIN, begun, image, writer

from fabric.lsn import Lsn, Tli
from object_store.memory import MemoryStore as MemoryObjects
from storage.page_store import NewCut
from storage.restore import restore_best
from storage.rocks_store import RocksStore
from storage.seeding import replacing
from storage.snapshot_format import SnapshotMissingError


def whole(lsn: int) -> NewCut:
    return NewCut(
        tli=Tli(1), lsn=Lsn(lsn), redo=Lsn(lsn), taken_at_s=0.0, files=[new(A, 2)],
        removed=(), small_files={}, directories=[],
    )  # fmt: skip


def test_what_a_whole_cut_lacks_is_removed_and_older_cuts_stay(tmp_path: Path) -> None:
    with closing(RocksStore(tmp_path)) as store:
        first = publish(store, "one", new(A, 5), new(B, 3))
        blank = bytes(8192)
        cut = store.publish(
            MAIN, replacing(store, MAIN, whole(first.lsn + 1)), lambda _p, _f, n: blank * n
        )
        assert {path: f.blocks for path, f in store.contents(MAIN, cut.seq).files.items()} == {A: 2}
        assert file_of(store, cut, A) == [blank, blank]
        assert file_of(store, first, A)[4] == says("one", A, 4)
        last = publish(store, "three", changed(A, 4, [3]))
        assert file_of(store, last, A) == [blank, blank, bytes(8192), says("three", A, 3)]


def test_first_cut_of_a_store_is_as_it_was() -> None:
    cut = whole(100)
    assert replacing(MemoryStore(), MAIN, cut) is cut


def test_a_newer_snapshot_is_restored_on_top_and_an_older_one_is_none() -> None:
    ahead, behind, objects = MemoryStore(), MemoryStore(), MemoryObjects()
    for store in (ahead, behind):
        begun(store)
    writer(ahead, objects).snapshot()
    with pytest.raises(SnapshotMissingError, match="behind"):
        restore_best(objects, LAYOUT, behind, MAIN, on_top=True)
    publish(ahead, "second", removed=[A])
    newest = publish(ahead, "third", new(A, 4))
    writer(ahead, objects).snapshot()
    old = behind.cuts(MAIN)[-1]
    before = image(behind, old)
    found = restore_best(objects, LAYOUT, behind, MAIN, on_top=True)
    assert image(behind, found.cut) == image(ahead, newest)
    assert image(behind, old) == before
    with pytest.raises(ValueError, match="is here already"):
        restore_best(objects, LAYOUT, behind, MAIN)
