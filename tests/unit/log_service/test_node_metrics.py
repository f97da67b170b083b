"""The figures of a log node: what Prometheus is told, and what a replica knows of the others.

In scope: the text of figures that are made up; lags of real replicas; when a node is healthy and
ready. Out of scope: processes, see tests/integration/test_log_node_metrics.py.
"""

import asyncio
import random
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from unit.log_service.group_world import World, story

from fabric.ids import BranchName, ClusterName, Epoch, NodeName
from fabric.lsn import Lsn
from log_service.disk_errors import FatalDiskError
from log_service.group import Group
from log_service.node import LogNode
from log_service.node_metrics import (
    BranchFigures,
    FollowerFigures,
    LeaderFigures,
    NodeCollector,
    NodeFigures,
    figures_of,
    followers_of,
)
from log_service.node_settings import NodeSettings
from log_service.record_bodies import MemberInfo
from log_service.segment import MARK_EVERY_BYTES

LAG_BYTES = 2500  # what is kept in memory is more
DRAIN_BYTES_MAX = 80_000  # of records of 10,000 bytes: it ends with the first that is enough
MAIN = BranchName("main")


def lines_of(figures: NodeFigures) -> list[str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(lambda: figures))
    return generate_latest(registry).decode().splitlines()


def replica(leading: LeaderFigures | None = None) -> BranchFigures:
    return BranchFigures(
        branch=MAIN,
        has_leader=True,
        is_resting=False,
        term=4,
        epoch=Epoch(2),
        members=3,
        voters=2,
        start_position_bytes=Lsn(100),
        committed_position_bytes=Lsn(300),
        flushed_position_bytes=400,
        disk_full=False,
        standbys=1,
        leading=leading,
    )


def node_with(*shown: BranchFigures) -> NodeFigures:
    return NodeFigures(branches=3, resting=2, disk_failed=False, shown=shown)


def test_every_replica_says_where_it_is() -> None:
    lines = lines_of(node_with(replica()))
    for line in (
        "seawall_log_branches 3.0",
        "seawall_log_branches_resting 2.0",
        "seawall_log_branches_hidden 2.0",
        "seawall_log_disk_failed 0.0",
        'seawall_log_has_leader{branch="main"} 1.0',
        'seawall_log_is_leader{branch="main"} 0.0',
        'seawall_log_is_resting{branch="main"} 0.0',
        'seawall_log_term{branch="main"} 4.0',
        'seawall_log_epoch{branch="main"} 2.0',
        'seawall_log_members{branch="main"} 3.0',
        'seawall_log_voters{branch="main"} 2.0',
        'seawall_log_start_position_bytes{branch="main"} 100.0',
        'seawall_log_committed_position_bytes{branch="main"} 300.0',
        'seawall_log_flushed_position_bytes{branch="main"} 400.0',
        'seawall_log_disk_full{branch="main"} 0.0',
        'seawall_log_standbys{branch="main"} 1.0',
    ):
        assert line in lines


def test_what_only_a_leader_knows_is_told_by_nobody_else() -> None:
    followers = (FollowerFigures(NodeName("log-2"), 7, is_active=False),)
    leading = LeaderFigures(
        followers=followers,
        uncommitted_bytes=9,
        ingest_streaming=True,
        ingest_failing=False,
        archive_lag_bytes=11,
        archive_failing=True,
    )
    told = lines_of(node_with(replica(leading)))
    for line in (
        'seawall_log_is_leader{branch="main"} 1.0',
        'seawall_log_uncommitted_bytes{branch="main"} 9.0',
        'seawall_log_ingest_streaming{branch="main"} 1.0',
        'seawall_log_ingest_failing{branch="main"} 0.0',
        'seawall_log_archive_lag_bytes{branch="main"} 11.0',
        'seawall_log_archive_failing{branch="main"} 1.0',
        'seawall_log_follower_lag_bytes{branch="main",follower="log-2"} 7.0',
        'seawall_log_follower_active{branch="main",follower="log-2"} 0.0',
    ):
        assert line in told
    by_others = lines_of(node_with(replica()))
    for name in ("uncommitted", "ingest", "archive", "follower"):
        assert not any(line.startswith(f"seawall_log_{name}") for line in by_others)


def test_leader_without_a_primary_or_an_archive_says_nothing_of_them() -> None:
    told = lines_of(node_with(replica(LeaderFigures())))
    assert 'seawall_log_uncommitted_bytes{branch="main"} 0.0' in told
    for name in ("ingest", "archive", "follower"):
        assert not any(line.startswith(f"seawall_log_{name}") for line in told)


# --- Real replicas --------------------------------------------------------------------------------


@story()
async def test_follower_lags_by_what_it_has_not_got(world: World) -> None:
    leader = world.group(1)
    await world.write(leader, 1000)
    assert [follower.lag_bytes for follower in followers_of(leader)] == [0, 0]
    world.cut_off = {3}
    await world.write(leader, LAG_BYTES)
    second, third = followers_of(leader)
    assert (second.node, second.lag_bytes, second.is_active) == ("log-2", 0, True)
    assert (third.node, third.lag_bytes) == ("log-3", LAG_BYTES)
    assert list(followers_of(world.group(2))) == []


@story()
async def test_lag_beyond_what_is_in_memory_is_known_to_a_mark(world: World) -> None:
    leader = world.group(1)
    await world.write(leader, *[10_000] * 20)
    world.cut_off = {3}
    await world.write(leader, *[10_000] * 30)
    index = leader.raft.progress()[3].match_index
    assert index < leader.recent.first_index - 1, "it is not in memory"
    third = list(followers_of(leader))[1]
    assert 300_000 <= third.lag_bytes <= 300_000 + MARK_EVERY_BYTES + DRAIN_BYTES_MAX


@story()
async def test_lag_is_all_that_is_kept_if_nothing_is_known_of_a_follower(world: World) -> None:
    await world.write(world.group(1), 1000)
    world.cut_off = {1}
    leader = await world.elect(2)
    first, third = followers_of(leader)
    assert (first.node, first.lag_bytes) == ("log-1", 1000)
    assert (third.node, third.lag_bytes) == ("log-3", 0)


# --- A node ---------------------------------------------------------------------------------------


def node_in(directory: Path) -> LogNode:
    settings = NodeSettings(
        name=NodeName("log-1"),
        cluster=ClusterName("demo"),
        data_dir=str(directory / "data"),
        rpc_listen="tcp://127.0.0.1:0",
    )
    return LogNode(settings, store=None, rng=random.Random(1))


def test_node_is_ready_once_its_logs_are_open_and_its_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        node = node_in(tmp_path)
        assert node.problem() is None
        assert node.unreadiness() == "it opens its logs: 0 so far"
        await node.start()
        try:
            alone = MemberInfo(1, NodeName("log-1"), str(node.rpc_address), is_voter=True)
            await node.found(MAIN, 1, (alone,))
            assert (node.problem(), node.unreadiness()) == (None, None)
            monkeypatch.setattr(Group, "is_disk_full", property(lambda _: True))
            assert node.problem() is None, "a restart frees no disk"
            assert node.unreadiness() == "the disk is full: main cannot be written"
        finally:
            monkeypatch.undo()
            await node.close()

    asyncio.run(main())


def test_node_whose_disk_failed_is_not_healthy(tmp_path: Path) -> None:
    async def main() -> None:
        node = node_in(tmp_path)
        await node.start()
        node.failure.set_result(FatalDiskError("data cannot be written"))
        assert node.problem() == "the disk failed: data cannot be written"
        assert node.unreadiness() == node.problem()
        assert figures_of(node).disk_failed
        await node.close()

    asyncio.run(main())


def test_of_many_branches_those_that_rest_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("log_service.node_metrics.BRANCHES_MAX", 2)
    names = [BranchName(name) for name in ("a", "b", "c", "d")]

    async def main() -> None:
        node = node_in(tmp_path)
        await node.start()
        try:
            for name in names:
                alone = MemberInfo(1, NodeName("log-1"), str(node.rpc_address), is_voter=True)
                await node.found(name, 1, (alone,))
            groups = [node.hosts[name].group for name in names]
            monkeypatch.setattr(node, "is_resting", {
                groups[0]: True, groups[1]: False, groups[2]: True, groups[3]: False,
            }.__getitem__)  # fmt: skip
            found = figures_of(node)
            assert (found.branches, found.resting) == (4, 2)
            assert [figures.branch for figures in found.shown] == ["b", "d"]
        finally:
            await node.close()

    asyncio.run(main())
