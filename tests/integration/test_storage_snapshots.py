"""A storage node makes snapshots by itself, and is rebuilt from the object store alone.

Out of scope: what a snapshot is made of and how it can be damaged, in tests/unit/storage.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from fixtures.storage_cluster import BRANCH, CLUSTER, STORES, StorageWorld, storage_worlds
from fixtures.waiting import eventually

from fabric.ids import BranchName, ClusterName
from object_store.directory import DirectoryStore
from storage.snapshot_format import SnapshotLayout
from storage.snapshot_objects import list_snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from fixtures.servers import Fleet

    from fabric.lsn import Lsn

pytestmark = pytest.mark.postgres
NODE = STORES[0]
LAYOUT = SnapshotLayout(cluster=ClusterName(CLUSTER), branch=BranchName(BRANCH))


def test_node_that_lost_its_disk_is_rebuilt_from_the_object_store(fleet: Fleet) -> None:
    directory = fleet.directory / "objects"
    fleet.identity.make_directory(directory)
    with storage_worlds(fleet, objects=directory, snapshot_every_s=0.2) as world:
        with world.churning() as churn:
            churn.wait_for_more(3)
        lsn = world.cut()
        eventually(lambda: newest_snapshot(directory) == lsn, what=f"a snapshot at {lsn}")
        store = world.stores[NODE]
        store.kill()
        shutil.rmtree(store.spec.data_path)
        store.start()
        world.control.adopt(NODE, sources=[])
        assert eventually(lambda: rebuilt(world)) == lsn
        assert world.differences(NODE, lsn) == []
        with world.churning(seed=2) as churn:
            churn.wait_for_more(2)
        world.assert_equal(NODE)


def newest_snapshot(directory: Path) -> Lsn | None:
    """The position of the newest snapshot."""
    found = list_snapshots(DirectoryStore(directory), LAYOUT)
    return max((info.cut.lsn for info in found if info.cut is not None), default=None)


def rebuilt(world: StorageWorld) -> Lsn | None:
    """Where the node's newest cut is, once it has one."""
    return world.control.newest(NODE) or None
