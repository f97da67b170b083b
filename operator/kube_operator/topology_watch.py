"""Wakes a cluster when its log says that something has changed: another leader, another primary.

One long call a cluster, and none of the API's: so a failover is seen within milliseconds, and
nothing is asked again and again.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import structlog

from fabric.rpc_errors import RpcError
from fabric.tls import ClientTls
from log_service.client import LogClient

from .database import Nodes
from .names import BRANCH

WAIT_MS: Final = 50_000  # for one call; an operator of 200 clusters makes four a second
PAUSE_S: Final = 0.5
PAUSE_S_MAX: Final = 10.0

log = structlog.get_logger()


class TopologyWatch:
    """Watches one cluster's log, as long as its nodes are there, until closed."""

    def __init__(
        self,
        nodes: Nodes,
        tls: ClientTls,
        *,
        rng: random.Random,
        wake: Callable[[], None],
    ) -> None:
        self.nodes = nodes
        self._tls, self._rng, self._wake = tls, rng, wake
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        known, pause_s = "", PAUSE_S
        nodes = self.nodes
        async with LogClient(
            nodes.log.values(), rng=self._rng, tls=self._tls, reach=nodes.reach
        ) as client:
            while True:
                try:
                    topology = await client.watch_topology(BRANCH, known, wait_ms=WAIT_MS)
                except RpcError:
                    await asyncio.sleep(pause_s)
                    pause_s = min(PAUSE_S_MAX, pause_s * 2)
                    known = ""  # whoever answers next may have missed nothing, but we have
                    continue
                pause_s = PAUSE_S
                if topology.version != known:
                    known = topology.version
                    self._wake()
