"""What the nodes of a cluster say of themselves, and what they are asked to do.

    await database.meet(nodes)                        who is where at the moment
    view = await database.look()                      what they say
    view = await database.glance(view)                what has become of it, for less
    await database.found(...); add_member(...); ...   the calls of a plan

Nodes know each other by name. The operator reaches them by the addresses of their pods, which
Kubernetes tells it: what DNS still has from before does not hold it up, and it may run anywhere
from where pods can be reached. Who does not answer within ASK_MS is not there.

A connection that is kept costs two life signs every two seconds, and so most of what an operator of
many settled clusters does. These `rest`: one connection is left, to who leads the log; a topology
watch waits at it, too.
"""

import asyncio
import random
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fabric.addresses import parse_address
from fabric.certificates import Pem
from fabric.ids import ClusterName, NodeName, Role
from fabric.rpc import Answer, Method, Q, R
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import RpcError
from fabric.tls import ClientTls, TlsFiles, client_context
from log_service import methods as log_methods
from log_service.client import LogClient, NodeAddress
from log_service.compute_methods import LIST_COMPUTES, ComputeInfo, ComputeState
from log_service.methods import GroupStatus, Topology
from storage import methods as storage_methods
from storage.founding import found_branch
from storage.methods import BranchStatus
from storage.node_methods import ADOPT_BRANCH, AdoptBranch

from .names import BRANCH

ASK_MS: Final = 1_000
RECONNECT_S: Final = 5.0
ADOPT_MS: Final = 10_000
MEMBER_MS: Final = 60_000
HEARD_MS_MAX: Final = 3_000  # computes report every 200 ms


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseView:
    """What is known at one moment. A node that did not answer is in neither mapping."""

    log_nodes: Mapping[str, GroupStatus | None] = field(default_factory=dict)
    """By node: its replica of the branch; None: it has none."""
    storage_nodes: Mapping[str, BranchStatus | None] = field(default_factory=dict)
    """By node: the branch; None: it does not keep it."""
    topology: Topology | None = None
    """Of the leader; None: nobody leads, or it could not be asked."""
    computes: tuple[ComputeInfo, ...] = ()
    """That reported lately."""
    gateways: Mapping[str, bool] = field(default_factory=dict)
    """By pod: whether it answers."""

    @property
    def leader(self) -> GroupStatus | None:
        """What the leader says of the group; None: nobody leads."""
        found = (one for one in self.log_nodes.values() if one and one.topology.is_leading)
        return max(found, key=lambda one: one.topology.term, default=None)

    @property
    def leader_node(self) -> str:
        """The node that leads, as pods are called; empty: none does."""
        leader = self.leader
        return "" if leader is None else next(n for n, g in self.log_nodes.items() if g is leader)

    @property
    def is_founded(self) -> bool:
        """Whether there is a database, as far as anybody knows."""
        return any(one is not None for one in self.log_nodes.values())

    @property
    def primary(self) -> ComputeInfo | None:
        """The compute that takes writes."""
        topology = self.topology
        if topology is None or topology.holder is None:
            return None
        for info in self.computes:
            is_it = info.name == topology.holder.name and info.epoch == topology.epoch
            if is_it and info.state is ComputeState.PRIMARY:
                return info
        return None

    @property
    def replicas(self) -> tuple[str, ...]:
        """The computes that answer reads."""
        return tuple(
            info.name
            for info in self.computes
            if info.state is ComputeState.REPLICA and info.heard_ms_ago <= HEARD_MS_MAX
        )


def shape_of(view: DatabaseView) -> tuple[object, ...]:
    """Return all of a view that a plan looks at: not how far WAL is, which is always new."""
    leader = view.leader
    members = () if leader is None else leader.members
    return (
        tuple((node, group and group.member) for node, group in view.log_nodes.items()),
        tuple((one.info.node, one.is_active) for one in members),
        None if leader is None else (leader.topology.version, leader.archive_complaint),
        tuple((node, branch is not None) for node, branch in view.storage_nodes.items()),
        tuple((one.name, one.state, one.epoch, one.complaint) for one in view.computes),
        view.replicas,
        tuple(view.gateways.items()),
    )


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes that have an address: where others know them, tcp://host:port, by name."""

    log: Mapping[str, str] = field(default_factory=dict)
    storage: Mapping[str, str] = field(default_factory=dict)
    reach: Mapping[str, str] = field(default_factory=dict)
    """Where each of these addresses is reached."""
    gateways: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Host and port where a gateway, by pod, takes connections of probes."""


class Database:
    """The connections to the nodes of one cluster."""

    def __init__(self, cluster: ClusterName, certificate: Pem, authority: bytes) -> None:
        self._cluster = cluster
        self._context = _context(certificate, authority)
        self._rng = random.Random()  # noqa: S311  # spreads reconnections, keeps no secret
        self.nodes = Nodes()
        self._clients: dict[str, RpcClient] = {}  # by where they go

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    async def meet(self, nodes: Nodes) -> None:
        """Know who is where by now; connections to where nobody is any more end."""
        self.nodes = nodes
        wanted = set(nodes.reach.values())
        for target in [target for target in self._clients if target not in wanted]:
            await self._clients.pop(target).close()

    async def rest(self, known: DatabaseView) -> None:
        """End the connections that a glance does not need; whoever looks makes them again."""
        address = self.nodes.log.get(known.leader_node)
        kept = None if address is None else self.nodes.reach.get(address, address)
        for target in [target for target in self._clients if target != kept]:
            await self._clients.pop(target).close()

    async def reconnect(self) -> None:
        """Take time to have all connections again, for a look that nothing has asked for: who had
        to connect within ASK_MS would be taken for dead when the machine has much to do.
        """
        by_role = {Role.LOG: self.nodes.log, Role.STORAGE: self.nodes.storage}
        clients = [
            await self._client(role, address)
            for role, addresses in by_role.items()
            for address in addresses.values()
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(RECONNECT_S):
                await asyncio.gather(*(client.until_connected() for client in clients))

    async def glance(self, known: DatabaseView) -> DatabaseView:
        """Ask the leader and the gateways; what only others would say is as it is in `known`.

        The leader says which log nodes and computes live. Without one, it is a whole look.
        """
        node = known.leader_node
        address = self.nodes.log.get(node)
        if address is None:
            return await self.look()
        status, computes, gateways = await asyncio.gather(
            self._log_node(address), self._computes(address), self._gateways()
        )
        groups = dict(known.log_nodes)  # in the same order, which is part of a view's shape
        if status is None:
            del groups[node]
        else:
            groups[node] = _group(status)
        view = replace(known, log_nodes=groups, topology=None, computes=(), gateways=gateways)
        leader = view.leader
        if leader is None or view.leader_node != node:
            return view
        return _led(view, leader, computes)

    async def look(self) -> DatabaseView:
        """Ask everybody at once."""
        log_nodes, storage_nodes = self.nodes.log, self.nodes.storage
        logs, storages, gateways = await asyncio.gather(
            asyncio.gather(*(self._log_node(address) for address in log_nodes.values())),
            asyncio.gather(*(self._storage_node(address) for address in storage_nodes.values())),
            self._gateways(),
        )
        groups = {
            node: _group(status)
            for node, status in zip(log_nodes, logs, strict=True)
            if status is not None
        }
        branches = {
            node: _branch(status)
            for node, status in zip(storage_nodes, storages, strict=True)
            if status is not None
        }
        view = DatabaseView(log_nodes=groups, storage_nodes=branches, gateways=gateways)
        leader = view.leader
        if leader is None:
            return view
        computes = await self._computes(log_nodes[view.leader_node])
        return _led(view, leader, computes)

    # --- What a plan asks for -----------------------------------------------------------------

    async def found(self, storage: Sequence[str], members: Sequence[NodeAddress]) -> None:
        """Make the database."""
        async with self.log() as log:
            await found_branch(self, log, BRANCH, storage=storage, members=members)

    async def adopt(self, address: str, sources: Sequence[str]) -> None:
        """Have a storage node keep the branch, from others' pages."""
        adopt = AdoptBranch(BRANCH, tuple(sources))
        await self.call(Role.STORAGE, address, ADOPT_BRANCH, adopt, timeout_ms=ADOPT_MS)

    async def add_member(self, node: NodeAddress) -> None:
        """Give the log another member."""
        async with self.log() as log:
            await log.add_member(BRANCH, node, timeout_ms=MEMBER_MS)

    async def remove_member(self, member: int) -> None:
        """Take a member out of the log."""
        async with self.log() as log:
            await log.remove_member(BRANCH, member, timeout_ms=MEMBER_MS)

    async def transfer(self, to: str) -> None:
        """Have another log node lead."""
        async with self.log() as log:
            await log.transfer(BRANCH, NodeName(to))

    async def switchover(self, to: str) -> None:
        """Have another compute be the primary."""
        async with self.log() as log:
            await log.switchover(BRANCH, NodeName(to))

    # --- Calls --------------------------------------------------------------------------------

    async def call(
        self, role: Role, address: str, method: Method[Q, R], request: Q, *, timeout_ms: int
    ) -> Answer[R]:
        """Call one node."""
        client = await self._client(role, address)
        return await client.call(method, request, timeout_ms=timeout_ms)

    async def _client(self, role: Role, address: str) -> RpcClient:
        target = self.nodes.reach.get(address, address)
        client = self._clients.get(target)
        if client is None:
            tls = ClientTls(self._context, self._cluster, role)
            client = RpcClient(parse_address(target), rng=self._rng, tls=tls)
            self._clients[target] = client
            await client.__aenter__()
        return client

    def log(self, *, first: str = "") -> LogClient:
        """Return a client of the log that has our connections; `first`: the node it begins with."""
        nodes = sorted(self.nodes.log, key=lambda node: node != first)
        return LogClient(
            [self.nodes.log[node] for node in nodes],
            rng=self._rng,
            lend=lambda address: self._client(Role.LOG, address),
        )

    async def _log_node(self, address: str) -> log_methods.NodeStatus | None:
        try:
            request = log_methods.Nothing()
            answer = await self.call(
                Role.LOG, address, log_methods.STATUS, request, timeout_ms=ASK_MS
            )
        except RpcError:
            return None
        return answer.response

    async def _storage_node(self, address: str) -> storage_methods.NodeStatus | None:
        try:
            request = storage_methods.Nothing()
            answer = await self.call(
                Role.STORAGE, address, storage_methods.STATUS, request, timeout_ms=ASK_MS
            )
        except RpcError:
            return None
        return answer.response

    async def _gateways(self) -> dict[str, bool]:
        where = self.nodes.gateways
        answers = await asyncio.gather(*(_takes_connections(*one) for one in where.values()))
        return dict(zip(where, answers, strict=True))

    async def _computes(self, address: str) -> tuple[ComputeInfo, ...] | None:
        try:
            request = log_methods.OfBranch(BRANCH)
            answer = await self.call(Role.LOG, address, LIST_COMPUTES, request, timeout_ms=ASK_MS)
        except RpcError:
            return None
        return answer.response.computes


async def _takes_connections(host: str, port: int) -> bool:
    """Whether somebody is there. No more is asked: Kubernetes probes those whom it reaches."""
    try:
        async with asyncio.timeout(ASK_MS / 1000):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # a TimeoutError is one
        return False
    writer.close()
    return True


def _led(
    view: DatabaseView, leader: GroupStatus, computes: tuple[ComputeInfo, ...] | None
) -> DatabaseView:
    """Add what the leader says. One that does not say who the computes are does not say who is who
    either: a plan would take the labels of all of them away, and clients would find nobody.
    """
    if computes is None:
        return view
    return replace(view, topology=leader.topology, computes=computes)


def _group(status: log_methods.NodeStatus) -> GroupStatus | None:
    return next((one for one in status.groups if one.branch == BRANCH), None)


def _branch(status: storage_methods.NodeStatus) -> BranchStatus | None:
    return next((one for one in status.branches if one.branch == BRANCH), None)


def _context(certificate: Pem, authority: bytes) -> ssl.SSLContext:
    """Return a context; OpenSSL takes files alone, and so they are there for a moment."""
    with tempfile.TemporaryDirectory(prefix="seawall-operator-") as directory:
        paths = [Path(directory) / name for name in ("ca.crt", "tls.crt", "tls.key")]
        contents = (authority, certificate.certificate, certificate.key)
        for path, content in zip(paths, contents, strict=True):
            path.touch(mode=0o600)
            path.write_bytes(content)
        ca_file, certificate_file, key_file = map(str, paths)
        files = TlsFiles(ca_file=ca_file, certificate_file=certificate_file, key_file=key_file)
        return client_context(files)
