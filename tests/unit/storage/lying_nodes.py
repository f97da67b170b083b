"""Storage nodes that answer wrongly, for the tests of the client."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from unit.fabric.rpc_world import ANY_PORT

from fabric.frames import Payload
from fabric.ids import ClusterName, Role
from fabric.rpc import Call, Reply
from fabric.rpc_server import RpcServer
from storage.methods import (
    DESCRIBE_CUT,
    READ_PAGES,
    DescribeCut,
    PagesRead,
    ReadPages,
    SkeletonPart,
)


@dataclass
class Liar:
    """Gives whatever the test wants."""

    address: str
    pages: Callable[[ReadPages], tuple[PagesRead, Payload]] | None = None
    skeleton: Callable[[DescribeCut], tuple[SkeletonPart, Payload]] | None = None
    calls: int = 0

    async def read_pages(self, call: Call, request: ReadPages) -> Reply[PagesRead]:
        """Answer as the test says; without its word, as a bug would."""
        del call
        self.calls += 1
        assert self.pages is not None, "a bug of the node"
        return Reply(*self.pages(request))

    async def describe_cut(self, call: Call, request: DescribeCut) -> Reply[SkeletonPart]:
        """Answer as the test says."""
        del call
        self.calls += 1
        assert self.skeleton is not None, "a bug of the node"
        return Reply(*self.skeleton(request))


@asynccontextmanager
async def lying() -> AsyncIterator[Liar]:
    """Run such a node."""
    liar = Liar("")
    rpc = RpcServer(cluster=ClusterName("blue"))
    rpc.add(READ_PAGES, liar.read_pages, roles={Role.COMPUTE})
    rpc.add(DESCRIBE_CUT, liar.describe_cut, roles={Role.COMPUTE})
    liar.address = str(await rpc.listen(ANY_PORT))
    try:
        yield liar
    finally:
        await rpc.close()
