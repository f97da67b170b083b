"""Nodes that answer the operator, and do nothing else: no log, no pages, no PostgreSQL.

They say what real nodes of a healthy cluster say, over real RPC and TLS, with certificates of their
own: first that they are empty; then, once they were founded, who leads, who is the primary, who has
which pages. How far WAL is differs with every answer, as in a cluster that is used.

    cluster = FakeCluster()                       one database: what its nodes agree on
    await log_server(cluster, node, calls)        an RpcServer that answers as this node
"""

import asyncio
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from fabric.ids import BranchName, ClusterName, Epoch, NodeName, Role, SystemIdentifier
from fabric.lsn import Lsn, Tli
from fabric.rpc import Call, Handler, Method, Reply
from fabric.rpc_errors import RetryError
from fabric.rpc_server import RpcServer
from log_service import methods as log
from log_service.compute_methods import LIST_COMPUTES, ComputeInfo, Computes, ComputeState
from log_service.record_bodies import Genesis, Holder, MemberInfo
from storage import methods as storage
from storage.node_methods import ADOPT_BRANCH, FOUND_CLUSTER, AdoptBranch, FoundCluster, Founded

BRANCH: Final = BranchName("main")
START: Final = Lsn(0x1000000)
SEGMENT_BYTES: Final = 16 * 1024 * 1024
FIRST_WAL: Final = bytes(8192)
WAL_BYTES_S: Final = 1_000_000  # what a cluster writes
FIRST_IDENTIFIER: Final = 7_000_000_000_000_000_000
EPOCH: Final = Epoch(1)

Q = TypeVar("Q", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class FakeCluster:
    """What the nodes of one cluster know. Those that are asked answer from here."""

    def __init__(self, name: str) -> None:
        self.name = ClusterName(name)
        self.members: tuple[MemberInfo, ...] = ()
        self.leading = zlib.crc32(name.encode())  # another member in each cluster
        self.replicas: dict[NodeName, int] = {}  # by log node: the member that it keeps
        self.genesis: Genesis | None = None
        self.keeping: set[NodeName] = set()  # storage nodes with the branch
        self.computes: list[NodeName] = []  # the first one is the primary
        self.refuses_computes = False  # the leader answers, but not who the computes are
        self._version = 1
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Have those who watch the topology hear of it."""
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def until_other(self, known: str, wait_ms: int) -> None:
        """Wait while the topology is `known`, at most so long."""
        try:
            async with asyncio.timeout(wait_ms / 1000):
                while known == str(self._version):
                    await self._changed.wait()
        except TimeoutError:
            pass

    @property
    def end(self) -> Lsn:
        """How far WAL is."""
        return Lsn(START + int(asyncio.get_running_loop().time() * WAL_BYTES_S))

    @property
    def _leader(self) -> MemberInfo | None:
        """One of the members, once all of them are there."""
        if not self.members or len(self.replicas) < len(self.members):
            return None
        return self.members[self.leading % len(self.members)]

    @property
    def _holder(self) -> Holder | None:
        if self.genesis is None or not self.computes:
            return None
        return Holder(self.computes[0], f"tcp://{self.computes[0]}:5432", "postgres", 1)

    def topology(self, node: NodeName) -> log.Topology:
        """Return who is who, as a log node says it."""
        leader, holder = self._leader, self._holder
        return log.Topology(
            version=str(self._version), node=node, leader=leader, term=1,
            is_leading=leader is not None and leader.node == node, members=self.members,
            epoch=EPOCH if holder else Epoch(0), holder=holder, is_streaming=holder is not None,
            tli=Tli(1), start=START, end=self.end, epoch_start=START,
            system_identifier=None if self.genesis is None else self.genesis.system_identifier,
        )  # fmt: skip

    def groups(self, node: NodeName) -> tuple[log.GroupStatus, ...]:
        """Return what a log node says of its replica; nothing if it has none."""
        if node not in self.replicas:
            return ()
        topology, end = self.topology(node), self.end
        index = end // 8192
        members = tuple(log.MemberStatus(info, index, True) for info in self.members)
        readers = [*sorted(self.keeping), *self.computes[1:]] if topology.is_leading else []
        group = log.GroupStatus(
            branch=BRANCH, member=self.replicas[node],
            role="leader" if topology.is_leading else "follower", topology=topology,
            members=members if topology.is_leading else (), first_index=1, last_index=index,
            commit_index=index, applied_index=index, uncommitted_bytes=0, is_disk_full=False,
            is_resting=False, ingest_complaint="", archived=None, archive_complaint="",
            pins={f"storage/{one}": end for one in sorted(self.keeping)},
            standbys=tuple(log.StandbyInfo(one, "127.0.0.1", end, end, end) for one in readers),
        )  # fmt: skip
        return (group,)

    def computes_seen(self) -> tuple[ComputeInfo, ...]:
        """Return what the leader heard last of the computes."""
        if self.genesis is None:
            return ()
        return tuple(
            ComputeInfo(
                name=name, instance=1, address=f"tcp://{name}:5432", tli=Tli(1), user="postgres",
                state=ComputeState.REPLICA if number else ComputeState.PRIMARY,
                client_address=f"{name}:5432", epoch=Epoch(0) if number else EPOCH,
                received=self.end, replayed=self.end, postmaster_pid=20, agent_pid=7,
                can_lead=True, complaint="", heard_ms_ago=int(self.end) % 200,
            )
            for number, name in enumerate(self.computes)
        )  # fmt: skip

    def branches(self, node: NodeName) -> tuple[storage.BranchStatus, ...]:
        """Return what a storage node says of the branch; nothing if it does not keep it."""
        if node not in self.keeping:
            return ()
        cut = storage.CutSummary(seq=7, lsn=self.end, age_s=1.5)
        return (
            storage.BranchStatus(
                branch=BRANCH, state="serving", cuts=3, oldest=cut, newest=cut, lag_bytes=4096,
                lag_s=0.1, complaint="", size_bytes=100_000_000, pins=1, oldest_pin=self.end,
            ),
        )  # fmt: skip


class Answering:
    """Adds handlers that are counted."""

    def __init__(self, cluster: FakeCluster, calls: Counter[str]) -> None:
        self.server = RpcServer(cluster=cluster.name)
        self._calls = calls

    def add(self, method: Method[Q, R], handler: Handler[Q, R]) -> None:
        """Answer the operator's calls of a method."""

        async def counted(call: Call, request: Q) -> Reply[R]:
            self._calls[method.name] += 1
            return await handler(call, request)

        self.server.add(method, counted, roles={Role.OPERATOR})


def log_server(cluster: FakeCluster, node: NodeName, calls: Counter[str]) -> RpcServer:
    """Return what answers as a log node."""

    async def found(_: Call, request: log.FoundGroup) -> Reply[log.Done]:
        cluster.members = request.members
        cluster.replicas[node] = request.member
        cluster.changed()
        return Reply(log.Done())

    async def begin(_: Call, request: log.BeginLog) -> Reply[log.Done]:
        cluster.genesis = request.genesis
        cluster.changed()
        return Reply(log.Done())

    async def watch(_: Call, request: log.WatchTopology) -> Reply[log.Topology]:
        await cluster.until_other(request.known, request.wait_ms)
        return Reply(cluster.topology(node))

    async def status(_: Call, __: log.Nothing) -> Reply[log.NodeStatus]:
        return Reply(log.NodeStatus(node, cluster.groups(node)))

    async def computes(_: Call, __: log.OfBranch) -> Reply[Computes]:
        if cluster.refuses_computes:
            raise RetryError("the computes are not known yet")
        return Reply(Computes(cluster.computes_seen(), cluster.topology(node)))

    answering = Answering(cluster, calls)
    answering.add(log.FOUND_GROUP, found)
    answering.add(log.BEGIN_LOG, begin)
    answering.add(log.WATCH_TOPOLOGY, watch)
    answering.add(log.STATUS, status)
    answering.add(LIST_COMPUTES, computes)
    return answering.server


def storage_server(cluster: FakeCluster, node: NodeName, calls: Counter[str]) -> RpcServer:
    """Return what answers as a storage node."""

    async def found(_: Call, __: FoundCluster) -> Reply[Founded]:
        cluster.keeping.add(node)
        identifier = SystemIdentifier(FIRST_IDENTIFIER + zlib.crc32(cluster.name.encode()))
        return Reply(Founded(identifier, Tli(1), START, SEGMENT_BYTES, "17.5"), FIRST_WAL)

    async def adopt(_: Call, __: AdoptBranch) -> Reply[storage.Done]:
        cluster.keeping.add(node)
        return Reply(storage.Done())

    async def status(_: Call, __: storage.Nothing) -> Reply[storage.NodeStatus]:
        return Reply(storage.NodeStatus(node, cluster.branches(node)))

    answering = Answering(cluster, calls)
    answering.add(FOUND_CLUSTER, found)
    answering.add(ADOPT_BRANCH, adopt)
    answering.add(storage.STATUS, status)
    return answering.server


async def close_all(servers: Sequence[RpcServer | asyncio.Server]) -> None:
    """Stop serving, wherever it was."""
    for server in servers:
        if isinstance(server, RpcServer):
            await server.close()
        else:
            server.close()
