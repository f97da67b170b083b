"""Wakes a cluster when its log says that something has changed: another leader, another primary.

One long call a cluster, and none of the API's: so a failover is seen within milliseconds, and
nothing is asked again and again. It goes to who leads the log, by the connection that is kept to it
anyway.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from fabric.rpc_errors import RpcError

from .database import Database
from .names import BRANCH

WAIT_MS: Final = 50_000  # for one call; an operator of 200 clusters makes four a second
PAUSE_S: Final = 0.5
PAUSE_S_MAX: Final = 10.0

log = structlog.get_logger()


class TopologyWatch:
    """Watches one cluster's log, as long as its nodes are there and led by the same, until closed.

    The database is closed after it.
    """

    def __init__(self, database: Database, leader: str, *, wake: Callable[[], None]) -> None:
        self.nodes, self.leader = database.nodes, leader
        self._database, self._wake = database, wake
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        known, pause_s = "", PAUSE_S
        async with self._database.log(first=self.leader) as client:
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
