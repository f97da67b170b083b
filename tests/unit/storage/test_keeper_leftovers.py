"""What an earlier process has left: lock files of engines, and cuts of a branch that nobody keeps.

In scope: that nothing of anybody else is touched. Out of scope: the end of real engines that were
left, see integration/test_storage_faults.py.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.fabric.rpc_world import in_loop
from unit.storage.contract import MAIN, new, publish
from unit.storage.memory_store import MemoryStore

from fabric.ids import BranchName
from storage.page_service import PageService
from storage.redo_engine import end_orphans
from storage.retention import RetentionSettings
from storage.upkeep import Upkeep

LEFT = BranchName("left")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "main.1" / "data"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that got the pid of an engine that ended."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def write_lock(data_dir: Path, pid: int) -> None:
    lines = [pid, data_dir, 1_700_000_000, 5432, data_dir.parent, "", "5432001 0", "ready"]
    (data_dir / "postmaster.pid").write_text("".join(f"{line}\n" for line in lines))


def test_process_that_is_no_engine_of_that_directory_is_spared(
    data_dir: Path, stranger: subprocess.Popen[bytes]
) -> None:
    write_lock(data_dir, stranger.pid)
    assert end_orphans(data_dir.parent.parent) == 0
    assert stranger.poll() is None


def test_engine_that_has_ended_and_one_that_never_began_are_passed_over(
    data_dir: Path, stranger: subprocess.Popen[bytes]
) -> None:
    stranger.kill()
    stranger.wait()
    write_lock(data_dir, stranger.pid)
    assert end_orphans(data_dir.parent.parent) == 0
    (data_dir / "postmaster.pid").write_text("")
    assert end_orphans(data_dir.parent.parent) == 0


@in_loop
async def test_upkeep_leaves_a_branch_alone_that_is_not_served() -> None:
    """Cuts without a record are what a founding leaves that was interrupted."""
    store = MemoryStore()
    for branch in (MAIN, LEFT):
        publish(store, "old", new("base/1/1", 1), branch=branch)
        publish(store, "newer", branch=branch)
    service = PageService(store)
    service.load(MAIN, store.cuts(MAIN))
    upkeep = Upkeep(store, service, RetentionSettings(), kept=lambda _: [])
    try:
        await upkeep.tend(LEFT)
        await upkeep.tend(MAIN)
    finally:
        await upkeep.close()
        await service.close()
    assert len(store.cuts(LEFT)) == 2
    assert len(store.cuts(MAIN)) < 2, "the old one of a branch that is served goes"
