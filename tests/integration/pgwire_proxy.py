"""A proxy that takes every frame apart with pgwire and sends on what it puts together again.

What it sends must be the bytes that came; the first difference ends the connection and is a
failure of the test. On replication connections the commands and the stream are decoded as well.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from integration.pgwire_peer import frame_of, same_bytes, stream_frame

from pgwire.copying import CopyData
from pgwire.frames import LENGTH_BYTES, PACKET_KIND, FrameReader
from pgwire.frontend import Query
from pgwire.messages import BACKEND_LIMITS, FRONTEND_LIMITS, decode_frontend, encode
from pgwire.replication import Command, decode_copy_data, format_command, parse_command
from pgwire.startup import (
    GssRequest,
    SslRequest,
    StartupMessage,
    decode_startup,
    encode_startup,
)
from sqlnode.postgres import Postgres

RECEIVE_BYTES = 65_536


@dataclass(slots=True)
class Seen:
    """What passed through a proxy, both ways."""

    messages: Counter[str] = field(default_factory=Counter)
    commands: list[Command] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)


@dataclass(slots=True)
class Connection:
    """One client's connection through the proxy."""

    seen: Seen
    answers_of_one_byte: int = 0  # that the server owes to requests for encryption
    is_replication: bool = False
    client_frames: FrameReader = field(
        default_factory=lambda: FrameReader(FRONTEND_LIMITS, starts_with_packet=True)
    )
    server_frames: FrameReader = field(default_factory=lambda: FrameReader(BACKEND_LIMITS))

    def from_client(self, data: bytes) -> bytes:
        """Return what to send to the server."""
        self.client_frames.feed(data)
        return b"".join([self._client_frame(kind, body) for kind, body in self.client_frames])

    def from_server(self, data: bytes) -> bytes:
        """Return what to send to the client."""
        count = min(self.answers_of_one_byte, len(data))
        self.answers_of_one_byte -= count
        self.server_frames.feed(data[count:])
        frames = [self._server_frame(kind, body) for kind, body in self.server_frames]
        return data[:count] + b"".join(frames)

    def _client_frame(self, kind: int, body: memoryview) -> bytes:
        if kind == PACKET_KIND:
            return self._packet(body)
        message = decode_frontend(kind, body)
        self._note(message, body)
        if self.is_replication and isinstance(message, Query):
            command = parse_command(message.query)
            assert parse_command(format_command(command)) == command
            self.seen.commands.append(command)
        frame = encode(message)
        assert frame == frame_of(kind, body)
        return frame

    def _packet(self, body: memoryview) -> bytes:
        message = decode_startup(body)
        self.seen.messages[type(message).__name__] += 1
        if isinstance(message, (SslRequest, GssRequest)):
            self.answers_of_one_byte += 1
        if isinstance(message, StartupMessage):
            self.is_replication = "replication" in message.parameters
        packet = encode_startup(message)
        assert packet == (LENGTH_BYTES + len(body)).to_bytes(LENGTH_BYTES, "big") + bytes(body)
        return packet

    def _server_frame(self, kind: int, body: memoryview) -> bytes:
        message = same_bytes(kind, body)
        self._note(message, body)
        return encode(message)

    def _note(self, message: object, body: memoryview) -> None:
        self.seen.messages[type(message).__name__] += 1
        if self.is_replication and isinstance(message, CopyData):
            inner = decode_copy_data(body)
            assert stream_frame(inner) == encode(message)
            self.seen.messages[type(inner).__name__] += 1


@asynccontextmanager
async def proxy_to(server: Postgres) -> AsyncIterator[tuple[int, Seen]]:
    """A proxy on a port of loopback, which its clients leave before it ends.

    A frame that was not understood, or not put together again as it was, makes it fail.
    """
    seen = Seen()
    connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[writer] = asyncio.current_task()
        path = str(server.run_dir / f".s.PGSQL.{server.port}")
        server_reader, server_writer = await asyncio.open_unix_connection(path)
        connection = Connection(seen)
        try:
            await asyncio.gather(
                pump(reader, server_writer, connection.from_client),
                pump(server_reader, writer, connection.from_server),
            )
        except ConnectionError:
            pass  # a client or server that was killed
        except Exception as error:  # noqa: BLE001  # reported below, where the test can see it
            seen.failures.append(error)
        finally:
            writer.close()
            server_writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], seen
        # The clients have left, but their last words may still be on the way.
        await asyncio.gather(*filter(None, connections.values()))
    finally:
        listener.close()
        for writer in connections:
            writer.close()
        await asyncio.gather(*filter(None, connections.values()))
    if seen.failures:
        raise seen.failures[0]


async def pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
) -> None:
    """Pass bytes on, changed, until they end."""
    while data := await reader.read(RECEIVE_BYTES):
        writer.write(change(data))
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
