"""Snapshots in a server that speaks S3: made, merged, collected and restored.

Out of scope: what does not depend on the object store (tests/unit/storage/test_snapshots.py).
"""

from collections.abc import Iterator

import pytest
from integration.s3_server import s3_server
from unit.storage.contract import A, B, changed, new, publish
from unit.storage.memory_store import MemoryStore
from unit.storage.snapshot_world import LAYOUT, S1, complaints, image, restored, writer

from object_store.cloud import ObjectStoreOptions
from object_store.interface import ObjectStore
from object_store.open import open_object_store
from storage.snapshot_objects import list_snapshots
from storage.snapshot_plan import LayerKind, SnapshotSettings


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with s3_server() as address:
        options = ObjectStoreOptions(endpoint=address)
        yield open_object_store("s3://bucket/prefix", options=options)


def test_a_branch_comes_back_from_s3(objects: ObjectStore) -> None:
    store = MemoryStore()
    cut = publish(store, "first", new(A, 40), new(B, 3))
    snapshots = writer(store, objects, settings=SnapshotSettings(layers_goal=2))
    kinds = [snapshots.snapshot().kind]
    for number in range(4):
        cut = publish(store, str(number), changed(A, 40, [number, 30]))
        kinds.append(snapshots.snapshot().kind)
    assert {LayerKind.FULL, LayerKind.INCREMENT, LayerKind.MERGE} == set(kinds)
    assert snapshots.collect(now_s=1e9).manifests == 4
    assert not complaints(objects)
    (info,) = list_snapshots(objects, LAYOUT)
    assert (info.node, info.number, info.cut) == (S1, 5, cut)
    assert restored(objects) == image(store, cut)
