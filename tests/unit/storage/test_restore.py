"""Rebuilding a branch from its snapshots: always what was stored, or an error that says why not.

In scope: random histories over both page stores, missing and damaged objects, falling back. Out of
scope: how snapshots are made (test_snapshots.py), S3 (tests/integration/test_snapshots_s3.py).
"""

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from unit.storage.contract import A, B, changed, new, publish
from unit.storage.memory_store import MemoryStore
from unit.storage.snapshot_world import (
    LAYOUT,
    MAIN,
    S1,
    S2,
    Watched,
    begun,
    damaged,
    go_on,
    image,
    restored,
    sizes,
    wander,
    writer,
)

from fabric.ids import BranchName, CutSeq
from fabric.lsn import Lsn
from object_store.directory import DirectoryStore
from object_store.interface import ObjectStore, StoreBusyError
from object_store.memory import MemoryStore as MemoryObjects
from storage.page_store import PageStore
from storage.restore import RestoreProgress, restore
from storage.rocks_store import RocksStore
from storage.snapshot_format import (
    Manifest,
    SnapshotDamagedError,
    SnapshotMissingError,
    encode_manifest,
)
from storage.snapshot_objects import list_snapshots, read_manifest
from storage.snapshot_plan import SnapshotSettings
from storage.snapshot_reader import SnapshotPages


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), layers_goal=st.integers(2, 5), steps=st.integers(1, 25))
def test_what_was_stored_is_what_comes_back(seed: int, layers_goal: int, steps: int) -> None:
    rng = random.Random(seed)
    store, objects = MemoryStore(), MemoryObjects()
    history(store, objects, rng, layers_goal=layers_goal, steps=steps)


def history(
    store: PageStore, objects: ObjectStore, rng: random.Random, *, layers_goal: int, steps: int
) -> None:
    """Let a node live, and compare each of its snapshots."""
    chosen = SnapshotSettings(layers_goal=layers_goal)
    snapshots = writer(store, objects, settings=chosen)
    for step in range(steps):
        cut = wander(store, rng, f"step {step}")
        what = rng.choice(["snapshot", "snapshot", "nothing", "restart", "drop", "collect"])
        if what == "snapshot":
            assert snapshots.snapshot().cut == cut
            assert restored(objects) == image(store, cut)
        elif what == "restart":
            snapshots = writer(store, objects, settings=chosen)
        elif what == "drop":
            older = [one.seq for one in store.cuts(MAIN)[:-1]]
            store.drop(MAIN, [seq for seq in older if rng.randrange(2)])
            store.collect(MAIN, pages_max=1000)
        elif what == "collect":
            snapshots.collect(now_s=cut.taken_at_s)
    cut = wander(store, rng, "last")
    snapshots.snapshot()
    snapshots.collect(now_s=cut.taken_at_s)
    assert restored(objects) == image(store, cut)
    assert not any(one.complaint for one in list_snapshots(objects, LAYOUT))


@pytest.mark.parametrize("seed", range(2))
def test_rocks_stores_come_back(seed: int, tmp_path: Path) -> None:
    objects = DirectoryStore(tmp_path / "objects")
    with (
        closing(RocksStore(tmp_path / "one")) as store,
        closing(RocksStore(tmp_path / "other")) as other,
    ):
        history(store, objects, random.Random(seed), layers_goal=3, steps=15)
        cut = restore(objects, LAYOUT, other, MAIN)
        assert image(other, cut) == image(store, store.cuts(MAIN)[-1])
        assert cut.seq == 1


def test_large_files_come_back(tmp_path: Path) -> None:
    """Runs of several reads, blocks and parts."""
    objects = DirectoryStore(tmp_path / "objects")
    with (
        closing(RocksStore(tmp_path / "one")) as store,
        closing(RocksStore(tmp_path / "other")) as other,
    ):
        publish(store, "first", new(A, 700), new(B, 300, [0, 150]))
        snapshots = writer(store, objects)
        snapshots.snapshot()
        cut = publish(store, "second", changed(A, 600, range(100, 420, 2), keep=550))
        snapshots.snapshot()
        assert len(sizes(objects)) > 20
        assert image(other, restore(objects, LAYOUT, other, MAIN)) == image(store, cut)


def test_a_node_that_was_restored_goes_on() -> None:
    store, objects, rebuilt = MemoryStore(), MemoryObjects(), MemoryStore()
    begun(store)
    publish(store, "second", removed=[A])
    publish(store, "third", new(A, 10))
    writer(store, objects).snapshot()
    restore(objects, LAYOUT, rebuilt, MAIN)
    cut = go_on(rebuilt, "fourth", 2, 9)
    writer(rebuilt, objects).snapshot()
    assert restored(objects) == image(rebuilt, cut)


def test_a_branch_can_get_another_name() -> None:
    store, objects, target = MemoryStore(), MemoryObjects(), MemoryStore()
    begun(store)
    writer(store, objects).snapshot()
    restore(objects, LAYOUT, target, BranchName("other"))
    assert target.branches() == ["other"]


def test_every_object_is_fetched_in_order_and_once() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    publish(store, "first", new(A, 60))
    snapshots = writer(store, objects)
    snapshots.snapshot()
    publish(store, "second", changed(A, 60, range(0, 60, 3)))
    snapshots.snapshot()
    fetched: list[str] = []
    restored(Watched(objects, lambda kind, name: fetched.append(f"{kind} {name}")))
    ranges = [one for one in fetched if one.startswith("get_range")]
    parts = [name for name in sizes(objects) if "/layers/" in name]
    assert len(parts) > 5
    assert len(ranges) == 2 * len(parts)  # index and blocks of each


def test_any_order_of_reading_is_right() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    rng = random.Random(1)
    for step in range(12):
        wander(store, rng, f"step {step}")
        writer(store, objects).snapshot()
    expected = image(store, store.cuts(MAIN)[-1])
    manifest = read_manifest(objects, LAYOUT, S1, 12)
    pages = SnapshotPages(objects, LAYOUT, manifest)
    files = [file for file in manifest.contents.files.values() if file.blocks]
    assert files
    for _ in range(200):
        file = rng.choice(files)
        first = rng.randrange(file.blocks)
        blocks = rng.randrange(file.blocks - first + 1)
        content = expected[file.path]
        assert isinstance(content, bytes)
        found = bytes(pages.read(file.path, first, blocks))
        assert found == content[first * 8192 : (first + blocks) * 8192]


def test_progress_is_told() -> None:
    store, objects, target = MemoryStore(), MemoryObjects(), MemoryStore()
    cut = begun(store)
    writer(store, objects).snapshot()
    told: list[RestoreProgress] = []
    restore(objects, LAYOUT, target, MAIN, progress=told.append)
    assert [one.pages for one in told] == list(range(1, 14))
    assert {(one.node, one.number, one.cut, one.pages_total) for one in told} == {(S1, 1, cut, 13)}


def test_an_older_cut_can_be_asked_for() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    cuts = [begun(store)]
    for node in (S1, S2, S1):
        writer(store, objects, node).snapshot()
        cuts.append(go_on(store, f"then {len(cuts)}", 1))
    for last, expected in [(1100, 0), (1199, 0), (1200, 1), (1300, 2), (9999, 2)]:
        target = MemoryStore()
        found = restore(objects, LAYOUT, target, MAIN, last=Lsn(last))
        assert image(target, found) == image(store, cuts[expected])
    with pytest.raises(SnapshotMissingError, match="up to 0/44B"):
        restore(objects, LAYOUT, MemoryStore(), MAIN, last=Lsn(1099))


def test_there_must_be_a_snapshot_and_no_branch() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    with pytest.raises(SnapshotMissingError, match="check the names"):
        restore(objects, LAYOUT, store, MAIN)
    begun(store)
    with pytest.raises(ValueError, match="here already"):
        restore(objects, LAYOUT, store, MAIN)


# --- Damage ---------------------------------------------------------------------------------------


def two_snapshots() -> tuple[MemoryObjects, dict[str, object], dict[str, object]]:
    """Return objects, and what the older and the newer snapshot are of."""
    store, objects = MemoryStore(), MemoryObjects()
    first = begun(store)
    snapshots = writer(store, objects)
    snapshots.snapshot()
    second = publish(store, "second", changed(A, 12, [1, 2, 3, 8]))
    snapshots.snapshot()
    return objects, image(store, first), image(store, second)


def test_damage_is_found_wherever_it_is() -> None:
    """Of the newest snapshot: then the older one is taken, or there is none."""
    objects, first, second = two_snapshots()
    names = sizes(objects)
    assert len(names) > 4
    for name, size_bytes in names.items():
        whole = objects.get(name)
        for data in damages(whole):
            damaged(objects, name, data)
            with capture_logs() as logs:
                try:
                    found = restored(objects)
                except SnapshotDamagedError:
                    assert "layers" in name
                else:
                    assert found in (first, second)
                    is_known = bool(data) or not name.startswith(LAYOUT.manifests)
                    assert bool(logs) == (found == first and is_known)
                    assert f"{2:016X}" not in name or found == first
            assert all(log["event"] == "snapshot passed over" and log["reason"] for log in logs)
            damaged(objects, name, b"")
            objects.put_new(name, whole)
        assert len(whole) == size_bytes
    assert restored(objects) == second


def damages(whole: bytes) -> Iterator[bytes]:
    """Yield other contents of an object; the first one: it is gone."""
    yield b""
    yield whole[:-1]
    yield whole + b"\0"
    # Nobody reads the first bytes of a part; they are for people.
    first = 0 if whole.startswith(b"SWSNAP") else 8
    rng = random.Random(len(whole))
    for _ in range(25):
        position = rng.randrange(first, len(whole))
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


def test_other_nodes_snapshots_are_taken_when_one_is_damaged() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    begun(store)
    writer(store, objects, S1).snapshot()
    cut = go_on(store, "second", 1)
    writer(store, objects, S2).snapshot()
    go_on(store, "third", 2)
    writer(store, objects, S1).snapshot()
    damaged(objects, LAYOUT.manifest(S1, 2), b"nonsense")
    assert restored(objects) == image(store, cut)
    listed = list_snapshots(objects, LAYOUT)
    assert ["no manifest" in one.complaint for one in listed] == [True, False, False]


def test_a_page_that_no_layer_has_is_no_page_of_zeros() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    begun(store)
    writer(store, objects).snapshot()
    cut = publish(store, "second", changed(A, 11, [10]))
    before = read_manifest(objects, LAYOUT, S1, 1)
    lacking = Manifest(
        node=S1, number=2, contents=store.contents(MAIN, cut.seq), layers=before.layers
    )
    objects.put_new(LAYOUT.manifest(S1, 2), encode_manifest(LAYOUT, lacking))
    with capture_logs() as logs:
        assert restored(objects) == image(store, store.cuts(MAIN)[0])
    assert "no layer of snapshot 2 of s1 has block 10 of base/1/1" in logs[0]["reason"]


def test_the_next_snapshot_mends_what_is_damaged() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    begun(store)
    snapshots = writer(store, objects)
    snapshots.snapshot()
    for name in [name for name in sizes(objects) if "/layers/" in name][:1]:
        objects.delete(name)
    cut = go_on(store, "second", 1)
    snapshots.snapshot()
    assert restored(objects) == image(store, cut)


def test_a_manifest_of_another_branch_is_not_believed() -> None:
    objects, first, _ = two_snapshots()
    data = objects.get(LAYOUT.manifest(S1, 1))
    objects.put_new(LAYOUT.manifest(S1, 3), data)
    objects.put_new(LAYOUT.manifest(S2, 1), data)
    damaged(objects, LAYOUT.manifest(S1, 2), b"")
    with capture_logs() as logs:
        assert restored(objects) == first
    assert [log["reason"].endswith("it was copied there") for log in logs] == [True, True]


def test_a_store_that_cannot_be_reached_is_no_damage() -> None:
    objects, _, _ = two_snapshots()

    def busy(kind: str, name: str) -> None:
        if kind == "get_range":
            raise StoreBusyError(name)

    store = MemoryStore()
    with pytest.raises(StoreBusyError):
        restore(Watched(objects, busy), LAYOUT, store, MAIN)
    assert not store.cuts(MAIN)


@pytest.mark.parametrize("make", [MemoryStore, None])
def test_nothing_is_published_of_a_damaged_snapshot(
    make: Callable[[], PageStore] | None, tmp_path: Path
) -> None:
    objects, _, _ = two_snapshots()
    for name, data in [(name, objects.get(name)) for name in sizes(objects) if "/layers/" in name]:
        damaged(objects, name, data[:-1] + b"?")
    with closing(RocksStore(tmp_path) if make is None else make()) as store:
        with pytest.raises(
            SnapshotDamagedError, match="no snapshot of branch main can be restored"
        ):
            restore(objects, LAYOUT, store, MAIN)
        assert not store.cuts(MAIN)
        assert begun(store).seq == CutSeq(1)
