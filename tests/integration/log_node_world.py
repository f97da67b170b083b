"""Log nodes without a PostgreSQL: processes, branches on them, and stories that a client plays.

Nodes keep many branches, so the tests of a module share three nodes and each makes a branch of its
own. A test that kills a node starts it again.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from bench.log.nodes import LogNode, NodeSpec, free_ports
from fabric.ids import BranchName, NodeName, SystemIdentifier
from fabric.lsn import SEGMENT_BYTES_DEFAULT, Lsn, Tli
from fabric.tls import ClientTls
from log_service.client import LogClient, NodeAddress
from log_service.methods import GroupStatus, Topology
from log_service.record_bodies import Genesis, Holder, MemberInfo

T = TypeVar("T")

CLUSTER = "demo"
STORY_DEADLINE_S = 60.0
LOOK_S = 0.01
THREE = ("log-1", "log-2", "log-3")
FOURTH = "log-4"
START = Lsn(SEGMENT_BYTES_DEFAULT)
GENESIS = Genesis(
    system_identifier=SystemIdentifier(7),
    tli=Tli(1),
    start=START,
    segment_bytes=SEGMENT_BYTES_DEFAULT,
    server_version="18.0",
)


def holder(name: str) -> Holder:
    """A compute that does not answer: port 1 of loopback is nobody's."""
    return Holder(NodeName(name), "tcp://127.0.0.1:1")


class Nodes:
    """Some log nodes of one cluster."""

    def __init__(
        self, nodes: Sequence[LogNode], rng: random.Random, tls: ClientTls | None = None
    ) -> None:
        self.by_name = {node.name: node for node in nodes}
        self.rng = rng
        self._tls = tls
        self._branches_so_far = 0

    def address(self, name: str) -> NodeAddress:
        """Where a node is, for a client."""
        spec = self.by_name[name].spec
        return NodeAddress(NodeName(name), spec.rpc_address, spec.pg_address)

    def run(self, story: Callable[[LogClient], Awaitable[T]], *, tls: ClientTls | None = None) -> T:
        """Play a story with a client that knows all nodes."""

        async def play() -> T:
            addresses = [node.spec.rpc_address for node in self.by_name.values()]
            async with LogClient(addresses, rng=self.rng, tls=tls or self._tls) as client:
                return await asyncio.wait_for(story(client), STORY_DEADLINE_S)

        return asyncio.run(play())

    def new_branch(self, *names: str) -> BranchName:
        """Make a branch on these nodes."""
        self._branches_so_far += 1
        branch = BranchName(f"b{self._branches_so_far}")
        nodes = [self.address(name) for name in names]
        self.run(lambda client: client.create_branch(branch, GENESIS, nodes))
        return branch

    def start_all(self) -> None:
        """Have every node run."""
        for node in self.by_name.values():
            if not node.running:
                node.start()

    def kill_all(self) -> None:
        """End every node."""
        for node in self.by_name.values():
            node.kill()

    async def status(self, client: LogClient, name: str, branch: BranchName) -> GroupStatus | None:
        """What one node says of a branch; None: it has no replica."""
        found = await client.node_status(self.by_name[name].spec.rpc_address)
        return next((group for group in found.groups if group.branch == branch), None)

    async def known_status(self, client: LogClient, name: str, branch: BranchName) -> GroupStatus:
        """What a node that has a replica says of a branch."""
        status = await self.status(client, name, branch)
        assert status is not None
        return status


def member_on(topology: Topology, node: str) -> MemberInfo:
    """The member of a branch that a node has."""
    (found,) = [info for info in topology.members if info.node == node]
    return found


def leader_name(topology: Topology) -> str:
    """Who leads."""
    assert topology.leader is not None
    return topology.leader.node


async def until(look: Callable[[], Awaitable[T | None]]) -> T:
    """Look until the answer is true, and return it; the story's deadline ends a vain wait."""
    while not (found := await look()):  # noqa: ASYNC110  # no event crosses processes
        await asyncio.sleep(LOOK_S)
    return found


@contextlib.contextmanager
def nodes_world(
    directory: Path,
    names: Sequence[str],
    *,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    tls: ClientTls | None = None,
    cluster: str = CLUSTER,
) -> Iterator[Nodes]:
    """Run nodes; `settings` are of a node by its name."""
    rng = random.Random(secrets.randbits(32))
    ports = free_ports(2 * len(names), rng)
    specs = [
        NodeSpec(
            name=name,
            cluster=cluster,
            directory=directory / name,
            rpc_port=rpc_port,
            pg_port=pg_port,
            settings=(settings or {}).get(name, {}),
        )
        for name, rpc_port, pg_port in zip(names, ports[::2], ports[1::2], strict=True)
    ]
    nodes = Nodes([LogNode(spec) for spec in specs], rng, tls)
    try:
        nodes.start_all()
        yield nodes
    finally:
        nodes.kill_all()
