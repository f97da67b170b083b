"""Snapshots in a server that speaks S3: made, merged, collected and restored.

Out of scope: what does not depend on the object store (tests/unit/storage/test_snapshots.py).
"""

import http.client
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer
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
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    connection = http.client.HTTPConnection(host, port)
    connection.request("PUT", "/bucket")
    assert connection.getresponse().status == 200
    connection.close()
    options = ObjectStoreOptions(endpoint=f"http://{host}:{port}")
    yield open_object_store("s3://bucket/prefix", options=options)
    server.stop()


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
