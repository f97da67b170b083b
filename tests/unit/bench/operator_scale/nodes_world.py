"""The nodes of one cluster as the benchmark has them, and the operator's connections to them."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bench.operator_scale.kubelet import PROBES
from bench.operator_scale.nodes import FakeCluster, log_server, storage_server
from bench.operator_scale.server_tls import node_context
from fabric.addresses import TcpAddress
from fabric.certificates import issue, make_authority
from fabric.ids import ClusterName, NodeName, Role
from fabric.tls import Identity
from kube_operator.database import Database, Nodes
from log_service.client import NodeAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fabric.rpc_server import RpcServer

NAME = ClusterName("pg")
LOGS = ("pg-log-1", "pg-log-2", "pg-log-3")
STORAGES = ("pg-storage-1", "pg-storage-2")
COMPUTES = ("pg-compute-1", "pg-compute-2")
ANY_PORT = TcpAddress("127.0.0.1", 0)


class NodesWorld:
    """Nodes that listen, and a database client that knows where."""

    def __init__(self) -> None:
        self.cluster = FakeCluster(NAME)
        self.calls: Counter[str] = Counter()
        self.servers: dict[str, RpcServer] = {}
        self._authority = make_authority("test", days=1)
        self._reach: dict[str, str] = {}
        mine = issue(self._authority, self._identity(Role.OPERATOR, "operator"), days=1)
        self.database = Database(NAME, mine, self._authority.certificate)

    def _identity(self, role: Role, node: str) -> Identity:
        return Identity(NAME, role, NodeName(node))

    async def start(self) -> None:
        """Have all nodes listen."""
        for node in (*LOGS, *STORAGES):
            is_log = node in LOGS
            make = log_server if is_log else storage_server
            server = make(self.cluster, NodeName(node), self.calls)
            role = Role.LOG if is_log else Role.STORAGE
            pem = issue(self._authority, self._identity(role, node), days=1)
            where = await server.listen(ANY_PORT, node_context(pem, self._authority.certificate))
            self.servers[node] = server
            self._reach[f"tcp://{node}:7400"] = str(where)
        await self.database.meet(self.nodes())

    def nodes(self, *, gateways: dict[str, tuple[str, int]] | None = None) -> Nodes:
        """Return where they are."""
        log, storage = ({n: f"tcp://{n}:7400" for n in names} for names in (LOGS, STORAGES))
        return Nodes(log, storage, self._reach, gateways or {})

    async def found(self) -> None:
        """Make the database, as a plan would."""
        addresses = {node: f"tcp://{node}:7400" for node in (*LOGS, *STORAGES)}
        members = [NodeAddress(NodeName(node), addresses[node]) for node in LOGS]
        await self.database.found([addresses[node] for node in STORAGES], members)
        self.cluster.computes += map(NodeName, COMPUTES)
        self.cluster.changed()

    def called(self) -> dict[str, int]:
        """Return what was called since somebody asked last."""
        found = {name: count for name, count in self.calls.items() if name != PROBES}
        self.calls.clear()
        return found

    async def close(self) -> None:
        """End all."""
        await self.database.close()
        for server in self.servers.values():
            await server.close()


@asynccontextmanager
async def nodes_world() -> AsyncIterator[NodesWorld]:
    world = NodesWorld()
    try:
        await world.start()
        yield world
    finally:
        await world.close()
