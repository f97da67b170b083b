"""One-way messages: their order, their loss with the connection, who may post, and no answer."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fabric.addresses import Address
from fabric.frames import FrameError, Kind, encode_frame
from fabric.ids import ClusterName, Role
from fabric.rpc import Peer, ReceivedPayload
from fabric.rpc_client import RpcClient
from fabric.rpc_server import RpcServer

from .rpc_world import ANY_PORT, in_loop, make_client, raw_peer

CHANNEL = 3


class Recorder:
    """A channel that remembers."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[int, bytes, bytes]] = asyncio.Queue()
        self.lost_connections: asyncio.Queue[int] = asyncio.Queue()

    def received(
        self, peer: Peer, connection_number: int, header: bytes, payload: ReceivedPayload
    ) -> None:
        """Remember, unless the test wants trouble."""
        assert peer.link == "loopback"
        if header == b"bad":
            raise FrameError("a bad header")
        self.messages.put_nowait((connection_number, header, bytes(payload)))

    def lost(self, connection_number: int) -> None:
        """Remember that too."""
        self.lost_connections.put_nowait(connection_number)


@asynccontextmanager
async def serving(recorder: Recorder) -> AsyncIterator[tuple[RpcServer, Address]]:
    server = RpcServer(cluster=ClusterName("blue"))
    server.add_channel(CHANNEL, recorder, roles={Role.LOG})
    address = await server.listen(ANY_PORT)
    try:
        yield server, address
    finally:
        await server.close()


@in_loop
async def test_messages_arrive_whole_and_in_order_whatever_their_size() -> None:
    recorder = Recorder()
    async with serving(recorder) as (_, address):
        async with make_client(address) as client:
            await client.until_connected()
            sizes = [0, 1, 5_000, 200_000, 3]
            for size in sizes:
                payload = [b"x" * (size // 2), b"y" * (size - size // 2)]
                assert client.post(CHANNEL, b"h%d" % size, payload)
            for size in sizes:
                _, header, received = await recorder.messages.get()
                assert header == b"h%d" % size
                assert received == b"x" * (size // 2) + b"y" * (size - size // 2)
        assert await recorder.lost_connections.get() == 1


@in_loop
async def test_nothing_is_posted_without_a_connection_and_the_client_says_when_it_changes() -> None:
    recorder = Recorder()
    changes: asyncio.Queue[bool] = asyncio.Queue()
    async with serving(recorder) as (server, address):
        client = RpcClient(address, rng=random.Random(1), on_change=changes.put_nowait)
        async with client:
            assert not client.post(CHANNEL, b"too early")
            assert await changes.get() is True
            assert client.post(CHANNEL, b"in time")
            await recorder.messages.get()
            await server.close()
            assert await changes.get() is False
            assert not client.post(CHANNEL, b"too late")
    assert recorder.messages.empty()


@in_loop
async def test_an_unknown_channel_or_a_bad_message_ends_the_connection() -> None:
    recorder = Recorder()
    async with serving(recorder) as (_, address):
        for channel, header in ((CHANNEL + 1, b""), (CHANNEL, b"bad")):
            async with raw_peer(address) as peer:
                peer.send(*encode_frame(Kind.MESSAGE, channel, header))
                assert (await peer.frame()).kind is Kind.GOODBYE
                await peer.closed()
    assert recorder.messages.empty()
