"""Disks of log nodes fill up, are damaged and vanish: the node says so, and the log goes on.

In scope: a full disk, a torn tail, a damaged middle, a lost directory, replacement of a member.
Out of scope: the format itself, see tests/unit/log_service; processes and networks.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from fixtures.log_cluster import log_worlds
from fixtures.log_reading import group_directory
from fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures.log_cluster import LogWorld
    from fixtures.servers import Fleet

    from bench.log.cluster import Cluster


pytestmark = [pytest.mark.postgres, pytest.mark.faults]

SMALL_DISK_BYTES = 160 << 20
DAMAGE_BYTES = 64


@pytest.fixture
def small_disk(fleet: Fleet) -> Iterator[Path]:
    """A file system of its own that holds two segments and a bit."""
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


def test_node_with_a_full_disk_holds_up_nobody(fleet: Fleet, small_disk: Path) -> None:
    with log_worlds(fleet, data_dirs={"log-3": small_disk / "data"}) as world:
        cluster = world.cluster
        world.transfer("log-1")
        with world.writing() as writers:
            writers.wait_for_more(100)
            world.fill(SMALL_DISK_BYTES)
            eventually(lambda: is_disk_full(cluster, "log-3"), what="a full disk of log-3")
            writers.wait_for_more(300)
            assert cluster.wait_for_leader() != "log-3"
        journal = writers.journal()
        assert not journal.failed
        assert not journal.warned
        world.judge(journal)


def test_torn_tail_is_healed(log_world: LogWorld) -> None:
    """Half a write behind the last whole one is what a crash leaves."""
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(500)
        follower = cluster.followers()[0]
        cluster.nodes[follower].kill()
        tear_tail(group_directory(cluster.nodes[follower].spec.data_path))
        cluster.nodes[follower].start()
        cluster.wait_for_catch_up(follower)
        writers.wait_for_more(200)
    journal = writers.journal()
    assert not journal.failed
    log_world.judge(journal)


def test_damaged_middle_is_refused_and_the_member_replaced(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(1000)
        follower = cluster.followers()[0]
        node = cluster.nodes[follower]
        node.kill()
        damage_middle(group_directory(node.spec.data_path))
        assert "let a new replica take its place" in node.start_refused()
        shutil.rmtree(node.spec.data_path)
        node.start()
        cluster.control.replace(follower)
        cluster.wait_for_catch_up(follower)
        other = next(name for name in cluster.followers() if name != follower)
        cluster.nodes[other].kill()
        writers.wait_for_more(200)
        cluster.nodes[other].start()
        cluster.wait_for_catch_up(other)
    journal = writers.journal()
    assert not journal.failed
    log_world.judge(journal)


def test_wiped_node_is_replaced_by_a_new_member(log_world: LogWorld) -> None:
    """Under its old identity it would have forgotten what it promised; as a new one it may join."""
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(500)
        follower = cluster.followers()[0]
        node = cluster.nodes[follower]
        node.kill()
        shutil.rmtree(node.spec.data_path)
        node.start()
        cluster.control.replace(follower)
        cluster.wait_for_catch_up(follower)
        leader = cluster.wait_for_leader()
        cluster.nodes[leader].kill()
        cluster.wait_for_leader(other_than=leader)
        writers.wait_for_more(200)
        cluster.nodes[leader].start()
        cluster.wait_for_catch_up(leader)
    journal = writers.journal()
    assert not journal.failed
    log_world.judge(journal)


def is_disk_full(cluster: Cluster, name: str) -> bool:
    """Whether a node says that it can write no more."""
    status = cluster.control.status(name)
    return status is not None and status.is_disk_full


def newest_segment(directory: Path) -> Path:
    """The segment that is being written; names sort by first index."""
    return max(directory.glob("*.seg"))


def used_bytes(segment: Path) -> int:
    """Where the zeros begin that fill a segment to its size."""
    return len(segment.read_bytes().rstrip(b"\0"))


def tear_tail(directory: Path) -> None:
    """Leave the beginning of another write behind the last one."""
    segment = newest_segment(directory)
    rng = random.Random(1)
    with segment.open("r+b") as file:
        # Zeros may be the last record's own; a write begins at a round place.
        file.seek((used_bytes(segment) + 4095) // 4096 * 4096)
        file.write(rng.randbytes(3000))


def damage_middle(directory: Path) -> None:
    """Change some bytes in the middle of what was written and made durable long ago."""
    segment = newest_segment(directory)
    middle = used_bytes(segment) // 2
    with segment.open("r+b") as file:
        file.seek(middle)
        content = file.read(DAMAGE_BYTES)
        file.seek(middle)
        file.write(bytes(byte ^ 0xFF for byte in content))
