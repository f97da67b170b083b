"""One-way messages: their order, their loss with the connection, who may post, and no answer."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fabric.addresses import Address
from fabric.frames import FrameError, Kind, Payload, encode_frame
from fabric.ids import ClusterName, Role
from fabric.rpc import Hello, Peer, ReceivedPayload, RpcSettings, encode_header
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import CallError
from fabric.rpc_server import RpcServer
from fabric.tls import ClientTls, TlsFiles, client_context, server_context

from .certificates import Authority
from .rpc_world import ANY_PORT, RawPeer, in_loop, make_client, raw_peer, raw_server

CHANNEL = 3
LIMIT = 1000
SMALL_HELLO = encode_frame(Kind.HELLO, 0, encode_header(Hello(LIMIT, LIMIT, 1)))


class Recorder:
    """A channel that remembers."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[int, bytes, bytes]] = asyncio.Queue()
        self.lost_connections: asyncio.Queue[int] = asyncio.Queue()

    def received(
        self, peer: Peer, connection_number: int, header: bytes, payload: ReceivedPayload
    ) -> None:
        """Remember, unless the test wants trouble."""
        assert peer.link == "loopback" or peer.identity is not None
        if header == b"bad":
            raise FrameError("a bad header")
        self.messages.put_nowait((connection_number, header, bytes(payload)))

    def lost(self, connection_number: int) -> None:
        """Remember that too."""
        self.lost_connections.put_nowait(connection_number)


@asynccontextmanager
async def serving(
    recorder: Recorder, tls: TlsFiles | None = None
) -> AsyncIterator[tuple[RpcServer, Address]]:
    server = RpcServer(cluster=ClusterName("blue"))
    server.add_channel(CHANNEL, recorder, roles={Role.LOG})
    address = await server.listen(ANY_PORT, None if tls is None else server_context(tls))
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


@in_loop
async def test_only_the_roles_of_a_channel_may_post_to_it(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "tls")
    recorder = Recorder()
    async with serving(recorder, authority.issue("seawall://blue/log/n1")) as (_, address):
        for role in (Role.COMPUTE, Role.LOG):
            files = authority.issue(f"seawall://blue/{role}/x1")
            tls = ClientTls(client_context(files), ClusterName("blue"), Role.LOG)
            changes: asyncio.Queue[bool] = asyncio.Queue()
            client = RpcClient(address, rng=random.Random(1), tls=tls, on_change=changes.put_nowait)
            async with client:
                assert await changes.get() is True
                assert client.post(CHANNEL, b"of %s" % role.encode())
                assert client.post(CHANNEL, b"bad")  # which ends the connection of the other one
                assert await changes.get() is False
        assert (await recorder.messages.get())[1] == b"of log"
        assert recorder.messages.empty()


@in_loop
async def test_what_exceeds_the_limits_of_the_server_is_not_posted(tmp_path: Path) -> None:
    received: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    async def behave(peer: RawPeer) -> None:
        peer.send(*SMALL_HELLO)
        frame = await peer.frame()
        received.put_nowait((len(frame.header), len(frame.payload)))

    wide = memoryview(bytes(LIMIT)).cast("Q")  # its `len` is 125
    async with raw_server(tmp_path / "socket", behave) as address, make_client(address) as client:
        await client.until_connected()
        with pytest.raises(CallError, match="channel 3 has 1001 bytes"):
            client.post(CHANNEL, bytes(LIMIT + 1))
        payloads: list[Payload] = [bytes(LIMIT + 1), [wide, b"x"], [b"", bytes(LIMIT), b"x"]]
        for payload in payloads:
            with pytest.raises(CallError, match="payload of channel 3 has 1001 bytes"):
                client.post(CHANNEL, b"", payload)
        assert client.post(CHANNEL, bytes(LIMIT), [wide])
        assert await received.get() == (LIMIT, LIMIT)


@in_loop
async def test_nothing_is_posted_while_the_peer_does_not_read(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def behave(peer: RawPeer) -> None:
        peer.send(*encode_frame(Kind.HELLO, 0, encode_header(Hello(LIMIT, 2**24, 1))))
        await gate.wait()
        while (await peer.frame()).call_id != CHANNEL + 1:
            pass

    settings = RpcSettings(write_buffer_bytes_max=64 * 1024)
    async with (
        raw_server(tmp_path / "socket", behave) as address,
        make_client(address, settings=settings) as client,
    ):
        await client.until_connected()
        posted = 0
        while client.post(CHANNEL, b"", bytes(32 * 1024)):
            posted += 1
            assert posted < 10_000, "the kernel does not buffer so much"
            await asyncio.sleep(0)
        gate.set()
        # Nobody tells when there is room again; the raw server ends when it has this message.
        while not client.post(CHANNEL + 1, b"at last"):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0)
