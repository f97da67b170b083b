"""The figures of a log node for Prometheus: how far its branches are, and who lags behind.

    node ──figures_of()──► BranchFigures, plain values ──NodeCollector──► Prometheus

Everything is read when it is asked for, in the event loop, from what is in memory; nothing is
counted for it while commits pass. Positions are bytes of WAL, as PostgreSQL counts them. What only
a leader knows is there for the branches that are led here, and nowhere else.

The loop commits nothing while it answers, so an answer has BRANCHES_MAX branches at most: those
that rest are left out first. 200 branches that are led here take 30 ms.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn

from .group import Group
from .group_host import GroupHost

if TYPE_CHECKING:
    from .node import LogNode

PREFIX: Final = "seawall_log"
BRANCHES_MAX: Final = 200

_GAUGES: Final = {
    "has_leader": "1 while this node knows who leads",
    "is_leader": "1 while this node leads, and knows all that is committed",
    "is_resting": "1 while nothing happens; nobody looks then, and all is as it was seen last",
    "term": "of the consensus: each election begins another",
    "epoch": "of the branch: each primary has its own",
    "members": "who keeps the branch, learners as well",
    "voters": "members with a vote",
    "start_position_bytes": "the oldest WAL that is kept here",
    "committed_position_bytes": "where the WAL ends that a majority has, as far as is known here",
    "flushed_position_bytes": "where the WAL ends that is safe on this disk",
    "disk_full": "1 while nothing can be written",
    "standbys": "who reads WAL from this node",
    "uncommitted_bytes": "of entries that no majority has yet; of a leader",
    "ingest_streaming": "1 while WAL of the primary comes in; of a leader, while there is one",
    "ingest_failing": "1 while the primary cannot be followed; likewise",
    "archive_lag_bytes": "committed WAL that is not archived; of a leader, once that is known",
    "archive_failing": "1 while nothing can be archived; of a leader with an object store",
}


@dataclass(frozen=True, slots=True)
class FollowerFigures:
    """A member, as its leader sees it."""

    node: NodeName
    lag_bytes: int
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderFigures:
    """What only the leader of a branch knows; None: not known, or there is no such thing."""

    followers: tuple[FollowerFigures, ...] = ()
    uncommitted_bytes: int = 0
    ingest_streaming: bool | None = None
    ingest_failing: bool | None = None
    archive_lag_bytes: int | None = None
    archive_failing: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchFigures:
    """One replica of a branch. The names are those of the gauges."""

    branch: BranchName
    has_leader: bool
    is_resting: bool
    term: int
    epoch: Epoch
    members: int
    voters: int
    start_position_bytes: Lsn
    committed_position_bytes: Lsn
    flushed_position_bytes: int | None
    disk_full: bool
    standbys: int
    leading: LeaderFigures | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads."""
        return self.leading is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFigures:
    """A node, and some of its branches."""

    branches: int
    resting: int
    disk_failed: bool
    shown: Sequence[BranchFigures]


class NodeCollector(Collector):
    """All figures of one node."""

    def __init__(self, look: Callable[[], NodeFigures]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Of the node, then of its branches."""
        found = self._look()
        yield _gauge("branches", "that have a replica here", found.branches)
        yield _gauge("branches_resting", "of these, where nothing happens", found.resting)
        yield _gauge("branches_hidden", "left out of this", found.branches - len(found.shown))
        yield _gauge("disk_failed", "1 once a write has failed: the node ends", found.disk_failed)
        gauges = {name: _by(name, text, "branch") for name, text in _GAUGES.items()}
        for figures in found.shown:
            _add(gauges, figures.branch, figures)
            _add(gauges, figures.branch, figures.leading)
        yield from gauges.values()
        yield from _of_followers(found.shown)


def registry_of(node: "LogNode") -> CollectorRegistry:
    """Return a registry with one node's figures only."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(lambda: figures_of(node)))
    return registry


def figures_of(node: "LogNode") -> NodeFigures:
    """Look at a node."""
    hosts = list(node.hosts.values())
    is_resting = {host: node.is_resting(host.group) for host in hosts}
    standbys = Counter(status.group for status in node.replication.standbys())
    shown = sorted(hosts, key=is_resting.__getitem__)[:BRANCHES_MAX]
    return NodeFigures(
        branches=len(hosts),
        resting=sum(is_resting.values()),
        disk_failed=node.failure.done(),
        shown=[
            branch_figures(host, is_resting=is_resting[host], standbys=standbys[host.group.name])
            for host in sorted(shown, key=attrgetter("branch"))
        ],
    )


def branch_figures(host: GroupHost, *, is_resting: bool, standbys: int) -> BranchFigures:
    """Look at one replica."""
    group = host.group
    branch, members = group.committed, group.members
    flushed = group.recent.wal_end_at(min(group.disk.synced_index, group.recent.last_index))
    return BranchFigures(
        branch=host.branch,
        has_leader=bool(group.raft.leader),
        is_resting=is_resting,
        term=group.raft.term,
        epoch=branch.epoch,
        members=len(members),
        voters=sum(info.is_voter for info in members),
        start_position_bytes=branch.start,
        committed_position_bytes=branch.end,
        flushed_position_bytes=None if flushed is None else flushed[1],
        disk_full=group.is_disk_full,
        standbys=standbys,
        leading=_leading(host) if group.is_leading else None,
    )


def _leading(host: GroupHost) -> LeaderFigures:
    group, ingest, archiver = host.group, host.ingest, host.archiver
    archived = None if archiver is None else archiver.archived
    end = group.committed.end
    return LeaderFigures(
        followers=tuple(followers_of(group)),
        uncommitted_bytes=group.raft.uncommitted_bytes,
        ingest_streaming=None if ingest is None else ingest.is_streaming,
        ingest_failing=None if ingest is None else bool(ingest.complaint),
        archive_lag_bytes=None if archived is None else max(0, int(end) - int(archived)),
        archive_failing=None if archiver is None else bool(archiver.complaint),
    )


def followers_of(group: Group) -> Iterator[FollowerFigures]:
    """Look at the others, if this replica leads; of who has not answered, nothing is known."""
    progress = group.raft.progress()
    for info in group.members:
        peer = progress.get(info.member)
        if peer is not None:
            end = _wal_end_behind(group, peer.match_index)
            lag_bytes = max(0, group.recent.wal_end[1] - end)
            yield FollowerFigures(info.node, lag_bytes, peer.is_active)


def _wal_end_behind(group: Group, index: int) -> int:
    """Return where WAL ends behind an entry, from memory: of older ones, roughly."""
    found = group.recent.wal_end_at(index) or group.disk.wal_before(index + 1)
    start = int(group.committed.start)
    return start if found is None else max(start, found[1])  # at 0, before there was any WAL


def _add(
    gauges: dict[str, GaugeMetricFamily],
    branch: BranchName,
    figures: BranchFigures | LeaderFigures | None,
) -> None:
    """Give each gauge its figure, if there is one."""
    for name, gauge in gauges.items():
        value = getattr(figures, name, None)
        if value is not None:
            gauge.add_metric([branch], int(value))


def _of_followers(shown: Sequence[BranchFigures]) -> Iterator[Metric]:
    lag = _by(
        "follower_lag_bytes", "WAL that a follower is not known to have", "branch", "follower"
    )
    active = _by("follower_active", "1 while a follower answers", "branch", "follower")
    for figures in shown:
        followers = () if figures.leading is None else figures.leading.followers
        for follower in followers:
            labels = [figures.branch, follower.node]
            lag.add_metric(labels, follower.lag_bytes)
            active.add_metric(labels, int(follower.is_active))
    yield from (lag, active)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=int(value))


def _by(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
