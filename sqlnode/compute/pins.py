"""The cut that a compute's missing blocks are read from: kept on every storage node, moved forward.

A block that a compute does not have was not touched since its cut, so it is the same in every later
cut up to where the compute is. So the pin follows the newest cut, and storage can let the old ones
go. No older page is asked for once all nodes keep the newer cut.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from fabric.ids import BranchName, NodeName
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from storage.client import StorageClient
from storage.storage_pages import StoragePages

LEASE_S: Final = 120
RENEW_S: Final = 20.0

log = structlog.get_logger()


class PinKeeper:
    """Renews one pin. `reached` says how far the compute is."""

    def __init__(
        self,
        client: StorageClient,
        *,
        nodes: int,
        branch: BranchName,
        holder: NodeName,
        pages: StoragePages,
        reached: Callable[[], Lsn],
    ) -> None:
        self._client, self._nodes = client, nodes
        self._branch, self._holder = branch, holder
        self._pages, self._reached = pages, reached
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """Look for a newer cut now: somebody could do with one."""
        self._hurried.set()

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await self._hurried.wait()
            self._hurried.clear()
            try:
                await self.renew()
            except RpcError as error:
                log.warning("the cut is not pinned", lsn=self._pages.cut_lsn, reason=str(error))

    async def renew(self) -> None:
        """Keep the newest cut that is not ahead of the compute, or the one so far."""
        at = self._pages.cut_lsn
        cut = await self._client.watch(self._branch, after=at, wait_ms=0)
        if cut is None or cut.lsn > self._reached():
            await pin(self._client, self._branch, self._holder, at)
            return
        kept = await pin(self._client, self._branch, self._holder, cut.lsn)
        if kept == self._nodes:
            self._pages.moved_to(cut.lsn)


async def pin(client: StorageClient, branch: BranchName, holder: NodeName, lsn: Lsn) -> int:
    """Keep a cut for a while; on how many nodes it is kept. Raises RpcError if on none."""
    return await client.pin(branch, holder, lsn, lease_s=LEASE_S)
