"""Computes and the leader of their branch, by calls alone: reports, orders, switchovers, notes, and
the WAL that a branch begins with.

In scope: what a client of log nodes sees of elections. Out of scope: the rules one by one
(tests/unit/log_service/test_election.py), servers that are promoted (test_log_failover.py).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec
import pytest
from integration.log_node_world import (
    GENESIS,
    START,
    Nodes,
    holder,
    leader_name,
    nodes_world,
    until,
)

from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn, Tli
from fabric.rpc_errors import BadRequestError, RetryError, RpcError
from log_service.client import LogClient
from log_service.compute_methods import REPORT, ComputeReport, ComputeState, Orders
from log_service.methods import BEGIN_LOG, BeginLog, Topology
from log_service.record_bodies import NOTE_BYTES_MAX

THREE = ("log-1", "log-2", "log-3")
LONG_MS = 30_000
REPORT_S = 0.1
FIRST_WAL = bytes(range(160))

REPLICA, PRIMARY, DOWN = ComputeState.REPLICA, ComputeState.PRIMARY, ComputeState.DOWN


@pytest.fixture(scope="module")
def shared_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_world(tmp_path_factory.mktemp("nodes"), THREE) as nodes:
        yield nodes


@pytest.fixture
def nodes(shared_nodes: Nodes) -> Nodes:
    shared_nodes.start_all()
    return shared_nodes


@pytest.fixture
def branch(nodes: Nodes) -> BranchName:
    return nodes.new_branch(*THREE)


def report(branch: BranchName, name: str, state: ComputeState, **more: object) -> ComputeReport:
    known = ComputeReport(
        branch=branch, name=NodeName(name), instance=7, state=state, address="tcp://127.0.0.1:1"
    )
    return msgspec.structs.replace(known, **more)


@dataclass
class Computes:
    """What some computes go on saying, and what they were told last."""

    client: LogClient
    saying: dict[str, ComputeReport] = field(default_factory=dict)
    orders: dict[str, Orders] = field(default_factory=dict)

    async def say(self, *reports: ComputeReport) -> None:
        """Have computes report this from now on."""
        for each in reports:
            self.saying[each.name] = each
            with suppress(RpcError):  # nobody leads for a moment; it is said again
                self.orders[each.name] = await self.client.report(each)

    async def go_on(self) -> None:
        """Report for ever."""
        while True:
            await self.say(*self.saying.values())
            await asyncio.sleep(REPORT_S)  # as agents do


@asynccontextmanager
async def reporting(client: LogClient) -> AsyncIterator[Computes]:
    """Computes that report until the end of the block."""
    computes = Computes(client)
    task = asyncio.create_task(computes.go_on())
    try:
        yield computes
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def told(client: LogClient, said: ComputeReport) -> Orders:
    """Report until somebody who leads takes it: a client tries only once."""

    async def attempt() -> Orders | None:
        with suppress(RpcError):
            return await client.report(said)
        return None

    return await until(attempt)


async def until_holder(client: LogClient, branch: BranchName, name: str) -> Topology:
    async def found() -> Topology | None:
        topology = await client.topology(branch)
        return topology if topology.holder and topology.holder.name == name else None

    return await until(found)


# --- Reports --------------------------------------------------------------------------------------


def test_first_replica_becomes_the_holder_and_is_told_so(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        starting = report(branch, "a", ComputeState.STARTING, client_address="h:1", agent_pid=9)
        orders = await told(client, starting)
        assert (orders.holder, orders.epoch, orders.drain) == (None, 0, False)
        (info,) = (await client.computes(branch)).computes
        assert (info.state, info.client_address, info.agent_pid) == ("starting", "h:1", 9)

        watching = asyncio.create_task(
            client.watch_topology(branch, (await client.topology(branch)).version, wait_ms=LONG_MS)
        )
        await told(client, report(branch, "a", REPLICA))
        topology = await watching
        assert topology.holder is not None
        assert (topology.holder.name, topology.holder.instance, topology.epoch) == ("a", 7, 1)
        orders = await told(client, report(branch, "a", REPLICA))
        assert (orders.epoch, orders.holder, orders.epoch_start) == (1, topology.holder, START)
        assert orders.lease_ms > 0

    nodes.run(story)


def test_report_wakes_a_branch_that_rests(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        name = leader_name(await client.topology(branch))

        async def rests() -> bool:
            return (await nodes.known_status(client, name, branch)).is_resting

        await until(rests)
        await told(client, report(branch, "a", DOWN))
        assert await rests()
        await told(client, report(branch, "a", REPLICA))
        await until_holder(client, branch, "a")
        assert not await rests()

    nodes.run(story)


def test_only_the_leader_gives_orders_and_a_client_finds_it(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        topology = await client.topology(branch)
        for info in topology.members:
            if info != topology.leader:
                with pytest.raises(RetryError, match="does not lead"):
                    await client.call_node(info.rpc, REPORT, report(branch, "a", DOWN))
        assert (await told(client, report(branch, "a", DOWN))).node == leader_name(topology)
        await client.transfer(branch)
        after = await told(client, report(branch, "a", DOWN))
        assert after.node != leader_name(topology)
        assert after.term > topology.term

    nodes.run(story)


def test_primary_that_goes_down_is_replaced_at_once(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        async with reporting(client) as computes:
            await computes.say(report(branch, "a", REPLICA))
            await until_holder(client, branch, "a")
            await computes.say(report(branch, "a", PRIMARY, epoch=Epoch(1)))
            await computes.say(report(branch, "b", REPLICA), report(branch, "c", REPLICA))
            assert (await client.topology(branch)).epoch == 1
            await computes.say(report(branch, "a", DOWN))
            assert (await until_holder(client, branch, "b")).epoch == 2

    nodes.run(story)


def test_new_leader_learns_of_the_computes_and_keeps_the_primary(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        async with reporting(client) as computes:
            await computes.say(report(branch, "a", REPLICA))
            await until_holder(client, branch, "a")
            await computes.say(report(branch, "a", PRIMARY, epoch=Epoch(1)))
            await computes.say(report(branch, "b", REPLICA))
            killed = leader_name(await client.topology(branch))
            nodes.by_name[killed].kill()

            async def knows() -> bool:
                found = await client.computes(branch)
                return [info.name for info in found.computes] == ["a", "b"]

            await until(knows)
            assert (await client.topology(branch)).epoch == 1
            await computes.say(report(branch, "a", DOWN))
            await until_holder(client, branch, "b")

    nodes.run(story)


def test_leader_without_a_majority_renews_no_lease(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        await told(client, report(branch, "a", REPLICA))
        topology = await until_holder(client, branch, "a")
        assert topology.leader is not None
        for name in THREE:
            if name != topology.leader.node:
                nodes.by_name[name].kill()
        primary = report(branch, "a", PRIMARY, epoch=Epoch(1))

        async def is_refused() -> bool:
            try:
                await client.call_node(topology.leader.rpc, REPORT, primary)  # type: ignore[union-attr]  # looked above
            except RpcError:
                return True
            return False

        await until(is_refused)

    nodes.run(story)


# --- Switchover -----------------------------------------------------------------------------------


def test_switchover_drains_the_primary_and_waits_for_its_target(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        async with reporting(client) as computes:
            await computes.say(report(branch, "a", REPLICA))
            await until_holder(client, branch, "a")
            await computes.say(report(branch, "a", PRIMARY, epoch=Epoch(1)))
            await computes.say(report(branch, "b", REPLICA), report(branch, "c", REPLICA))
            switching = asyncio.create_task(client.switchover(branch, NodeName("c")))

            async def is_told() -> bool:
                return computes.orders["a"].drain

            await until(is_told)
            assert not computes.orders["c"].drain
            drained = report(
                branch, "a", ComputeState.DRAINED, epoch=Epoch(1), received=START + 100
            )
            await computes.say(drained)
            assert not switching.done()
            await computes.say(report(branch, "c", REPLICA, received=START + 100))
            assert (await switching).epoch == 2
            assert (await client.topology(branch)).holder.name == "c"  # type: ignore[union-attr]  # there is one
            assert (await client.switchover(branch, NodeName("c"))).epoch == 2  # asked again
            with pytest.raises(BadRequestError, match="d cannot become the primary"):
                await client.switchover(branch, NodeName("d"))
            assert (await client.switchover(branch, NodeName("b"), by_force=True)).epoch == 3

    nodes.run(story)


# --- Notes ----------------------------------------------------------------------------------------


def test_notes_are_kept_for_the_next_primary(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        assert await client.read_notes(branch) == ()
        epoch = (await client.grant_epoch(branch, holder("a"))).epoch
        large = bytes(range(256)) * (NOTE_BYTES_MAX // 256)
        await client.set_note(branch, "settings", epoch, b"work_mem = 1MB")
        await client.set_note(branch, "statistics", epoch, large)
        await client.set_note(branch, "empty", epoch, b"")
        newer = (await client.grant_epoch(branch, holder("b"))).epoch
        with pytest.raises(BadRequestError, match="epoch 1 was superseded by epoch 2"):
            await client.set_note(branch, "settings", epoch, b"")
        await client.set_note(branch, "settings", newer, None)
        await client.transfer(branch)
        assert await client.read_notes(branch) == (("empty", b""), ("statistics", large))

    nodes.run(story)


# --- The first WAL --------------------------------------------------------------------------------


@pytest.mark.parametrize("done", ["nothing", "genesis", "epoch", "all"])
def test_branch_begins_with_wal_however_far_an_earlier_attempt_came(
    nodes: Nodes, branch: BranchName, done: str
) -> None:
    if done == "nothing":
        branch = BranchName("unbegun")

    async def story(client: LogClient) -> None:
        addresses = [nodes.address(name) for name in THREE]
        if done == "epoch":
            await client.grant_epoch(branch, None)
        if done == "all":
            await client.create_branch(branch, GENESIS, addresses, FIRST_WAL)
        await client.create_branch(branch, GENESIS, addresses, FIRST_WAL)
        topology = await client.topology(branch)
        assert (topology.epoch, topology.holder, topology.end) == (1, None, START + 160)
        answer = await client.read_wal(branch, tli=Tli(1), lsn=START, bytes_max=1000)
        assert bytes(answer.payload) == FIRST_WAL
        with pytest.raises(BadRequestError, match="begins with other WAL"):
            await client.create_branch(branch, GENESIS, addresses, FIRST_WAL[::-1])
        granted = await client.grant_epoch(branch, holder("a"))
        assert (granted.epoch, granted.end) == (2, START + 160)
        await client.create_branch(branch, GENESIS, addresses, FIRST_WAL)  # long after
        assert (await client.topology(branch)).end == Lsn(START + 160)

    nodes.run(story)


def test_first_wal_is_refused_when_a_holder_is_about_to_write_it(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        await client.grant_epoch(branch, holder("a"))
        begin = BeginLog(branch, GENESIS, FIRST_WAL)
        with pytest.raises(BadRequestError, match="a writes this branch's first WAL"):
            await client.call_leader(branch, BEGIN_LOG, begin)

    nodes.run(story)
