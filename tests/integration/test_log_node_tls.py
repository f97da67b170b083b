"""Log nodes with certificates: they work together, and refuse whom they have to.

In scope: who may do what at a log node. Out of scope: certificates that are no good at all, see
tests/unit/fabric/test_rpc_tls.py; standbys, see test_standbys_tls.py.
"""

import dataclasses
from collections.abc import Iterator

import msgspec
import pytest
from integration.log_node_world import Nodes, holder, leader_name, nodes_world
from unit.fabric.certificates import Authority

from fabric.ids import BranchName, ClusterName, NodeName, Role
from fabric.lsn import Lsn, Tli
from fabric.rpc_errors import DeadlineError, DeniedError
from fabric.tls import ClientTls, client_context
from log_service.client import LogClient
from log_service.compute_methods import ComputeReport, ComputeState

THREE = ("log-1", "log-2", "log-3")
DEMO = ClusterName("demo")
SHORT_MS = 500
LONG_MS = 10_000


@dataclasses.dataclass(frozen=True)
class Secured:
    """Nodes with certificates, and whoever issues them."""

    nodes: Nodes
    authority: Authority

    def tls(self, identity: str, cluster: ClusterName = DEMO) -> ClientTls:
        """What a client with this identity shows."""
        files = self.authority.issue(f"seawall://{identity}")
        return ClientTls(client_context(files), cluster, Role.LOG)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority.create(directory / "authority")
    settings = {
        name: {"tls": dataclasses.asdict(authority.issue(f"seawall://demo/log/{name}"))}
        for name in THREE
    }
    admin = client_context(authority.issue("seawall://demo/admin/somebody"))
    with nodes_world(
        directory, THREE, settings=settings, tls=ClientTls(admin, DEMO, Role.LOG)
    ) as nodes:
        yield Secured(nodes, authority)


@pytest.fixture
def branch(secured: Secured) -> BranchName:
    return secured.nodes.new_branch(*THREE)


def test_nodes_with_certificates_keep_a_log_together(secured: Secured, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        await client.grant_epoch(branch, holder("p"))
        before = leader_name(await client.topology(branch))
        await client.transfer(branch)
        assert leader_name(await client.topology(branch)) != before
        assert (await client.grant_epoch(branch, holder("q"))).epoch == 2

    secured.nodes.run(story)


def test_compute_reports_for_itself_alone(secured: Secured, branch: BranchName) -> None:
    mine = ComputeReport(
        branch=branch, name=NodeName("c1"), instance=1, state=ComputeState.REPLICA,
        address="tcp://127.0.0.1:1",
    )  # fmt: skip
    others = msgspec.structs.replace(mine, name=NodeName("c2"))

    async def story(client: LogClient) -> None:
        assert (await client.report(mine, timeout_ms=LONG_MS)).holder is None
        with pytest.raises(DeniedError, match="c1 cannot report for c2"):
            await client.report(others, timeout_ms=LONG_MS)
        with pytest.raises(DeniedError):
            await client.switchover(branch)
        assert [info.name for info in (await client.computes(branch)).computes] == ["c1"]

    secured.nodes.run(story, tls=secured.tls("demo/compute/c1"))


def test_compute_may_look_and_read_but_decide_nothing(secured: Secured, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        topology = await client.topology(branch)
        await client.read_wal(branch, tli=Tli(1), lsn=topology.end, bytes_max=10)
        with pytest.raises(DeniedError):
            await client.grant_epoch(branch, holder("p"))
        with pytest.raises(DeniedError):
            await client.set_pin(branch, "mine", topology.start)
        with pytest.raises(DeniedError):
            await client.remove_member(branch, topology.members[0].member)
        with pytest.raises(DeniedError):
            await client.node_status(topology.members[0].rpc)

    secured.nodes.run(story, tls=secured.tls("demo/compute/p"))


def test_storage_may_pin_and_a_gateway_may_only_look(secured: Secured, branch: BranchName) -> None:
    async def pin(client: LogClient) -> None:
        await client.set_pin(branch, "cut", (await client.topology(branch)).start)

    async def look(client: LogClient) -> None:
        topology = await client.topology(branch)
        with pytest.raises(DeniedError):
            await client.read_wal(branch, tli=Tli(1), lsn=topology.end, bytes_max=10)

    secured.nodes.run(pin, tls=secured.tls("demo/storage/s"))
    secured.nodes.run(look, tls=secured.tls("demo/gateway/g"))


@pytest.mark.parametrize("role", [Role.ADMIN, Role.LOG, Role.COMPUTE])
def test_nobody_of_another_cluster_gets_an_answer(
    secured: Secured, branch: BranchName, role: Role
) -> None:
    async def story(client: LogClient) -> None:
        with pytest.raises(DeadlineError, match="other"):
            await client.topology(branch, timeout_ms=SHORT_MS)

    secured.nodes.run(story, tls=secured.tls(f"other/{role}/x"))


def test_node_that_is_not_of_the_wanted_cluster_is_not_talked_to(
    secured: Secured, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        with pytest.raises(DeadlineError, match="of cluster other was expected"):
            await client.read_wal(branch, tli=Tli(1), lsn=Lsn(0), bytes_max=1, timeout_ms=SHORT_MS)

    secured.nodes.run(story, tls=secured.tls("demo/admin/x", ClusterName("other")))
