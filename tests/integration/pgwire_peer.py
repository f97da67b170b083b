"""A client of one socket that speaks with a real server through pgwire alone.

Every frame of the server is decoded and encoded again, and must be the same bytes.
"""

import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeAlias

from pgwire.backend import BackendMessage, ReadyForQuery
from pgwire.copying import CopyData
from pgwire.frames import HEADER, LENGTH_BYTES, Buffer, FrameReader
from pgwire.frontend import FrontendMessage, Query, Terminate
from pgwire.messages import BACKEND_LIMITS, decode_backend, encode
from pgwire.replication import (
    HotStandbyFeedback,
    Keepalive,
    StatusUpdate,
    StreamMessage,
    XLogData,
    decode_copy_data,
    encode_feedback,
    encode_keepalive,
    encode_status_update,
    encode_xlog_data_header,
)
from pgwire.startup import MAJOR, StartupMessage, StartupPacket, encode_startup
from sqlnode.postgres import Postgres

TIMEOUT_S = 60.0
RECEIVE_BYTES = 65_536

Messages: TypeAlias = list[BackendMessage]


class Peer:
    """One connection, begun when it is made; `opening` is what the server said to that.

    Nothing is read while something is sent, so do not ask for much in the middle of much.
    """

    def __init__(
        self, server: Postgres, *, minor: int = 0, parameters: Mapping[str, str] | None = None
    ) -> None:
        self._socket = connected(server)
        self._reader = FrameReader(BACKEND_LIMITS)
        start = StartupMessage(MAJOR, minor, {"user": "postgres", **(parameters or {})})
        self._socket.sendall(encode_startup(start))
        self.opening = self.answers()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, *messages: FrontendMessage) -> None:
        """Send messages in one piece."""
        self._socket.sendall(b"".join(map(encode, messages)))

    def send_bytes(self, data: bytes) -> None:
        """Send what is encoded already."""
        self._socket.sendall(data)

    def receive(self) -> BackendMessage:
        """Wait for the next message."""
        kind, body = self.receive_frame()
        return same_bytes(kind, body)

    def receive_frame(self) -> tuple[int, memoryview]:
        """Wait for the next frame, whatever is in it."""
        while (frame := next(iter(self._reader), None)) is None:
            data = self._socket.recv(RECEIVE_BYTES)
            assert data, "the server closed the connection"
            self._reader.feed(data)
        return frame

    def receive_stream(self) -> StreamMessage:
        """What is in the next frame, which must be CopyData."""
        kind, body = self.receive_frame()
        assert isinstance(same_bytes(kind, body), CopyData)
        message = decode_copy_data(body)
        assert stream_frame(message) == frame_of(kind, body)
        return message

    def answers(self, last: type[BackendMessage] = ReadyForQuery) -> Messages:
        """Everything up to and including a message of this class."""
        found = [self.receive()]
        while not isinstance(found[-1], last):
            found.append(self.receive())
        return found

    def ask(self, *messages: FrontendMessage) -> Messages:
        """Send messages; return everything up to ReadyForQuery."""
        self.send(*messages)
        return self.answers()

    def query(self, text: str) -> Messages:
        """Send a Query; return everything up to ReadyForQuery."""
        return self.ask(Query(text))

    def leave(self) -> None:
        """Say good-bye; the server closes."""
        self.send(Terminate())
        assert self._socket.recv(1) == b""


def connected(server: Postgres) -> socket.socket:
    """A socket to a server, with a deadline for everything."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(TIMEOUT_S)
    connection.connect(str(server.run_dir / f".s.PGSQL.{server.port}"))
    return connection


def send_packet(server: Postgres, packet: StartupPacket) -> bytes:
    """Send one packet on a connection of its own; return what comes until the server closes."""
    with connected(server) as connection:
        connection.sendall(encode_startup(packet))
        answer = b""
        while data := connection.recv(RECEIVE_BYTES):
            answer += data
        return answer


def same_bytes(kind: int, body: Buffer) -> BackendMessage:
    """The message of a server's frame, which must encode to the same frame."""
    message = decode_backend(kind, body)
    assert encode(message) == frame_of(kind, body)
    return message


def frame_of(kind: int, body: Buffer) -> bytes:
    """The frame as it came."""
    return HEADER.pack(kind, LENGTH_BYTES + len(body)) + bytes(body)


def stream_frame(message: StreamMessage) -> bytes:
    """The frame of a replication message."""
    match message:
        case XLogData(start, end, sent_us, data):
            return encode_xlog_data_header(start, end, sent_us, len(data)) + bytes(data)
        case Keepalive(end, sent_us, reply_requested):
            return encode_keepalive(end, sent_us, reply_requested)
        case StatusUpdate(write, flush, apply, sent_us, reply_requested):
            return encode_status_update(write, flush, apply, sent_us, reply_requested)
        case HotStandbyFeedback():
            return encode_feedback(message)


def of_class(messages: Messages, wanted: type[BackendMessage]) -> Messages:
    """Those of one class."""
    return [message for message in messages if isinstance(message, wanted)]
