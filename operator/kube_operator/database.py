"""What the nodes of a cluster say of themselves, and what they are asked to do.

    view = await database.look(log_nodes, storage_nodes)      addresses by node name
    await database.found(...); add_member(...); ...           the calls of a plan

The operator reaches nodes by the addresses of their pods, which Kubernetes tells it: so a name that
DNS still has from before does not hold it up. Who does not answer within ASK_MS is not there.
"""

import asyncio
import random
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from log_service.compute_methods import ComputeInfo, ComputeState
from log_service.methods import GroupStatus, Topology
from storage import methods as storage_methods
from storage.founding import found_branch
from storage.methods import BranchStatus
from storage.node_methods import ADOPT_BRANCH, AdoptBranch

from .names import BRANCH

ASK_MS: Final = 1_000
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

    @property
    def leader(self) -> GroupStatus | None:
        """What the leader says of the group; None: nobody leads."""
        found = (one for one in self.log_nodes.values() if one and one.topology.is_leading)
        return max(found, key=lambda one: one.topology.term, default=None)

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
    )


class Database:
    """The connections to the nodes of one cluster."""

    def __init__(self, cluster: ClusterName, certificate: Pem, authority: bytes) -> None:
        self._cluster = cluster
        self._context = _context(certificate, authority)
        self._rng = random.Random()  # noqa: S311  # spreads reconnections, keeps no secret
        self._clients: dict[tuple[Role, str], RpcClient] = {}

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

    async def look(
        self, log_nodes: Mapping[str, str], storage_nodes: Mapping[str, str]
    ) -> DatabaseView:
        """Ask everybody at once."""
        logs, storages = await asyncio.gather(
            asyncio.gather(*(self._log_node(address) for address in log_nodes.values())),
            asyncio.gather(*(self._storage_node(address) for address in storage_nodes.values())),
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
        view = DatabaseView(log_nodes=groups, storage_nodes=branches)
        leader = view.leader
        if leader is None:
            return view
        node = next(node for node, group in groups.items() if group is leader)
        computes = await self._computes(log_nodes[node])
        return DatabaseView(
            log_nodes=groups,
            storage_nodes=branches,
            topology=leader.topology,
            computes=computes,
        )

    # --- What a plan asks for -----------------------------------------------------------------

    async def found(self, storage: Sequence[str], members: Sequence[NodeAddress]) -> None:
        """Make the database."""
        async with self._log([one.rpc for one in members]) as log:
            await found_branch(self, log, BRANCH, storage=storage, members=members)

    async def adopt(self, address: str, sources: Sequence[str]) -> None:
        """Have a storage node keep the branch, from others' pages."""
        adopt = AdoptBranch(BRANCH, tuple(sources))
        await self.call(Role.STORAGE, address, ADOPT_BRANCH, adopt, timeout_ms=ADOPT_MS)

    async def add_member(self, log_nodes: Sequence[str], node: NodeAddress) -> None:
        """Give the log another member."""
        async with self._log(log_nodes) as log:
            await log.add_member(BRANCH, node, timeout_ms=MEMBER_MS)

    async def remove_member(self, log_nodes: Sequence[str], member: int) -> None:
        """Take a member out of the log."""
        async with self._log(log_nodes) as log:
            await log.remove_member(BRANCH, member, timeout_ms=MEMBER_MS)

    async def transfer(self, log_nodes: Sequence[str], to: str | None) -> None:
        """Have another log node lead."""
        async with self._log(log_nodes) as log:
            await log.transfer(BRANCH, None if to is None else NodeName(to))

    async def switchover(self, log_nodes: Sequence[str], to: str | None) -> None:
        """Have another compute be the primary."""
        async with self._log(log_nodes) as log:
            await log.switchover(BRANCH, None if to is None else NodeName(to))

    # --- Calls --------------------------------------------------------------------------------

    async def call(
        self, role: Role, address: str, method: Method[Q, R], request: Q, *, timeout_ms: int
    ) -> Answer[R]:
        """Call one node."""
        client = self._clients.get((role, address))
        if client is None:
            client = RpcClient(parse_address(address), rng=self._rng, tls=self.tls(role))
            self._clients[role, address] = client
            await client.__aenter__()
        return await client.call(method, request, timeout_ms=timeout_ms)

    async def forget(self, addresses: Sequence[str]) -> None:
        """End the connections to all but these: pods come and go, and addresses with them."""
        wanted = set(addresses)
        for key in [key for key in self._clients if key[1] not in wanted]:
            await self._clients.pop(key).close()

    def _log(self, addresses: Sequence[str]) -> LogClient:
        return LogClient(addresses, rng=self._rng, tls=self.tls(Role.LOG))

    def tls(self, role: Role) -> ClientTls:
        """Return what a client of ours needs."""
        return ClientTls(self._context, self._cluster, role)

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

    async def _computes(self, address: str) -> tuple[ComputeInfo, ...]:
        try:
            async with self._log([address]) as log:
                return (await log.computes(BRANCH, timeout_ms=ASK_MS)).computes
        except RpcError:
            return ()


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
