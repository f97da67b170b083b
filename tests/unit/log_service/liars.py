"""Servers whose end of every connection a test plays, to lie to the replication client.

A story gets the address of a server and `arrive`, which returns the server's end of the next
connection; `meet` and `meet_streaming` begin with a client that believes it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from unit.log_service.wal_recorder import Recorder, run

from fabric.addresses import TcpAddress, UnixAddress
from fabric.lsn import Lsn, Tli
from log_service.replication_client import ReplicationClient, ReplicationSettings, Upstream
from pgwire.backend import BackendMessage
from pgwire.copying import CopyBothResponse
from pgwire.frames import FrameReader
from pgwire.frontend import Query
from pgwire.messages import FRONTEND_LIMITS, decode_frontend, encode
from pgwire.replication import StatusUpdate, decode_copy_data, encode_xlog_data_header
from pgwire.server_handshake import ServerHandshake, Trust
from pgwire.startup import SslRequest, StartupMessage, decode_startup

NAME = "walog"
START = Lsn(0x1000000)
TLI = Tli(1)


class Liar:
    """The server's end of one connection, played by the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader(FRONTEND_LIMITS)
        self._ready: list[tuple[int, bytes]] = []

    def send(self, *parts: bytes | BackendMessage) -> None:
        """Send messages and bytes in one write."""
        data = [part if isinstance(part, bytes) else encode(part) for part in parts]
        self._writer.write(b"".join(data))

    async def hang_up(self) -> None:
        """Close, and wait until it is done."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def startup(self) -> StartupMessage | SslRequest:
        """Read a packet before the login."""
        size = int.from_bytes(await self._reader.readexactly(4))
        packet = decode_startup(await self._reader.readexactly(size - 4))
        assert isinstance(packet, StartupMessage | SslRequest)
        return packet

    async def let_in(self) -> StartupMessage:
        """Carry out a login without a password."""
        startup = await self.startup()
        assert isinstance(startup, StartupMessage)
        self.send(ServerHandshake(startup, Trust(), random_bytes=bytes).start())
        return startup

    async def frame(self) -> tuple[int, bytes]:
        """Return the client's next frame."""
        while not self._ready:
            data = await self._reader.read(65536)
            if not data:
                raise EOFError
            self._frames.feed(data)
            self._ready += [(kind, bytes(body)) for kind, body in self._frames]
        return self._ready.pop(0)

    async def query(self) -> str:
        """Return the client's next command."""
        message = decode_frontend(*await self.frame())
        assert isinstance(message, Query)
        return message.query

    async def status(self) -> StatusUpdate:
        """Return the client's next status update."""
        kind, body = await self.frame()
        assert kind == ord("d")
        message = decode_copy_data(body)
        assert isinstance(message, StatusUpdate)
        return message


Arrive = Callable[[], Coroutine[Any, Any, Liar]]
Story = Callable[[Upstream, Arrive], Coroutine[Any, Any, None]]


class Den:
    """Where liars are made, one for each connection."""

    def __init__(self) -> None:
        self._liars: list[Liar] = []
        self._arrived: asyncio.Queue[Liar] = asyncio.Queue()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        liar = Liar(reader, writer)
        self._liars.append(liar)
        self._arrived.put_nowait(liar)

    async def arrive(self) -> Liar:
        """Return the next liar, as soon as the client has connected."""
        return await self._arrived.get()

    async def close(self) -> None:
        """Hang up everywhere."""
        for liar in self._liars:
            await liar.hang_up()


def with_liar(story: Story, path: Path) -> None:
    """Run a story with the address of a server whose every connection the story plays."""

    async def main() -> None:
        den = Den()
        address = UnixAddress(str(path))
        async with await asyncio.start_unix_server(den.accept, path):
            try:
                upstream = Upstream(address=address, user="ada", application_name=NAME)
                await story(upstream, den.arrive)
            finally:
                await den.close()

    run(main)


def over_tcp(story: Story) -> None:
    """The same over TCP: there is no TLS on a Unix socket."""

    async def main() -> None:
        den = Den()
        async with await asyncio.start_server(den.accept, "127.0.0.1", 0) as server:
            address = TcpAddress("127.0.0.1", server.sockets[0].getsockname()[1])
            try:
                upstream = Upstream(address=address, user="ada", application_name=NAME)
                await story(upstream, den.arrive)
            finally:
                await den.close()

    run(main)


async def meet(
    upstream: Upstream, arrive: Arrive, **settings: int
) -> tuple[ReplicationClient, Liar]:
    """A client that is logged in, and the liar that it believes."""
    connecting = asyncio.create_task(
        ReplicationClient.connect(upstream, ReplicationSettings(**settings), clock=lambda: 1e9)
    )
    liar = await arrive()
    await liar.let_in()
    return await connecting, liar


async def meet_streaming(
    upstream: Upstream, arrive: Arrive, **settings: int
) -> tuple[ReplicationClient, Liar, Recorder]:
    """The same, after START_REPLICATION."""
    client, liar = await meet(upstream, arrive, **settings)
    recorder = Recorder(client, reports=False)
    starting = asyncio.create_task(client.start(slot="log", lsn=START, tli=TLI, handler=recorder))
    assert await liar.query() == 'START_REPLICATION SLOT "log" PHYSICAL 0/1000000 TIMELINE 1'
    liar.send(CopyBothResponse())
    await starting
    return client, liar, recorder


def wal(start: Lsn, data: bytes) -> bytes:
    return encode_xlog_data_header(start, start, 0, len(data)) + data
