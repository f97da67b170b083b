"""The world of the page service's tests: storage nodes on loopback, with stores in memory.

Tests wait for events, never for time to pass.
"""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from unit.fabric.rpc_world import ANY_PORT
from unit.storage.memory_pages import MAIN, MemoryPages

from fabric.ids import BranchName, ClusterName, CutSeq, NodeName
from fabric.lsn import Lsn
from fabric.rpc_server import RpcServer
from fabric.tls import TlsFiles, server_context
from storage.client import StorageClient
from storage.cut import Cut
from storage.handlers import PageHandlers
from storage.page_service import BranchReport, PageService, PageServiceSettings
from storage.storage_pages import StoragePages

NOBODY = "tcp://127.0.0.1:1"  # refuses connections


class Clock:
    """A time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Return the time of the test."""
        return self.now_s


class Node:
    """A storage node: its store, its service and where it listens."""

    def __init__(self, settings: PageServiceSettings | None = None) -> None:
        self.clock = Clock()
        self.store = MemoryPages()
        self.service = PageService(self.store, settings, monotonic_s=self.clock)
        self.rpc = RpcServer(cluster=ClusterName("blue"))
        self.reports = [BranchReport(branch=MAIN, state="running", lag_bytes=7, complaint="slow")]
        handlers = PageHandlers(
            self.service,
            node=NodeName("s1"),
            reports=lambda: self.reports,
            unix_s=lambda: 2000.0,
        )
        handlers.serve(self.rpc)
        self.address = ""  # where it listens

    def publish(self, *lsns: int, branch: BranchName = MAIN) -> Cut:
        """Take cuts at these positions; return the last one."""
        cuts = [self.store.add(lsn, branch=branch) for lsn in lsns]
        for cut in cuts:
            self.service.published(branch, cut)
        return cuts[-1]

    def drop(self, *seqs: int, branch: BranchName = MAIN) -> None:
        """Let cuts go, as retention does."""
        gone = [CutSeq(seq) for seq in seqs]
        self.service.dropped(branch, gone)
        self.store.drop(branch, gone)

    async def close(self) -> None:
        """Close the service, then the server, as a node does."""
        self.store.gate.set()
        await self.service.close()
        await self.rpc.close()


@asynccontextmanager
async def storage_nodes(
    count: int = 1, *, settings: PageServiceSettings | None = None, tls: TlsFiles | None = None
) -> AsyncIterator[list[Node]]:
    """Run storage nodes that have no cuts yet."""
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(count):
            node = Node(settings)
            stack.push_async_callback(node.close)
            context = server_context(tls) if tls is not None else None
            node.address = str(await node.rpc.listen(ANY_PORT, context))
            nodes.append(node)
        yield nodes


def client_of(*nodes: Node | str) -> StorageClient:
    """Make a client of some nodes, the preferred one first."""
    addresses = [node if isinstance(node, str) else node.address for node in nodes]
    return StorageClient(addresses, rng=random.Random(1))


def pages_from(
    client: StorageClient, cut_lsn: int, position: int, *, timeout_ms: int = 10_000
) -> StoragePages:
    """Make the source of a compute that was built from a cut and has replayed so far."""
    return StoragePages(
        client, MAIN, Lsn(cut_lsn), position=lambda: Lsn(position), timeout_ms=timeout_ms
    )
