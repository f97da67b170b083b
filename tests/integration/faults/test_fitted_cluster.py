"""A real local cluster that is fitted out: what is cut, filled and deleted, and comes back whole.

In scope: that each fault does what its name says, and that lost nodes get a new beginning. Out of
scope: faults at random under load; that is `make faults SECONDS=60`.
"""

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from bench.faults.cluster_target import ClusterTarget, LocalCluster
from bench.faults.disks import SmallDisk, obstacle
from bench.faults.fitting import Fittings, fitted
from bench.faults.nemesis import Nemesis, wait_whole
from bench.faults.plan import Action, Blow, Fault
from bench.faults.sessions import BrokenError, Driver, Dsn, connect
from bench.faults.suite import persistent_connect
from bench.faults.target import Kind, Role

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

needs_disks = pytest.mark.skipif(bool(obstacle()), reason=obstacle() or "-")
Scenario = Callable[[ClusterTarget, Fittings], Awaitable[None]]


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory with a short path, because sockets are in it."""
    path = Path(tempfile.mkdtemp(prefix="swf-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def with_cluster(top: Path, scenario: Scenario) -> None:
    async def run() -> None:
        cluster = LocalCluster(top)
        await cluster.up("--ha")
        try:
            async with fitted(cluster, keep=False) as fittings:
                target = await fittings.target(cluster)
                await wait_whole(target)
                await scenario(target, fittings)
                await wait_whole(target)
        finally:
            await cluster.command("destroy", "--yes")

    asyncio.run(run())


async def insert(target: ClusterTarget, row: int) -> None:
    session = await persistent_connect(Dsn.parse(target.dsn), random.Random(1))
    try:
        if row == 1:
            await session.fetch("create table kept (row int)")
        await session.fetch("insert into kept values ($1)", row)
        assert len(await session.fetch("select from kept")) == row
    finally:
        await session.close()


@needs_disks
def test_node_that_lost_its_directory_is_whole_again_and_nothing_is_lost(top: Path) -> None:
    """One after the other: in the end nobody has what was there in the beginning."""

    async def scenario(target: ClusterTarget, _: Fittings) -> None:
        nemesis = Nemesis(target)
        await insert(target, 1)
        for pick in range(3):
            blow = Blow(Action.DELETE, Kind.LOG, Role.ANY, pick)
            await nemesis.strike(Fault(0, 0, (blow,)))
            await wait_whole(target)
            await insert(target, 2 + pick)
        for pick in range(2):
            blow = Blow(Action.DELETE, Kind.STORAGE, Role.ANY, pick)
            await nemesis.strike(Fault(0, 0, (blow,)))
            await wait_whole(target)
        await insert(target, 5)
        assert {one.name for one in nemesis.happenings} == {
            "log-1", "log-2", "log-3", "storage-1", "storage-2",
        }  # fmt: skip

    with_cluster(top, scenario)


def test_compute_that_is_cut_off_cannot_be_reached_until_it_is_mended(top: Path) -> None:
    async def scenario(target: ClusterTarget, fittings: Fittings) -> None:
        await insert(target, 1)
        links = [fittings.links["compute-1"], fittings.links["compute-2"]]
        for link in links:
            link.cut_back()
        with pytest.raises(BrokenError):
            await connect(Driver.PSYCOPG, Dsn.parse(target.dsn), random.Random(1))
        for link in links:
            link.mend()
        await wait_whole(target)
        await insert(target, 2)

    with_cluster(top, scenario)


@needs_disks
def test_full_disk_takes_nothing_until_it_is_free_and_its_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir(mode=0o750)
    (path / "file").write_text("before")
    disk = SmallDisk.mounted(path)
    try:
        assert path.stat().st_mode & 0o777 == 0o750
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (path / "more").write_bytes(bytes(1 << 20))
        disk.free()
        (path / "more").write_bytes(bytes(1 << 20))
    finally:
        disk.unmount(keep=True)
    assert not os.path.ismount(path)
    assert (path / "file").read_text() == "before"
    assert (path / "more").stat().st_size == 1 << 20
