"""A storage node makes snapshots by itself, and is rebuilt from the object store alone.

In scope: by its own doing when it is told to keep the branch, and by `seawall storage restore` on
a machine where nothing runs. Out of scope: what a snapshot is made of and how it can be damaged,
and a restore that is killed, in tests/unit/storage.
"""

from __future__ import annotations

import functools
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from fixtures.command import run_seawall
from fixtures.storage_cluster import BRANCH, CLUSTER, STORES, StorageWorld, storage_worlds
from fixtures.waiting import eventually

from fabric.ids import BranchName, ClusterName
from object_store.directory import DirectoryStore
from storage.snapshot_format import SnapshotLayout
from storage.snapshot_objects import list_snapshots

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fixtures.servers import Fleet

    from fabric.lsn import Lsn

pytestmark = pytest.mark.postgres
NODE = STORES[0]
LAYOUT = SnapshotLayout(cluster=ClusterName(CLUSTER), branch=BranchName(BRANCH))

restore = functools.partial(run_seawall, "storage", "restore", "--cluster", CLUSTER)


@pytest.fixture(scope="module")
def objects(shared_fleet: Fleet) -> Path:
    directory = shared_fleet.directory / "objects"
    shared_fleet.identity.make_directory(directory)
    return directory


@pytest.fixture(scope="module")
def world(shared_fleet: Fleet, objects: Path) -> Iterator[StorageWorld]:
    with storage_worlds(shared_fleet, objects=objects, snapshot_every_s=0.2) as world:
        yield world


def snapshot(world: StorageWorld, objects: Path) -> Lsn:
    """Have the node's newest snapshot be that of a new cut; where that is."""
    with world.churning() as churn:
        churn.wait_for_more(3)
    lsn = world.cut()
    eventually(lambda: newest_snapshot(objects) == lsn, what=f"a snapshot at {lsn}")
    return lsn


def newest_snapshot(directory: Path) -> Lsn | None:
    """The position of the newest snapshot."""
    found = list_snapshots(DirectoryStore(directory), LAYOUT)
    return max((info.cut.lsn for info in found if info.cut is not None), default=None)


def rebuilt(world: StorageWorld) -> Lsn | None:
    """Where the node's newest cut is, once it has one."""
    return world.control.newest(NODE) or None


def assert_goes_on(world: StorageWorld) -> None:
    with world.churning(seed=2) as churn:
        churn.wait_for_more(2)
    world.assert_equal(NODE)


def test_node_that_lost_its_disk_is_rebuilt_when_it_is_told_to_keep_the_branch(
    world: StorageWorld, objects: Path
) -> None:
    lsn = snapshot(world, objects)
    store = world.stores[NODE]
    store.kill()
    shutil.rmtree(store.spec.data_path)
    store.start()
    world.control.adopt(NODE, sources=[])
    assert eventually(lambda: rebuilt(world)) == lsn
    assert world.differences(NODE, lsn) == []
    assert_goes_on(world)


def test_node_on_a_directory_that_the_command_made_serves_and_goes_on_from_the_log(
    world: StorageWorld, objects: Path
) -> None:
    lsn = snapshot(world, objects)
    store = world.stores[NODE]
    data_path = store.spec.data_path
    store.kill()
    shutil.rmtree(data_path)
    with world.churning(seed=3) as churn:
        churn.wait_for_more(2)
    done = restore(BRANCH, data_path, "--object-store", f"file://{objects}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{BRANCH} is restored to {data_path}: snapshot ")
    assert f"of {NODE}, cut at {lsn} of " in done.stdout
    store.start()
    eventually(lambda: rebuilt(world))
    assert world.control.describe(NODE, lsn)[0].lsn == lsn
    assert_goes_on(world)


@pytest.fixture(scope="module")
def kept(world: StorageWorld, objects: Path) -> Path:
    """A copy of the objects that no node changes."""
    snapshot(world, objects)
    copy = world.fleet.directory / "kept"
    world.stores[NODE].kill()
    try:
        shutil.copytree(objects, copy)
    finally:
        world.stores[NODE].start()
    world.fleet.identity.give_tree(copy)
    return copy


@pytest.fixture
def directory(world: StorageWorld) -> Iterator[Path]:
    """Where a data directory may be made."""
    directory = world.fleet.directory / "new"
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def test_snapshots_are_listed_and_any_of_them_can_be_chosen(kept: Path, directory: Path) -> None:
    url = f"file://{kept}"
    listed = restore(BRANCH, "--list", "--object-store", url)
    assert (listed.returncode, listed.stderr) == (0, "")
    head, *lines = listed.stdout.splitlines()
    assert head.split() == ["NODE", "NUMBER", "LSN", "TAKEN", "PAGES", "BYTES", "COMPLAINT"]
    found = json.loads(restore(BRANCH, "--list", "--json", "--object-store", url).stdout)
    assert [line.split()[:3] for line in lines] == [
        [one["node"], str(one["number"]), one["lsn"]] for one in found
    ]
    assert all(one["bytes"] > 0 for one in found)
    older = found[-2]
    done = restore(BRANCH, directory, "--manifest", older["number"], "--object-store", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"snapshot {older['number']} of {NODE}, cut at {older['lsn']} of " in done.stdout


def test_what_cannot_be_restored_is_refused_in_a_sentence(kept: Path, directory: Path) -> None:
    url = f"file://{kept}"
    assert_refused(
        restore("unknown", directory, "--object-store", url),
        f"there is no snapshot of branch unknown of cluster {CLUSTER}: check the names",
    )
    assert_refused(
        restore(BRANCH, directory, "--manifest", 999, "--object-store", url),
        f"there is no such snapshot of branch {BRANCH} of cluster {CLUSTER}: --list says which",
    )
    (directory / "notes").mkdir(parents=True)
    assert_refused(
        restore(BRANCH, directory, "--object-store", url),
        f"{directory} is not empty (it has notes): name a directory that is",
    )


def test_snapshot_with_a_missing_object_is_passed_over_or_refused(
    kept: Path, directory: Path
) -> None:
    url = f"file://{kept}"
    listed = list_snapshots(DirectoryStore(kept), LAYOUT)
    newest = listed[-1]
    # Not each has parts of its own: a cut may differ from the one before in its position alone.
    parts = {int(part.name.split("-")[0], 16): part for part in sorted(parts_of(kept))}
    owner = max(number for number in parts if listed[0].number < number <= newest.number)
    part = parts[owner]
    older = max((info for info in listed if info.number < owner), key=lambda info: info.number)
    away = part.rename(kept / "away")
    done = restore(BRANCH, directory, "--manifest", newest.number, "--object-store", url)
    sentence = f"no snapshot of branch {BRANCH} can be restored: {part.name} should have"
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
    done = restore(BRANCH, directory, "--object-store", url)
    away.rename(part)
    assert done.returncode == 0
    assert f"a snapshot of {NODE} is passed over: {part.name} should have" in done.stderr
    assert f"snapshot {older.number} of {NODE}" in done.stdout


def parts_of(objects: Path) -> Iterable[Path]:
    """The files of the node's layers, named for the snapshots that they were made for."""
    return objects.glob(f"{CLUSTER}/{BRANCH}/pages/layers/{NODE}/*")


def assert_refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
