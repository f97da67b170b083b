"""Making snapshots: what travels, crashes, several writers, what goes.

In scope: `SnapshotWriter` over page stores and objects in memory. Out of scope: random histories
and damage (test_restore.py), formats (test_snapshot_format.py, test_snapshot_layer.py).
"""

import pytest
from structlog.testing import capture_logs
from unit.storage.contract import A, B, changed, new, publish
from unit.storage.memory_store import MemoryStore
from unit.storage.snapshot_world import (
    LATER_S,
    LAYOUT,
    MAIN,
    ONLY_NEWEST,
    S1,
    S2,
    CrashError,
    CrashingAt,
    InterferingAt,
    Watched,
    begun,
    complaints,
    damaged,
    go_on,
    image,
    restored,
    sizes,
    writer,
)

from fabric.frames import Payload
from object_store.interface import LIST_COUNT_MAX, StoreBusyError
from object_store.memory import MemoryStore as MemoryObjects
from storage.restore import restore
from storage.retention import RetentionSettings, Spacing
from storage.snapshot_format import (
    SnapshotMissingError,
    SnapshotStoppedError,
)
from storage.snapshot_objects import list_numbers, list_parts, list_snapshots, read_manifest
from storage.snapshot_plan import LayerKind, SnapshotSettings
from storage.snapshots import PAUSES_S, forget_chain


def test_a_snapshot_is_the_newest_cut() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    begun(store)
    cut = go_on(store, "second", 1)
    report = writer(store, objects).snapshot()
    assert (report.cut, report.kind, report.pages) == (cut, LayerKind.FULL, 13)
    assert (report.objects, report.stored_bytes) == (
        len(sizes(objects)),
        sum(sizes(objects).values()),
    )
    assert restored(objects) == image(store, cut)


def test_only_new_data_travels() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    publish(store, "first", new(A, 500))
    snapshots = writer(store, objects)
    first = snapshots.snapshot()
    cut = publish(store, "second", changed(A, 500, [7]))
    second = snapshots.snapshot()
    assert (second.kind, second.pages, second.objects, second.layers) == (
        LayerKind.INCREMENT, 1, 2, 2,
    )  # fmt: skip
    assert second.stored_bytes < first.stored_bytes / 100
    assert restored(objects) == image(store, cut)


def test_a_cut_that_is_stored_is_not_stored_again() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    cut = begun(store)
    writer(store, objects).snapshot()
    before = sizes(objects)
    report = writer(store, objects).snapshot()
    assert (report.cut, report.kind, report.objects) == (cut, LayerKind.NOTHING, 0)
    assert sizes(objects) == before


def test_a_cut_that_changes_no_page_needs_no_layer() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    begun(store)
    snapshots = writer(store, objects)
    snapshots.snapshot()
    cut = publish(store, "small files only")
    assert snapshots.snapshot().objects == 1
    assert restored(objects) == image(store, cut)


def test_without_a_cut_there_is_nothing_to_store() -> None:
    with pytest.raises(SnapshotMissingError, match="no cut yet"):
        writer(MemoryStore(), MemoryObjects()).snapshot()


def test_the_base_is_pinned_from_the_start_on() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    cut = begun(store)
    snapshots = writer(store, objects)
    assert snapshots.base_seq is None
    assert snapshots.find_base() is None
    snapshots.snapshot()
    go_on(store, "second", 1)
    again = writer(store, objects)
    assert again.find_base() == again.base_seq == cut.seq
    assert again.pins == (cut.lsn,)


def test_the_cut_that_is_being_stored_is_pinned() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    first = begun(store)
    snapshots = writer(store, objects)
    snapshots.snapshot()
    second = go_on(store, "second", 1)
    pins = []
    watched = writer(store, Watched(objects, lambda *_: pins.append(watched.pins)))
    watched.snapshot()
    assert (first.lsn, second.lsn) in pins
    assert watched.pins == (second.lsn,)


def test_when_the_base_is_gone_everything_travels() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    first = begun(store)
    snapshots = writer(store, objects)
    snapshots.snapshot()
    cut = go_on(store, "second", 1)
    store.drop(MAIN, [first.seq])
    report = snapshots.snapshot()
    assert (report.kind, report.layers) == (LayerKind.FULL, 1)
    assert restored(objects) == image(store, cut)


def test_a_rebuilt_node_does_not_build_on_what_it_was() -> None:
    objects = MemoryObjects()
    old, rebuilt = MemoryStore(), MemoryStore()
    begun(old)
    writer(old, objects).snapshot()
    # The same cut, with the same number; but the files have each other's ids.
    publish(rebuilt, "first", new(B, 3), new(A, 10))
    assert old.cuts(MAIN) == rebuilt.cuts(MAIN)
    cut = go_on(rebuilt, "second", 1, 8)
    assert writer(rebuilt, objects).snapshot().kind is LayerKind.FULL
    assert restored(objects) == image(rebuilt, cut)


def test_a_node_that_is_behind_its_snapshots_adds_none() -> None:
    objects = MemoryObjects()
    old, rebuilt = MemoryStore(), MemoryStore()
    begun(old)
    cut = go_on(old, "second", 1)
    writer(old, objects).snapshot()
    publish(rebuilt, "first", new(B, 3), new(A, 10))
    snapshots = writer(rebuilt, objects)
    assert snapshots.snapshot().kind is LayerKind.NOTHING
    assert snapshots.base_seq is None
    assert restored(objects) == image(old, cut)


def test_nodes_have_chains_of_their_own() -> None:
    objects = MemoryObjects()
    one, other = MemoryStore(), MemoryStore()
    begun(one)
    publish(other, "first", new(B, 3), new(A, 10))
    assert writer(one, objects, S1).snapshot().number == 1
    assert writer(other, objects, S2).snapshot().number == 1
    cut = go_on(other, "second", 2)
    assert writer(other, objects, S2).snapshot().kind is LayerKind.INCREMENT
    assert restored(objects) == image(other, cut)
    cut = publish(one, "third", changed(A, 10, [4]), lsn=5000)
    writer(one, objects, S1).snapshot()
    assert restored(objects) == image(one, cut)


def test_layers_stay_few_and_small() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    begun(store)
    settings = SnapshotSettings(layers_goal=4)
    snapshots = writer(store, objects, settings=settings)
    kinds, layers = set(), []
    for number in range(60):
        cut = go_on(store, str(number), number % 10)
        report = snapshots.snapshot()
        kinds.add(report.kind)
        layers.append(report.layers)
        assert list_snapshots(objects, LAYOUT)[-1].pages == 13
        assert restored(objects) == image(store, cut)
    assert kinds == {LayerKind.FULL, LayerKind.INCREMENT, LayerKind.MERGE}
    assert max(layers) <= 5


def test_merging_fetches_indexes_only() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    publish(store, "first", new(A, 300))
    asked: list[tuple[str, str]] = []
    watched = Watched(objects, lambda kind, name: asked.append((kind, name)))
    snapshots = writer(store, watched, settings=SnapshotSettings(layers_goal=2))
    snapshots.snapshot()
    publish(store, "second", changed(A, 300, range(100)))
    snapshots.snapshot()
    cut = publish(store, "third", changed(A, 300, [299]))
    asked.clear()
    report = snapshots.snapshot()
    assert (report.kind, report.pages) == (LayerKind.MERGE, 101)
    fetched = [name for kind, name in asked if kind == "get_range"]
    second = f"{LAYOUT.layers(S1)}{2:016X}"
    assert fetched
    assert (
        len(fetched) == len(set(fetched)) == sum(name.startswith(second) for name in sizes(objects))
    )
    assert restored(objects) == image(store, cut)


def test_damaged_layers_do_not_merge() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    publish(store, "first", new(A, 100))
    snapshots = writer(store, objects, settings=SnapshotSettings(layers_goal=2))
    for number in range(2):
        snapshots.snapshot()
        publish(store, str(number), changed(A, 100, [number]))
    for name in [name for name in sizes(objects) if f"/{2:016X}-" in name]:
        damaged(objects, name, objects.get(name)[:-1] + b"?")
    with capture_logs() as logs:
        report = snapshots.snapshot()
    assert [log["event"] for log in logs] == ["layers do not merge"]
    assert (report.kind, report.number) == (LayerKind.FULL, 3)
    assert restored(objects) == image(store, report.cut)
    publish(store, "next", changed(A, 100, [1]))
    assert snapshots.snapshot().kind is LayerKind.INCREMENT


# --- Crashes, and stores that fail ------------------------------------------------------------


def test_a_crash_at_any_call_leaves_the_old_snapshot_or_the_new_one() -> None:
    for number in range(100):
        store, objects = MemoryStore(), MemoryObjects()
        first = begun(store)
        writer(store, objects).snapshot()
        second = publish(store, "second", changed(A, 40, range(5, 40)))
        crashing = CrashingAt({"put", "get", "list", "delete"}, number)
        try:
            writer(store, Watched(objects, crashing)).snapshot()
        except CrashError:
            assert restored(objects) in (image(store, first), image(store, second))
            assert not complaints(objects)
        else:
            assert number > 8, "parts, a manifest, and looks before and after them"
            return
        third = go_on(store, "third", 2)
        again = writer(store, objects)
        assert again.snapshot().cut == third
        assert restored(objects) == image(store, third)
        again.collect(now_s=LATER_S)
        named = list_snapshots(objects, LAYOUT)
        assert restored(objects) == image(store, third)
        assert len(list_parts(objects, LAYOUT, S1)) == len(needed_parts(objects))
        assert not any(one.complaint for one in named)
    raise AssertionError("it never came to its end")


def needed_parts(objects: MemoryObjects) -> set[str]:
    numbers = list_numbers(objects, LAYOUT, S1)
    manifests = [read_manifest(objects, LAYOUT, S1, number) for number in numbers]
    return {part for manifest in manifests for part in manifest.part_names}


def test_a_crash_while_layers_merge_does_not_cost_a_full_layer() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    publish(store, "first", new(A, 100))
    watched = Watched(objects, lambda *_: None)
    snapshots = writer(store, watched, settings=SnapshotSettings(layers_goal=2))
    for number in range(2):
        snapshots.snapshot()
        publish(store, str(number), changed(A, 100, [number]))
    watched.before = CrashingAt({"put"}, 0)
    with pytest.raises(CrashError):
        snapshots.snapshot()
    watched.before = lambda *_: None
    assert snapshots.snapshot().kind is LayerKind.MERGE


def test_what_a_crash_left_is_used_by_the_next_attempt() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    cut = publish(store, "first", new(A, 40))
    with pytest.raises(CrashError):
        writer(store, Watched(objects, CrashingAt({"put"}, 3))).snapshot()
    stored = sizes(objects)
    assert len(stored) == 3
    put: list[str] = []
    watched = Watched(objects, lambda kind, name: put.append(name) if kind == "put" else None)
    writer(store, watched).snapshot()
    assert put
    assert not stored.keys() & put
    assert restored(objects) == image(store, cut)


class Busy(MemoryObjects):
    """Stores every object, and loses its answers for a while."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def put_new(self, name: str, data: Payload) -> None:
        """Store, and say that it is not known."""
        super().put_new(name, data)
        if self.times:
            self.times -= 1
            raise StoreBusyError("no answer")


def test_lost_answers_do_no_harm() -> None:
    store, objects = MemoryStore(), Busy(times=100)
    cut = begun(store)
    pauses: list[float] = []
    report = writer(store, objects, pause=pauses.append).snapshot()
    assert report.number == 1
    assert len(pauses) == report.objects
    assert list_numbers(objects, LAYOUT, S1) == [1]
    assert restored(objects) == image(store, cut)


def test_a_store_that_stays_busy_is_reported() -> None:
    def busy(kind: str, name: str) -> None:
        if kind == "put":
            raise StoreBusyError(name)

    store = MemoryStore()
    begun(store)
    pauses: list[float] = []
    with pytest.raises(StoreBusyError):
        writer(store, Watched(MemoryObjects(), busy), pause=pauses.append).snapshot()
    assert pauses == list(PAUSES_S)


def test_a_snapshot_can_be_stopped() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    first = begun(store)
    writer(store, objects).snapshot()
    go_on(store, "second", 1, 2, 3, 4, 5, 6, 7, 8)
    watched = Watched(objects, lambda *_: None)
    snapshots = writer(store, watched)
    watched.before = InterferingAt(3, snapshots.stop)
    for _ in range(2):
        with pytest.raises(SnapshotStoppedError, match="another time"):
            snapshots.snapshot()
    assert restored(objects) == image(store, first)
    assert snapshots.pins == (first.lsn,)


# --- What goes --------------------------------------------------------------------------------


def test_what_no_snapshot_needs_goes() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    snapshots = writer(store, objects, settings=ONLY_NEWEST)
    cut = begun(store)
    for number in range(12):
        cut = publish(store, str(number), changed(A, 10, range(10)), changed(B, 3, range(3)))
        snapshots.snapshot()
    before = sum(list_parts(objects, LAYOUT, S1).values())
    report = snapshots.collect(now_s=LATER_S)
    assert list_numbers(objects, LAYOUT, S1) == [12]
    assert report.manifests == 11
    assert sum(list_parts(objects, LAYOUT, S1).values()) == before - report.freed_bytes
    assert list_parts(objects, LAYOUT, S1).keys() == needed_parts(objects)
    assert restored(objects) == image(store, cut)


def test_collecting_breaks_no_snapshot_that_stays() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    settings = SnapshotSettings(
        layers_goal=3, retention=RetentionSettings(window_s=600, spacings=[Spacing(600, 200)])
    )
    snapshots = writer(store, objects, settings=settings)
    begun(store)
    images = {}
    for number in range(25):
        cut = go_on(store, str(number), number % 10, number * 3 % 10)
        images[cut.lsn] = image(store, cut)
        snapshots.snapshot()
        snapshots.collect(now_s=cut.taken_at_s)
        assert not complaints(objects)
    staying = list_snapshots(objects, LAYOUT)
    assert 3 <= len(staying) <= 6
    for info in staying:
        assert info.cut is not None
        target = MemoryStore()
        found = restore(objects, LAYOUT, target, MAIN, last=info.cut.lsn)
        assert image(target, found) == images[info.cut.lsn]


def test_nothing_goes_that_an_unreadable_manifest_may_need() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    snapshots = writer(store, objects)
    begun(store)
    snapshots.snapshot()
    go_on(store, "second", 1)
    snapshots.snapshot()
    objects.put_new(LAYOUT.part(S1, f"{1:016X}-{7:032x}"), b"nobody's")
    objects.delete(LAYOUT.manifest(S1, 1))
    objects.put_new(LAYOUT.manifest(S1, 1), b"of a later version")
    report = writer(store, objects).collect(now_s=1200)
    assert (report.manifests, report.parts) == (0, 0)
    assert writer(store, objects, settings=ONLY_NEWEST).collect(now_s=LATER_S).parts == 1


def test_what_a_writer_may_be_about_to_name_stays() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    snapshots = writer(store, objects)
    begun(store)
    snapshots.snapshot()
    for number in (1, 2, 3):
        objects.put_new(LAYOUT.part(S1, f"{number:016X}-{7:032x}"), b"?")
    assert snapshots.collect(now_s=LATER_S).parts == 1
    assert sum(name.endswith(f"{7:032x}") for name in list_parts(objects, LAYOUT, S1)) == 2


def test_more_objects_than_one_listing_has_are_seen() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    cut = begun(store)
    writer(store, objects).snapshot()
    for number in range(2 * LIST_COUNT_MAX):
        objects.put_new(LAYOUT.part(S1, f"{1:016X}-{number:032x}"), b"?")
        objects.put_new(LAYOUT.manifest(S2, number + 1), b"?")
    assert len(list_numbers(objects, LAYOUT, S2)) == 2 * LIST_COUNT_MAX
    assert writer(store, objects).collect(now_s=LATER_S).parts == 2 * LIST_COUNT_MAX
    assert writer(store, objects, S2).snapshot().number == 2 * LIST_COUNT_MAX + 1
    assert restored(objects) == image(store, cut)


def test_a_chain_can_be_forgotten() -> None:
    store, objects = MemoryStore(), MemoryObjects()
    begun(store)
    for node in (S1, S2):
        writer(store, objects, node).snapshot()
    forget_chain(objects, LAYOUT, S1)
    assert {one.node for one in list_snapshots(objects, LAYOUT)} == {S2}
    assert not list_parts(objects, LAYOUT, S1)
    assert restored(objects) == image(store, store.cuts(MAIN)[-1])
