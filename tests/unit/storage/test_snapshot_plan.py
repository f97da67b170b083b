"""What a snapshot adds and what goes, as decisions. Out of scope: whether it is carried out."""

import random

import pytest
from unit.storage.test_snapshot_format import REF

from fabric.ids import CutSeq
from fabric.lsn import Lsn, Tli
from storage.cut import Cut
from storage.retention import DAY_S
from storage.snapshot_format import Layer
from storage.snapshot_plan import (
    LayerKind,
    SnapshotSettings,
    manifests_to_delete,
    parts_to_delete,
    plan_layers,
)

SETTINGS = SnapshotSettings(layers_goal=6)


def layers(*pages: int) -> list[Layer]:
    return [Layer((REF,), count) for count in pages]


def pages(found: list[Layer] | object) -> list[int]:
    assert isinstance(found, list)
    return [layer.pages for layer in found]


def test_the_first_snapshot_is_full() -> None:
    assert plan_layers(None, live_pages=5, settings=SETTINGS).kind is LayerKind.FULL
    assert plan_layers([], live_pages=5, settings=SETTINGS).kind is LayerKind.INCREMENT


def test_more_garbage_than_pages_is_left_behind() -> None:
    base = layers(50, 50, 100)
    assert plan_layers(base, live_pages=100, settings=SETTINGS).kind is LayerKind.INCREMENT
    plan = plan_layers(base, live_pages=99, settings=SETTINGS)
    assert (plan.kind, list(plan.kept), list(plan.merged)) == (LayerKind.FULL, [], [])


def test_the_smallest_layers_merge() -> None:
    plan = plan_layers(layers(5, 1, 2, 100, 1, 1000), live_pages=1000, settings=SETTINGS)
    assert plan.kind is LayerKind.MERGE
    assert sorted(pages(plan.merged)) == [1, 1, 2]
    assert pages(plan.kept) == [5, 100, 1000]


def test_a_layer_merges_that_is_no_larger_than_what_merges() -> None:
    plan = plan_layers(layers(1, 1, 1, 3, 6, 1000), live_pages=1000, settings=SETTINGS)
    assert sorted(pages(plan.merged)) == [1, 1, 1, 3, 6]


def test_pages_are_written_again_as_often_as_their_number_doubles() -> None:
    base, written, count = layers(1_000_000), 0, 5000
    for _ in range(count):
        plan = plan_layers(base, live_pages=1_000_000, settings=SnapshotSettings())
        added = 10 + sum(layer.pages for layer in plan.merged)
        written += added
        base = [*layers(added), *plan.kept]
        assert len(base) <= SnapshotSettings().layers_goal
    assert written < 10 * count * 10


def test_goals_have_limits() -> None:
    for goal in (1, 129):
        with pytest.raises(ValueError, match="2 to 128"):
            SnapshotSettings(layers_goal=goal)


def cut(taken_at_s: float) -> Cut:
    return Cut(seq=CutSeq(3), tli=Tli(1), lsn=Lsn(5), redo=Lsn(5), taken_at_s=taken_at_s)


def test_all_of_a_day_stay_and_one_of_each_day_before() -> None:
    cuts: dict[int, Cut | None] = {number: cut(number * DAY_S / 4) for number in range(1, 81)}
    gone = manifests_to_delete(cuts, now_s=20 * DAY_S, settings=SnapshotSettings())
    staying = sorted(cuts.keys() - gone)
    assert staying[-5:] == [76, 77, 78, 79, 80]
    assert 9 <= len(staying) <= 13
    assert min(staying) >= 48


def test_the_highest_stays_whatever_its_age_and_state() -> None:
    rng = random.Random(1)
    for _ in range(200):
        numbers = sorted(rng.sample(range(1, 30), rng.randrange(1, 10)))
        cuts = {n: rng.choice([None, cut(rng.uniform(-1e9, 1e9))]) for n in numbers}
        gone = manifests_to_delete(cuts, now_s=rng.uniform(-1e9, 1e9), settings=SETTINGS)
        assert set(gone) <= set(numbers[:-1])
        assert gone == sorted(gone)
    assert manifests_to_delete({}, now_s=0, settings=SETTINGS) == []


def test_one_that_cannot_be_read_is_as_old_as_the_next() -> None:
    old: dict[int, Cut | None] = {1: None, 2: cut(0), 3: None, 4: cut(100 * DAY_S)}
    assert manifests_to_delete(old, now_s=100 * DAY_S, settings=SETTINGS) == [1]
    assert 3 not in manifests_to_delete(old, now_s=100 * DAY_S, settings=SETTINGS)


def test_only_parts_of_given_numbers_that_nobody_names_go() -> None:
    names = {number: f"{number:016X}-{0:032x}" for number in range(5)}
    parts = [*names.values(), "somebody-elses"]
    gone = parts_to_delete(parts, named={names[2]}, highest=3)
    assert gone == [names[0], names[1], names[3]]
    assert parts_to_delete(parts, named=(), highest=None) == []
