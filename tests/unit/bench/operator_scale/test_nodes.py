"""The benchmark's nodes, as the operator sees them, and what a glance of it asks of them.

The first half: they are founded and answer as a healthy cluster. The second: an operator that
rests asks less, and misses nothing of what it acts on.
"""

from __future__ import annotations

import asyncio

import pytest
from unit.bench.operator_scale.nodes_world import COMPUTES, LOGS, STORAGES, nodes_world
from unit.fabric.rpc_world import in_loop

from fabric.ids import NodeName
from kube_operator.database import shape_of


@in_loop
async def test_nodes_are_empty_until_they_are_founded() -> None:
    async with nodes_world() as world:
        view = await world.database.look()
        assert view.log_nodes == dict.fromkeys(LOGS)
        assert view.storage_nodes == dict.fromkeys(STORAGES)
        assert view.topology is None


@in_loop
async def test_founded_nodes_are_a_healthy_cluster() -> None:
    async with nodes_world() as world:
        await world.found()
        view = await world.database.look()
        assert view.primary is not None
        assert (view.primary.name, *view.replicas) == COMPUTES
        assert view.leader is not None
        assert [one.is_active for one in view.leader.members] == [True] * 3
        assert all(view.storage_nodes.values())


@in_loop
async def test_answers_differ_in_how_far_wal_is_alone() -> None:
    async with nodes_world() as world:
        await world.found()
        one, other = await world.database.look(), await world.database.look()
        assert one != other
        assert shape_of(one) == shape_of(other)


@in_loop
async def test_a_change_of_the_topology_is_told_to_those_who_wait() -> None:
    async with nodes_world() as world:
        known = world.cluster.topology(NodeName(LOGS[0])).version
        waiting = asyncio.create_task(world.cluster.until_other(known, 60_000))
        await asyncio.sleep(0)
        assert not waiting.done()
        world.cluster.changed()
        await waiting


# --- A glance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("leading", range(3))
@in_loop
async def test_a_glance_asks_the_leader_and_sees_the_same_as_a_look(leading: int) -> None:
    async with nodes_world() as world:
        world.cluster.leading = leading
        await world.found()
        known = await world.database.look()
        world.called()
        glanced = await world.database.glance(known)
        assert world.called() == {"log.status": 1, "log.computes": 1}
        assert shape_of(glanced) == shape_of(known)
        assert glanced.primary is not None


@in_loop
async def test_who_rests_keeps_the_connection_of_a_glance() -> None:
    async with nodes_world() as world:
        await world.found()
        known = await world.database.look()
        before = dict(world.database._clients)
        await world.database.rest(known)
        (target,) = world.database._clients
        leader = known.leader_node
        assert target == world.nodes().reach[f"tcp://{leader}:7400"]
        await world.database.glance(known)
        assert world.database._clients == {target: before[target]}, "it was not made anew"
        assert shape_of(await world.database.look()) == shape_of(known), "and all others can be"


@in_loop
async def test_a_glance_sees_what_the_leader_says_of_others() -> None:
    async with nodes_world() as world:
        await world.found()
        known = await world.database.look()
        world.cluster.computes.pop()
        glanced = await world.database.glance(known)
        assert glanced.replicas == ()
        assert shape_of(glanced) != shape_of(known)


@in_loop
async def test_a_glance_sees_that_the_leader_is_gone() -> None:
    async with nodes_world() as world:
        await world.found()
        known = await world.database.look()
        await world.servers[known.leader_node].close()
        glanced = await world.database.glance(known)
        assert glanced.topology is None
        assert known.leader_node not in glanced.log_nodes
        assert shape_of(glanced) != shape_of(known)


@in_loop
async def test_a_glance_sees_that_another_one_leads() -> None:
    async with nodes_world() as world:
        await world.found()
        known = await world.database.look()
        world.cluster.leading += 1
        world.cluster.changed()
        glanced = await world.database.glance(known)
        assert glanced.topology is None
        assert shape_of(glanced) != shape_of(known)
        assert (await world.database.look()).leader_node != known.leader_node


@in_loop
async def test_a_glance_tries_the_gateways() -> None:
    async with nodes_world() as world:
        await world.found()
        door = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        gateways = {"pg-gateway-x": door.sockets[0].getsockname()[:2]}
        await world.database.meet(world.nodes(gateways=gateways))
        known = await world.database.look()
        assert known.gateways == {"pg-gateway-x": True}
        door.close()
        await door.wait_closed()
        glanced = await world.database.glance(known)
        assert glanced.gateways == {"pg-gateway-x": False}


@in_loop
async def test_without_a_leader_a_glance_is_a_look() -> None:
    async with nodes_world() as world:
        known = await world.database.look()
        await world.found()
        assert (await world.database.glance(known)).topology is not None


@in_loop
async def test_who_was_at_rest_can_have_all_connections_before_it_looks() -> None:
    async with nodes_world() as world:
        await world.found()
        known = await world.database.look()
        await world.database.rest(known)
        await world.database.reconnect()
        clients = dict(world.database._clients)
        assert len(clients) == len(LOGS) + len(STORAGES)
        assert shape_of(await world.database.look()) == shape_of(known)
        assert world.database._clients == clients


@in_loop
async def test_a_leader_that_does_not_name_the_computes_says_nothing_of_them() -> None:
    async with nodes_world() as world:
        await world.found()
        known = await world.database.look()
        world.cluster.refuses_computes = True
        for view in (await world.database.look(), await world.database.glance(known)):
            assert view.leader is not None
            assert view.topology is None, "a plan would take all labels away"
