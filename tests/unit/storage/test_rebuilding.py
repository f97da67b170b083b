"""A data directory made of a snapshot: whole, or not there; and never in place of anything.

In scope: what is in the directory, before and after, and kills on the way. Out of scope: which
snapshot is taken (test_restore.py), the command (tests/integration/test_storage_command.py), a node
on such a directory (tests/integration/test_storage_snapshots.py).
"""

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from unit.storage.contract import A, B, new, publish
from unit.storage.memory_store import MemoryStore
from unit.storage.snapshot_world import LAYOUT, MAIN, S1, image, writer

from object_store.directory import DirectoryStore
from storage.branch_records import BranchRecord, BranchRecords
from storage.rebuilding import RESTORING, RebuildError, rebuild
from storage.restore import Restored
from storage.rocks_store import RocksStore
from storage.snapshot_format import SnapshotDamagedError, SnapshotMissingError

Image = object


class World(NamedTuple):
    """A snapshot, what is in it, and where a directory is to be."""

    objects: DirectoryStore
    root: Path
    wanted: Image
    data_dir: Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    store, objects = MemoryStore(), DirectoryStore(tmp_path / "objects")
    cut = publish(store, "first", new(A, 200), new(B, 30))
    writer(store, objects).snapshot()
    return World(objects, tmp_path / "objects", image(store, cut), tmp_path / "data")


def content(data_dir: Path) -> Image:
    """What a node would find."""
    assert list(BranchRecords(data_dir / "branches").all()) == [BranchRecord(branch=MAIN)]
    with closing(RocksStore(data_dir / "pages")) as store:
        (cut,) = store.cuts(MAIN)
        return image(store, cut)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def rebuilt(world: World) -> Restored:
    world.data_dir.mkdir(exist_ok=True)
    return rebuild(world.objects, LAYOUT, world.data_dir)


def test_directory_has_the_pages_and_the_record_of_the_branch(world: World) -> None:
    restored = rebuilt(world)
    assert (restored.node, restored.number, restored.pages) == (S1, 1, 230)
    assert names(world.data_dir) == {"pages", "branches"}
    assert content(world.data_dir) == world.wanted


@pytest.mark.parametrize("leftover", ["branches", "pages", "notes.txt"])
def test_directory_with_anything_in_it_is_refused_and_kept(world: World, leftover: str) -> None:
    (world.data_dir / leftover).mkdir(parents=True)
    with pytest.raises(RebuildError, match=f"is not empty \\(it has {leftover}\\)"):
        rebuilt(world)
    assert names(world.data_dir) == {leftover}


def test_node_that_was_started_on_what_an_attempt_left_is_never_thrown_away(world: World) -> None:
    for name in (RESTORING, "pages", "branches"):
        (world.data_dir / name).mkdir(parents=True)
    with pytest.raises(RebuildError, match="is not empty"):
        rebuilt(world)
    assert names(world.data_dir) == {RESTORING, "pages", "branches"}


def test_empty_file_system_of_its_own_is_taken(world: World) -> None:
    for name in ("lost+found", "lock"):
        (world.data_dir / name).mkdir(parents=True)
    rebuilt(world)
    assert content(world.data_dir) == world.wanted


def test_failure_leaves_nothing(world: World) -> None:
    (part, *_) = (path for path in world.root.glob("**/layers/**/*") if path.is_file())
    part.unlink()
    with pytest.raises(SnapshotDamagedError, match=f"{part.name} should have .* and has gone"):
        rebuilt(world)
    assert names(world.data_dir) == set()
    with pytest.raises(SnapshotMissingError, match="there is no snapshot of branch main"):
        rebuild(world.objects, LAYOUT, world.data_dir, among={S1: []})
    assert names(world.data_dir) == set()


@pytest.mark.parametrize(
    ("step", "count"), [("page", 1), ("page", 2), ("os.rename", 1), ("os.rename", 2),
                        ("os.rename", 3)]
)  # fmt: skip
def test_attempt_that_was_killed_is_made_again(world: World, step: str, count: int) -> None:
    """Renamed are the branch's record, then the pages, then the records."""
    world.data_dir.mkdir()
    kill(world, step, count)
    assert RESTORING in names(world.data_dir)
    assert "branches" not in names(world.data_dir)
    assert rebuilt(world).number == 1
    assert names(world.data_dir) == {"pages", "branches"}
    assert content(world.data_dir) == world.wanted


def test_attempt_that_was_killed_at_its_very_end_is_complete(world: World) -> None:
    world.data_dir.mkdir()
    kill(world, "os.rmdir", 1)
    with pytest.raises(RebuildError, match="is not empty"):
        rebuilt(world)
    assert content(world.data_dir) == world.wanted


def kill(world: World, step: str, count: int) -> None:
    """Rebuild in a process that does not survive it."""
    ended = subprocess.run(
        [
            sys.executable, "-m", "unit.storage.crashing_rebuild",
            str(world.root), str(world.data_dir), step, str(count),
        ],
        check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
