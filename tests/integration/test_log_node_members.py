"""Members of a branch on log nodes as processes: they come, go, are replaced, take the lead.

In scope: what an answer promises, whoever leads and whatever was away meanwhile. Out of scope: all
else that a client asks (test_log_node.py), the command (test_log_command.py).
"""

import pytest
from integration.log_node_world import (
    FOURTH,
    THREE,
    Nodes,
    holder,
    leader_name,
    member_on,
    until,
)

from fabric.ids import BranchName, NodeName
from fabric.rpc_errors import BadRequestError
from log_service.client import LogClient
from log_service.methods import (
    DROP_REPLICA,
    FOUND_GROUP,
    DropReplica,
    FoundGroup,
)
from log_service.record_bodies import MemberInfo


def test_new_member_has_everything_and_votes(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        await client.grant_epoch(branch, holder("p"))
        await client.add_member(branch, nodes.address(FOURTH))
        topology = await client.topology(branch)
        assert member_on(topology, FOURTH).is_voter
        leader = await nodes.known_status(client, leader_name(topology), branch)

        async def has_all() -> bool:
            status = await nodes.known_status(client, FOURTH, branch)
            return status.commit_index >= leader.commit_index

        await until(has_all)
        assert (await nodes.known_status(client, FOURTH, branch)).topology.epoch == 1

    nodes.run(story)


def test_removed_member_is_gone_and_what_it_had_is_deleted(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        topology = await client.topology(branch)
        gone = next(info for info in topology.members if info != topology.leader)
        with pytest.raises(BadRequestError, match="may be in use: remove it first"):
            await client.drop_replica(gone.rpc, branch, gone.member)
        await client.remove_member(branch, gone.member)
        await client.remove_member(branch, gone.member)
        assert gone not in (await client.topology(branch)).members
        await client.drop_replica(gone.rpc, branch, gone.member)
        assert await nodes.status(client, gone.node, branch) is None
        assert not (nodes.by_name[gone.node].spec.data_path / "groups" / branch).exists()
        await client.grant_epoch(branch, None)

    nodes.run(story)


def test_leader_that_is_removed_hands_over_first(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        topology = await client.topology(branch)
        assert topology.leader is not None
        await client.remove_member(branch, topology.leader.member)
        after = await client.topology(branch)
        assert topology.leader not in after.members
        assert len(after.members) == 2
        await client.grant_epoch(branch, None)

    nodes.run(story)


def test_member_that_was_down_while_the_leader_joined_catches_up(
    nodes: Nodes, branch: BranchName
) -> None:
    async def story(client: LogClient) -> None:
        nodes.by_name["log-3"].kill()
        await client.add_member(branch, nodes.address(FOURTH))
        await client.transfer(branch, NodeName(FOURTH))

        async def leads() -> bool:
            return leader_name(await client.topology(branch)) == FOURTH

        await until(leads)
        granted = await client.grant_epoch(branch, holder("p"))
        leader = await nodes.known_status(client, FOURTH, branch)
        nodes.by_name["log-3"].start()

        async def has_all() -> bool:
            status = await nodes.status(client, "log-3", branch)
            return status is not None and status.commit_index >= leader.commit_index

        await until(has_all)
        known = await nodes.known_status(client, "log-3", branch)
        assert known.topology.epoch == granted.epoch
        assert leader_name(await client.topology(branch)) == FOURTH

    nodes.run(story)


def test_every_member_can_be_replaced(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        await client.grant_epoch(branch, None)
        spare = FOURTH
        for name in THREE:
            gone = member_on(await client.topology(branch), name)
            await client.add_member(branch, nodes.address(spare))
            await client.remove_member(branch, gone.member)
            await client.drop_replica(gone.rpc, branch, gone.member)
            spare = name
        topology = await client.topology(branch)
        assert {info.node for info in topology.members} == {FOURTH, "log-1", "log-2"}
        assert (await client.grant_epoch(branch, None)).epoch == 2

    nodes.run(story)


def test_node_has_one_member_of_a_branch_at_most(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        address = nodes.by_name["log-1"].spec.rpc_address
        info = MemberInfo(99, NodeName("log-1"), address)
        members = (info, *(await client.topology(branch)).members)
        with pytest.raises(BadRequestError, match="has a replica here that is member"):
            await client.call_node(address, FOUND_GROUP, FoundGroup(branch, 99, members))
        with pytest.raises(BadRequestError, match="must be one of the members"):
            await client.call_node(address, FOUND_GROUP, FoundGroup(branch, 98, members))

    nodes.run(story)


def test_lead_goes_where_it_is_wanted(nodes: Nodes, branch: BranchName) -> None:
    async def story(client: LogClient) -> None:
        for name in THREE:
            await client.transfer(branch, NodeName(name))

            async def leads(name: str = name) -> bool:
                return leader_name(await client.topology(branch)) == name

            await until(leads)
        with pytest.raises(BadRequestError, match="log-4 has no member of"):
            await client.transfer(branch, NodeName(FOURTH))

    nodes.run(story)


def test_drop_of_what_is_not_there_is_harmless(nodes: Nodes) -> None:
    address = nodes.by_name["log-1"].spec.rpc_address
    request = DropReplica(BranchName("unknown"), 5)
    nodes.run(lambda client: client.call_node(address, DROP_REPLICA, request))
