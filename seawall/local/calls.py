"""Calls to the nodes of a local cluster, as its owner."""

import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fabric.addresses import parse_address
from fabric.ids import Role
from fabric.rpc import Answer, Method, Q, R
from fabric.rpc_client import RpcClient
from fabric.tls import ClientTls, client_context
from log_service.client import LogClient

from .authority import admin_files
from .cluster_file import ClusterFile
from .layout import Layout
from .node_files import log_addresses

TIMEOUT_MS_DEFAULT: Final = 2_000


class Nodes:
    """How to reach the nodes of one cluster."""

    def __init__(self, layout: Layout, cluster: ClusterFile) -> None:
        self._cluster = cluster
        self._context = client_context(admin_files(layout))

    @asynccontextmanager
    async def log(self) -> AsyncIterator[LogClient]:
        """Yield a client of the log."""
        addresses = log_addresses(self._cluster)
        async with LogClient(addresses, rng=_rng(), tls=self._tls(Role.LOG)) as client:
            yield client

    async def call(
        self,
        role: Role,
        address: str,
        method: Method[Q, R],
        request: Q,
        *,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> Answer[R]:
        """Call one node."""
        tls = self._tls(role)
        async with RpcClient(parse_address(address), rng=_rng(), tls=tls) as client:
            return await client.call(method, request, timeout_ms=timeout_ms)

    def _tls(self, role: Role) -> ClientTls:
        return ClientTls(self._context, self._cluster.cluster, role)


def _rng() -> random.Random:
    return random.Random(secrets.randbits(64))  # noqa: S311  # spreads reconnections, no secret
