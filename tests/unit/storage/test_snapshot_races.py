"""Several writers of one chain, and collectors beside writers: nothing that is named is ever lost.

In scope: every interleaving of one writer, or one collector, with somebody else who does all of his
work between two calls of it; random ones of two writers and two collectors. Out of scope: one
writer alone (test_snapshots.py).
"""

import random
from contextlib import suppress
from functools import partial
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.storage.contract import A, changed, publish
from unit.storage.memory_store import MemoryStore
from unit.storage.snapshot_world import (
    LATER_S,
    LAYOUT,
    MAIN,
    ONLY_NEWEST,
    S1,
    InterferingAt,
    Turns,
    Watched,
    begun,
    complaints,
    go_on,
    image,
    restored,
    writer,
)

from object_store.interface import ObjectStore
from object_store.memory import MemoryStore as MemoryObjects
from storage.restore import restore
from storage.snapshot_format import SnapshotConflictError
from storage.snapshot_objects import list_numbers, list_parts, missing_part, read_manifest
from storage.snapshot_plan import SnapshotSettings
from storage.snapshots import ATTEMPTS_MAX

BOTH_SETTINGS = pytest.mark.parametrize("chosen", [SnapshotSettings(layers_goal=2), ONLY_NEWEST])


@BOTH_SETTINGS
@pytest.mark.parametrize("rounds", [1, 3])
def test_another_writer_may_do_anything_at_any_moment(
    rounds: int, chosen: SnapshotSettings
) -> None:
    """The other one makes whole snapshots and collects between any two calls of the first."""
    numbers = takewhile(lambda number: interfered_snapshot(number, rounds, chosen), range(100))
    assert 8 < len(list(numbers)) < 99


def interfered_snapshot(number: int, rounds: int, chosen: SnapshotSettings) -> bool:
    """Return whether a snapshot has so many calls."""
    objects, mine, theirs = MemoryObjects(), MemoryStore(), MemoryStore()
    for store in (mine, theirs):
        begun(store)
    other = writer(theirs, objects, settings=chosen)
    writer(mine, objects, settings=chosen).snapshot()
    go_on(mine, "mine", 1, 2, 3)

    def interfere() -> None:
        for step in range(rounds):
            publish(theirs, f"theirs {step}", changed(A, 10, [step]), lsn=1150 + step)
            other.snapshot()
            other.collect(now_s=LATER_S)

    interfering = InterferingAt(number, interfere)
    snapshots = writer(mine, Watched(objects, interfering), settings=chosen)
    report = snapshots.snapshot()
    assert not complaints(objects), number
    assert report.number == max(list_numbers(objects, LAYOUT, S1))
    snapshots.collect(now_s=LATER_S)
    assert not complaints(objects), number
    assert restored(objects) == image(mine, mine.cuts(MAIN)[-1])
    return interfering.has_happened


@BOTH_SETTINGS
def test_a_writer_may_do_anything_while_another_collects(chosen: SnapshotSettings) -> None:
    numbers = takewhile(lambda number: interfered_collection(number, chosen), range(100))
    assert 3 < len(list(numbers)) < 99


def interfered_collection(number: int, chosen: SnapshotSettings) -> bool:
    """Return whether a collection has so many calls."""
    objects, store = MemoryObjects(), MemoryStore()
    begun(store)
    snapshots = writer(store, objects, settings=chosen)
    report = snapshots.snapshot()
    for step in range(3):
        go_on(store, f"step {step}", step)
        report = snapshots.snapshot()

    def interfere() -> None:
        nonlocal report
        for step in range(3):
            go_on(store, f"meanwhile {step}", step)
            report = snapshots.snapshot()
        snapshots.collect(now_s=LATER_S)

    interfering = InterferingAt(number, interfere)
    writer(store, Watched(objects, interfering), settings=chosen).collect(now_s=LATER_S)
    assert not complaints(objects), number
    assert restored(objects) == image(store, report.cut)
    return interfering.has_happened


def test_who_lost_may_find_the_winners_manifest_gone() -> None:
    objects, mine, theirs = MemoryObjects(), MemoryStore(), MemoryStore()
    begun(mine)
    begun(theirs)
    other = writer(theirs, objects, settings=ONLY_NEWEST)

    def interfere(kind: str, name: str) -> None:
        number = len(theirs.cuts(MAIN))
        if name == LAYOUT.manifest(S1, 1) and kind in ("put", "get") and number < 4:
            for step in range(2):
                publish(theirs, f"{number} {step}", changed(A, 10, [1]))
                other.snapshot()
            if kind == "get":
                other.collect(now_s=LATER_S)

    cut = publish(mine, "mine", changed(A, 10, [1]), lsn=5000)
    report = writer(mine, Watched(objects, interfere), settings=ONLY_NEWEST).snapshot()
    assert (report.cut, report.number) == (cut, 5)
    assert not complaints(objects)


def test_a_writer_that_always_loses_says_so() -> None:
    objects, mine, theirs = MemoryObjects(), MemoryStore(), MemoryStore()
    begun(mine)
    begun(theirs)
    other = writer(theirs, objects)
    lost = []

    def interfere(kind: str, name: str) -> None:
        if kind == "put" and name.startswith(LAYOUT.manifests):
            lost.append(name)
            publish(theirs, name, changed(A, 10, [1]), lsn=1101 + len(lost))
            other.snapshot()

    publish(mine, "mine", changed(A, 10, [1]), lsn=5000)
    with pytest.raises(SnapshotConflictError, match="a name of its own"):
        writer(mine, Watched(objects, interfere)).snapshot()
    assert len(lost) == ATTEMPTS_MAX


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    chosen=st.sampled_from([SnapshotSettings(layers_goal=2), ONLY_NEWEST]),
)
def test_the_highest_snapshot_is_whole_whoever_does_what(
    seed: int, chosen: SnapshotSettings
) -> None:
    objects = MemoryObjects()
    stores = [MemoryStore(), MemoryStore()]
    for store in stores:
        begun(store)

    def write(number: int, watched: ObjectStore) -> None:
        snapshots = writer(stores[number], watched, settings=chosen)
        for step in range(4):
            lsn = 2000 + 100 * step + number
            publish(stores[number], f"{number} {step}", changed(A, 10, [step, 9]), lsn=lsn)
            with suppress(SnapshotConflictError):
                report = snapshots.snapshot()
                assert report.cut.lsn >= lsn
                require_whole(objects)
            snapshots.collect(now_s=LATER_S)
            require_whole(objects)

    def collect(watched: ObjectStore) -> None:
        for _ in range(4):
            writer(stores[0], watched, settings=chosen).collect(now_s=LATER_S)
            require_whole(objects)

    Turns(random.Random(seed), objects).run(partial(write, 0), partial(write, 1), collect, collect)
    target = MemoryStore()
    cut = restore(objects, LAYOUT, target, MAIN)
    (original,) = [
        image(store, one) for store in stores for one in store.cuts(MAIN) if one.lsn == cut.lsn
    ]
    assert image(target, cut) == original


def require_whole(objects: ObjectStore) -> None:
    """Of the highest manifest everything is there."""
    numbers = list_numbers(objects, LAYOUT, S1)
    if numbers:
        manifest = read_manifest(objects, LAYOUT, S1, numbers[-1])
        assert not missing_part(manifest, list_parts(objects, LAYOUT, S1))
