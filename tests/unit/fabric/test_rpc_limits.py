"""Every limit of RPC holds, and back-pressure reaches the sender in both directions."""

import asyncio

import pytest
from unit.fabric.rpc_world import ECHO, WAIT, Size, Text, in_loop, raw_peer, serving

from fabric.frames import Kind
from fabric.rpc import ERROR_DECODER, RpcSettings
from fabric.rpc_errors import BusyError, DeadlineError, UnreachableError

MIB = 1024 * 1024


@in_loop
async def test_a_server_refuses_calls_beyond_the_limit_and_still_hears_cancels() -> None:
    settings = RpcSettings(calls_per_connection_max=2)
    async with serving(settings=settings) as world, raw_peer(world.address) as peer:
        for call_id in (1, 2, 3):
            peer.request(call_id, "test.wait", Text(str(call_id)))
        frame = await peer.frame()
        assert (frame.kind, frame.call_id) == (Kind.ERROR, 3)
        assert ERROR_DECODER.decode(frame.header).code == BusyError.code
        peer.request(4, "test.wait", Text("4"))
        assert (await peer.frame()).call_id == 4
        assert world.handlers.under_way_max == 2


@in_loop
async def test_a_client_waits_when_it_has_as_many_calls_as_the_server_takes() -> None:
    settings = RpcSettings(calls_per_connection_max=2)
    async with serving(settings=settings) as world, world.client() as client:
        calls = [asyncio.create_task(client.call(WAIT, Text(str(n)))) for n in range(7)]
        await world.handlers.began.get()
        world.handlers.gate.set()
        answers = await asyncio.gather(*calls)
        assert [answer.response.text for answer in answers] == [str(n) for n in range(7)]
        assert world.handlers.under_way_max <= 2


@in_loop
async def test_a_call_that_waits_for_its_turn_too_long_fails_unsent() -> None:
    settings = RpcSettings(calls_per_connection_max=1)
    async with serving(settings=settings) as world, world.client() as client:
        first = asyncio.create_task(client.call(WAIT, Text("first")))
        await world.handlers.began.get()
        with pytest.raises(DeadlineError, match="not sent"):
            await client.call(WAIT, Text("second"), timeout_ms=20)
        world.handlers.gate.set()
        await first
        assert world.handlers.began.empty()
        assert (await client.call(ECHO, Text("third"))).response == Text("third")


@in_loop
async def test_a_connection_beyond_the_limit_is_told_why_it_is_refused() -> None:
    async with serving(settings=RpcSettings(connections_max=1)) as world:
        async with raw_peer(world.address), world.client() as client:
            with pytest.raises(UnreachableError, match="limit of 1 connections"):
                await client.call(ECHO, Text(""))
        async with world.client() as client:
            async with asyncio.timeout(30):
                await client.until_connected()


@in_loop
async def test_nothing_is_read_while_too_many_bytes_are_queued() -> None:
    settings = RpcSettings(queued_bytes_max=MIB)
    async with serving(settings=settings) as world, raw_peer(world.address) as peer:
        peer.request(1, "test.wait", Text("1"), payload=bytes(MIB + 1))
        assert await world.handlers.began.get() == "1"
        peer.request(2, "test.wait", Text("2"), payload=bytes(MIB))
        await world.prove_liveness()
        assert world.handlers.began.empty()
        world.handlers.gate.set()
        assert [(await peer.frame()).call_id for _ in range(2)] == [1, 2]


@in_loop
async def test_a_slow_reader_stops_its_own_calls_and_nobody_elses() -> None:
    settings = RpcSettings(write_buffer_bytes_max=MIB)
    async with serving(settings=settings) as world, raw_peer(world.address) as peer:
        # Four answers exceed the buffers of the kernel and ours, the call behind them is not read.
        for call_id in range(1, 65):
            peer.request(call_id, "test.fetch", Size(MIB))
            if call_id % 16 == 0:
                await world.prove_liveness()
        peer.request(65, "test.wait", Text("behind"))
        await world.prove_liveness()
        assert world.handlers.began.empty()
        world.handlers.gate.set()
        answers = [await peer.frame() for _ in range(65)]
        assert {frame.call_id for frame in answers} == set(range(1, 66))
        assert sum(len(frame.payload) for frame in answers) == 64 * MIB


@in_loop
async def test_a_client_waits_while_the_server_does_not_read() -> None:
    limits = RpcSettings(queued_bytes_max=MIB, write_buffer_bytes_max=MIB)
    async with serving(settings=limits) as world, world.client(settings=limits) as client:
        payload = bytes(4 * MIB)
        calls = [asyncio.create_task(client.call(WAIT, Text(str(n)), payload)) for n in range(16)]
        await world.handlers.began.get()
        # 64 MiB is more than the buffers of the kernel take, so the client ends up waiting.
        await world.prove_liveness()
        with pytest.raises(DeadlineError, match="not sent"):
            await client.call(ECHO, Text(""), timeout_ms=200)
        assert world.handlers.under_way == 1
        world.handlers.gate.set()
        await asyncio.gather(*calls)
        assert (await client.call(ECHO, Text("again"))).response == Text("again")
