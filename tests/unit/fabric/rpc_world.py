"""The world of the RPC tests: a few methods, a server of them, and a peer without manners.

Everything runs on real sockets. A test waits for events, never for time to pass; where it must be
shown that something does not happen, it makes calls on another connection of the same server
meanwhile, which proves that the server has had its chance.
"""

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec

import msgspec
import uvloop

from fabric.addresses import Address, TcpAddress, UnixAddress
from fabric.buffers import BufferPool
from fabric.frames import Frame, FrameDecoder, FrameLimits, Kind, Payload, encode_frame
from fabric.ids import BranchName, ClusterName, Role
from fabric.lsn import Lsn
from fabric.rpc import Call, Method, Reply, RpcSettings, encode_request
from fabric.rpc_client import RpcClient
from fabric.rpc_server import RpcServer
from fabric.tls import ClientTls, server_context

STORY_TIMEOUT_S = 60
ANY_PORT = TcpAddress("127.0.0.1", 0)
# So short that a silent peer is noticed within the test, long enough for a busy machine.
IMPATIENT = RpcSettings(heartbeat_ms=50, dead_after_heartbeats=4)

P = ParamSpec("P")


class Text(msgspec.Struct, frozen=True):
    """A request and a response."""

    text: str


class Position(msgspec.Struct, frozen=True):
    """Vocabulary types on the wire."""

    branch: BranchName
    lsn: Lsn


class Size(msgspec.Struct, frozen=True):
    """How large an answer is wanted."""

    payload_bytes: int


ECHO = Method("test.echo", Text, Text)
WAIT = Method("test.wait", Text, Text)
FAIL = Method("test.fail", Text, Text)
WHO = Method("test.who", Text, Text)
MOVE = Method("test.move", Position, Position)
FETCH = Method("test.fetch", Size, Text)


class Handlers:
    """The handlers of a test server, and what has happened to them."""

    def __init__(self) -> None:
        self.error: BaseException = AssertionError("the test has not set an error")
        self.gate = asyncio.Event()
        self.began: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.under_way = 0
        self.under_way_max = 0

    async def echo(self, call: Call, request: Text) -> Reply[Text]:
        """Return what came."""
        return Reply(request, call.payload)

    async def wait(self, call: Call, request: Text) -> Reply[Text]:
        """Wait for the gate."""
        del call
        self.under_way += 1
        self.under_way_max = max(self.under_way, self.under_way_max)
        self.began.put_nowait(request.text)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait(request.text)
            raise
        finally:
            self.under_way -= 1
        return Reply(request)

    async def fail(self, call: Call, request: Text) -> Reply[Text]:
        """Raise the error of the test."""
        del call, request
        raise self.error

    async def who(self, call: Call, request: Text) -> Reply[Text]:
        """Say who the peer is."""
        del request
        return Reply(Text(str(call.peer.identity or call.peer.link)))

    async def move(self, call: Call, request: Position) -> Reply[Position]:
        """Return the position one byte on."""
        del call
        return Reply(Position(request.branch, request.lsn + 1))

    async def fetch(self, call: Call, request: Size) -> Reply[Text]:
        """Return so many zeros."""
        del call
        return Reply(Text("fetched"), bytes(request.payload_bytes))


class World:
    """A server, its handlers and where it listens."""

    def __init__(self, server: RpcServer, handlers: Handlers, address: Address) -> None:
        self.server = server
        self.handlers = handlers
        self.address = address

    def client(
        self, *, settings: RpcSettings | None = None, tls: ClientTls | None = None
    ) -> RpcClient:
        """Make a client of this server."""
        return make_client(self.address, settings=settings, tls=tls)

    async def prove_liveness(self) -> None:
        """Let the server turn its loop a few times, by calling it on another connection."""
        async with self.client() as client:
            for _ in range(5):
                await client.call(ECHO, Text("alive"))


class RawPeer:
    """A peer that sends whatever bytes the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = new_decoder()
        self._frames: list[Frame] = []

    def send(self, *buffers: bytes | bytearray | memoryview) -> None:
        """Write bytes as they are."""
        self.writer.write(b"".join(buffers))

    def request(
        self,
        call_id: int,
        method: str,
        request: msgspec.Struct,
        *,
        payload: Payload = b"",
        timeout_ms: int = 30_000,
    ) -> None:
        """Write a proper request."""
        header = encode_request(method, timeout_ms=timeout_ms, request=request)
        self.send(*encode_frame(Kind.REQUEST, call_id, header, payload))

    async def frame(self) -> Frame:
        """Return the next frame that is not a heartbeat."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.kind is not Kind.HEARTBEAT:
                    return frame
            data = await self.reader.read(65536)
            if not data:
                raise EOFError
            self._frames += self._decoder.feed(data)

    async def closed(self) -> None:
        """Wait until the other side has closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionResetError:
            pass


def in_loop(story: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a test of a coroutine: run it on uvloop, and not for ever."""

    @functools.wraps(story)
    def test(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(asyncio.wait_for(story(*args, **kwargs), STORY_TIMEOUT_S))

    return test


def new_decoder() -> FrameDecoder:
    return FrameDecoder(FrameLimits(), BufferPool(kept_bytes_max=0))


def make_client(
    address: Address, *, settings: RpcSettings | None = None, tls: ClientTls | None = None
) -> RpcClient:
    return RpcClient(address, rng=random.Random(1), settings=settings, tls=tls)


@asynccontextmanager
async def serving(
    address: Address = ANY_PORT,
    *,
    settings: RpcSettings | None = None,
    tls: Any = None,
    cluster: str | None = "blue",
    roles: frozenset[Role] = frozenset({Role.COMPUTE}),
) -> AsyncIterator[World]:
    """Serve all methods; at the end, open the gate and close."""
    handlers = Handlers()
    server = RpcServer(cluster=ClusterName(cluster) if cluster else None, settings=settings)
    server.add(ECHO, handlers.echo, roles=roles)
    server.add(WAIT, handlers.wait, roles=roles)
    server.add(FAIL, handlers.fail, roles=roles)
    server.add(WHO, handlers.who, roles=roles)
    server.add(MOVE, handlers.move, roles=roles)
    server.add(FETCH, handlers.fetch, roles=roles)
    context = server_context(tls) if tls is not None else None
    world = World(server, handlers, await server.listen(address, context))
    try:
        yield world
    finally:
        handlers.gate.set()
        await server.close()


@asynccontextmanager
async def raw_peer(address: Address, *, greeted: bool = True) -> AsyncIterator[RawPeer]:
    """Connect to a server as a peer without manners."""
    if isinstance(address, TcpAddress):
        reader, writer = await asyncio.open_connection(address.host, address.port)
    else:
        reader, writer = await asyncio.open_unix_connection(address.path)
    peer = RawPeer(reader, writer)
    try:
        if greeted:
            assert (await peer.frame()).kind is Kind.HELLO
        yield peer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def raw_server(
    path: Path, behave: Callable[[RawPeer], Coroutine[Any, Any, None]]
) -> AsyncIterator[UnixAddress]:
    """Serve every connection with `behave`, then cut it."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behave(RawPeer(reader, writer))
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_unix_server(connected, path)
    try:
        yield UnixAddress(str(path))
    finally:
        server.close()
        await server.wait_closed()
