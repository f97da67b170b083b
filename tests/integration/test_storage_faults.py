"""Storage nodes, their redo engines and their log die, hang and fill up: cuts go on, and are right.

In scope: kill -9 and SIGSTOP of every process below a storage node, lost files, a full disk, the
log's own faults, a new timeline, grown settings. After each of them a new cut has exactly the pages
of a stock standby. Out of scope: several nodes, see test_storage_nodes.py; what a killed process
leaves in the page store, see tests/unit/storage/test_rocks_store_crashes.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.redo import one
from fixtures.servers import Fleet, new_run_root
from fixtures.storage_cluster import STORES, engine_pid, storage_worlds
from fixtures.waiting import eventually

from bench.log.cluster import Cluster
from storage.node_directories import DirectoryLocks, NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.storage_cluster import StorageWorld

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries


pytestmark = pytest.mark.postgres
slow = pytest.mark.faults

NODE = STORES[0]
SMALL_DISK_BYTES = 160 << 20
KILLS = 6
MANY_CONNECTIONS = "450"  # more than an engine starts with


@pytest.fixture(scope="module")
def world(
    server_binaries: ServerBinaries, identity: Identity, cluster_template: Path
) -> Iterator[StorageWorld]:
    """One world for all faults that leave nothing behind: what they did shows up later, too."""
    fleet = Fleet(
        binaries=server_binaries,
        identity=identity,
        directory=new_run_root(identity),
        template=cluster_template,
    )
    with contextlib.closing(fleet), storage_worlds(fleet) as world:
        yield world


@pytest.fixture
def small_disk(fleet: Fleet) -> Iterator[Path]:
    """A file system of its own, with room for some cuts."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    path = fleet.directory / "small"
    path.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("no mount and umount on this machine")
    command = [mount, "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(path)]
    mounted = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run([umount, str(path)], check=True)


# --- Engines --------------------------------------------------------------------------------------


def test_killed_engine_is_made_anew(world: StorageWorld) -> None:
    with world.churning(seed=1) as churn:
        churn.wait_for_more(1)
        killed = world.engine_pid(NODE)
        world.wait_for_state(NODE, "replaying", "storing")
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: engine_pid(world.stores[NODE]) not in {None, killed})
        churn.wait_for_more(1)
    world.assert_equal(NODE)


@slow
@pytest.mark.parametrize("kind", ["startup", "checkpointer", "template1"])
def test_engine_that_lost_a_process_is_made_anew(world: StorageWorld, kind: str) -> None:
    with world.churning(seed=2) as churn:
        churn.wait_for_more(1)
        postmaster = world.engine_pid(NODE)
        os.kill(child_of(postmaster, kind), signal.SIGKILL)
        eventually(lambda: engine_pid(world.stores[NODE]) not in {None, postmaster})
        churn.wait_for_more(1)
    world.assert_equal(NODE)


@slow
def test_engine_whose_directory_is_deleted_is_made_anew(world: StorageWorld) -> None:
    with world.churning(seed=3) as churn:
        churn.wait_for_more(1)
        lost = world.engine_pid(NODE)
        for path in world.stores[NODE].spec.run_path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        eventually(lambda: engine_pid(world.stores[NODE]) not in {None, lost}, deadline_s=90)
        churn.wait_for_more(1)
    world.assert_equal(NODE)


# --- The node -------------------------------------------------------------------------------------


@slow
def test_node_may_be_killed_at_any_moment(world: StorageWorld) -> None:
    rng = random.Random(4)
    store = world.stores[NODE]
    with world.churning(seed=4) as churn:
        for turn in range(KILLS):
            churn.wait_for_more(1)
            state = rng.choice(["starting", "replaying", "storing"])
            with contextlib.suppress(AssertionError):  # a state may be too short to be seen
                eventually(lambda: is_in(world, state), deadline_s=2)  # noqa: B023  # used at once
            orphan = engine_pid(store)
            store.kill()
            before = world.control.newest(NODE)
            assert before == 0, "it is dead"
            store.start()
            assert orphan is None or not runs(orphan), f"kill {turn}: its engine lives on"
    world.assert_equal(NODE)


@slow
def test_paused_node_goes_on_where_it_was(world: StorageWorld) -> None:
    with world.churning(seed=5) as churn:
        world.wait_for_state(NODE, "replaying", "storing")
        world.stores[NODE].pause()
        churn.wait_for_more(20)
        world.stores[NODE].resume()
        churn.wait_for_more(1)
    world.assert_equal(NODE)


def test_second_process_on_a_directory_is_refused_in_a_sentence(world: StorageWorld) -> None:
    second = type(world.stores[NODE])(world.stores[NODE].spec)
    said = second.start_refused().splitlines()[-1]
    assert said.startswith("storage: another process runs on "), said
    assert said.endswith(": stop it first"), said
    assert world.stores[NODE].running
    world.assert_equal(NODE)


def test_second_process_on_a_run_directory_is_refused_and_harms_nothing(
    world: StorageWorld,
) -> None:
    spec = world.stores[NODE].spec
    other = world.fleet.directory / "other"
    second = dataclasses.replace(
        spec, name="other", directory=other, data_dir=other / "data", run_dir=spec.run_path
    )
    with world.churning(seed=14) as churn:
        churn.wait_for_more(1)
        said = type(world.stores[NODE])(second).start_refused().splitlines()[-1]
        assert said == f"storage: another process runs on {spec.run_path}: stop it first"
        churn.wait_for_more(1)
    assert list(spec.run_path.glob(".s.PGSQL.*")), "the socket of the node that runs"
    world.assert_equal(NODE)


def test_data_directory_below_the_run_directory_is_refused(fleet: Fleet) -> None:
    """It would be deleted at the next start."""
    path = fleet.directory / "both"
    kept = path / "data"
    with pytest.raises(NodeError, match="must not be in it: choose another run_dir"):
        DirectoryLocks(kept, path)
    assert not path.exists()


@slow
def test_stopped_node_leaves_no_engine(world: StorageWorld) -> None:
    store = world.stores[NODE]
    with world.churning(seed=6) as churn:
        churn.wait_for_more(1)
        engine = world.engine_pid(NODE)
        world.wait_for_state(NODE, "replaying", "storing")
        assert store.stop() == 0
        assert not runs(engine)
        churn.wait_for_more(1)
        store.start()
    world.assert_equal(NODE)


@slow
def test_idle_node_runs_no_engine(fleet: Fleet) -> None:
    with storage_worlds(fleet, engine_idle_stop_s=0.5) as world:
        world.cut(NODE)
        world.wait_for_state(NODE, "waiting")
        eventually(lambda: engine_pid(world.stores[NODE]) is None, what="rest")
        with world.churning(seed=13) as churn:
            churn.wait_for_more(1)
        world.assert_equal(NODE)


# --- The log --------------------------------------------------------------------------------------


@slow
def test_cuts_go_on_after_all_log_nodes_died(world: StorageWorld) -> None:
    cluster = Cluster(world.log_nodes, world.log)
    with world.churning(seed=7) as churn:
        churn.wait_for_more(1)
        for node in world.log_nodes.values():
            node.kill()
        for node in world.log_nodes.values():
            node.start()
        cluster.wait_for_leader()
        churn.wait_for_more(2)
    world.assert_equal(NODE)


@slow
def test_cuts_go_on_under_three_leaders(world: StorageWorld) -> None:
    cluster = Cluster(world.log_nodes, world.log)
    with world.churning(seed=8) as churn:
        for _ in range(3):
            churn.wait_for_more(1)
            leader = cluster.wait_for_leader()
            other = next(name for name in world.log_nodes if name != leader)
            world.log.transfer(other)
            eventually(lambda: world.log.leader() == other, what="a new leader")  # noqa: B023  # used at once
            churn.wait_for_more(1)
    world.assert_equal(NODE)


# --- The primary ----------------------------------------------------------------------------------


@slow
def test_engine_follows_to_a_new_timeline(fleet: Fleet) -> None:
    with storage_worlds(fleet) as world:
        with world.churning(seed=9) as churn:
            churn.wait_for_more(2)
        world.cut(NODE)
        engine = world.engine_pid(NODE)
        world.primary.kill_blocking()
        world.promote()
        with world.churning(seed=10) as churn:
            churn.wait_for_more(2)
        assert engine_pid(world.stores[NODE]) == engine, "it followed, and was not made anew"
        lsn = world.cut(NODE)
        cut, _ = world.control.describe(NODE, lsn)
        assert cut.tli == 2
        assert world.differences(NODE, lsn) == []


@slow
def test_engine_is_rebuilt_when_the_primary_raises_its_settings(fleet: Fleet) -> None:
    with storage_worlds(fleet) as world:
        with world.churning(seed=11) as churn:
            churn.wait_for_more(1)
        world.cut(NODE)
        engine = world.engine_pid(NODE)
        # The standby's come first, as PostgreSQL asks for: it would pause otherwise.
        for server in (world.standby, world.primary):
            server.stop_blocking()
            extra = {**server.settings.extra, "max_connections": MANY_CONNECTIONS}
            server.settings = dataclasses.replace(server.settings, extra=extra)
            server.start_blocking()
        with world.churning(seed=12) as churn:
            churn.wait_for_more(2)
        world.assert_equal(NODE)
        assert engine_pid(world.stores[NODE]) != engine


# --- The disk -------------------------------------------------------------------------------------


@slow
def test_node_with_a_full_disk_serves_what_it_has_and_goes_on_with_room(
    fleet: Fleet, small_disk: Path
) -> None:
    with storage_worlds(fleet, data_dir=small_disk / "data") as world:
        before = world.cut(NODE)
        ballast = small_disk / "ballast"
        fill(small_disk, ballast)
        write_incompressible(world)
        world.checkpoint()
        eventually(lambda: is_in(world, "full"), what="a full disk")
        assert world.control.newest(NODE) == before
        copy = fleet.directory / "of-a-full-node"
        assert world.control.materialise(NODE, copy).lsn == before
        ballast.unlink()
        world.assert_equal(NODE)


# --- Helpers --------------------------------------------------------------------------------------


def is_in(world: StorageWorld, state: str) -> bool:
    status = world.control.status(NODE)
    return status is not None and status.state == state


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def child_of(postmaster: int, kind: str) -> int:
    """A process of an engine by what postgres calls it."""

    def look() -> int | None:
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for child in map(int, children):
            with contextlib.suppress(FileNotFoundError):
                if kind in Path(f"/proc/{child}/cmdline").read_text():
                    return child
        return None

    return eventually(look, what=f"a {kind} process")


def fill(disk: Path, ballast: Path) -> None:
    """Leave a few MiB."""
    free = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - (4 << 20)))


def write_incompressible(world: StorageWorld) -> None:
    """Some 30 MiB that stay as many on the disk."""
    with psycopg.connect(world.primary.conninfo(), autocommit=True) as connection:
        connection.execute(
            "create table noise as select g, "
            "(select string_agg(md5(random()::text || g || s), '') from generate_series(1, 30) s)"
            " as line from generate_series(1, 30000) g"
        )
        assert one(connection, "select count(*) from noise") == "30000"
