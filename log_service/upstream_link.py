"""One replication connection to a server, as the event loop sees it; a thin shell of asyncio.

    await link.ask_for_tls(); await link.start_tls(...)   if wanted
    await link.log_in(handshake)
    answer = await link.query(text)                       rows, as often as needed
    await link.stream(text, start, handler)               WAL, until it or the connection ends

The server answers one thing at a time, and what the next bytes mean depends on what was asked: that
is `_Phase`. The first thing that goes wrong ends the connection, is remembered, and is told once:
to the call that waits, else to the handler of a stream, else to the next call.

Bytes are cut and checked in wal_receiver.py; what the commands mean is in replication_client.py.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol, TypeAlias, cast

from fabric.lsn import Lsn, Tli
from pgwire.backend import (
    BackendMessage,
    CommandComplete,
    DataRow,
    ErrorResponse,
    NoticeResponse,
    ParameterStatus,
    ReadyForQuery,
    RowDescription,
)
from pgwire.client_handshake import ClientHandshake, ServerRefusedError
from pgwire.copying import CopyBothResponse, CopyDone
from pgwire.errors import ProtocolError
from pgwire.frontend import Query, Terminate
from pgwire.messages import decode_backend, encode
from pgwire.replication import encode_status_update, postgres_us
from pgwire.scram import ScramError
from pgwire.startup import ACCEPTED, SslRequest, encode_startup

from .wal_receiver import Piece, WalReceiver

Row: TypeAlias = tuple[bytes | None, ...]

ROWS_MAX: Final = 16  # every command answers with one at most
TICKS_OF_SILENCE: Final = 3  # the first may be a part of one, the second asks, the third gives up


class ConnectionLostError(Exception):
    """There is no connection (any more), for the reason that the text gives: connect again."""


class WalHandler(Protocol):
    """Whoever wants the WAL of a stream."""

    def on_wal(self, pieces: list[Piece]) -> None:
        """Take the WAL of one burst: positions and bytes, without a gap to the burst before.

        The bytes are the handler's: they never change. Each piece keeps its chunk in memory.
        """

    def on_end(self, next_tli: Tli | None, start: Lsn) -> None:
        """Go elsewhere: the timeline ends here, and `next_tli` goes on at `start`.

        The client takes commands again. None: the server ended the stream and named no timeline.
        """

    def on_lost(self, reason: str) -> None:
        """Connect again: the stream broke. Called at most once, and not after `close`."""


@dataclass(slots=True)
class Answer:
    """What the server said to one command."""

    rows: list[Row] = field(default_factory=list)
    error: ErrorResponse | None = None
    streams: bool = False


_EXPECTED: Final = (ConnectionLostError, ProtocolError, ScramError, ServerRefusedError)


class _Phase(Enum):
    """What the next bytes of the server belong to."""

    TLS_ANSWER = auto()
    TLS = auto()  # a handshake that asyncio carries out; none of the bytes come here
    LOGIN = auto()
    IDLE = auto()
    COMMAND = auto()
    STREAM = auto()
    STREAM_END = auto()  # what the server says after the last WAL
    CLOSED = auto()


class Link(asyncio.BufferedProtocol):
    """The protocol object of one transport."""

    def __init__(
        self, receiver: WalReceiver, *, silence_ms_max: int, clock: Callable[[], float]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._receiver = receiver
        self._tick_s = silence_ms_max / TICKS_OF_SILENCE / 1000
        self._silence_ms_max = silence_ms_max
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._phase = _Phase.IDLE
        self._handshake: ClientHandshake | None = None
        self._answer = Answer()
        self._waiter: asyncio.Future[Answer] | None = None
        self._handler: WalHandler | None = None  # Invariant: set while a stream begins, is, or ends
        self._failure: Exception = ConnectionLostError("the connection is closed")
        self._reported = Lsn(0)
        self._is_writable = True
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._has_received = self._is_asked = False

    # What the client uses.

    @property
    def is_open(self) -> bool:
        """Whether the connection is there."""
        return self._phase is not _Phase.CLOSED

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of an open connection; raises why there is none."""
        if self._transport is None or self._phase is _Phase.CLOSED:
            raise self._failure
        return self._transport

    async def ask_for_tls(self) -> None:
        """Return if the server agrees to go on in TLS."""
        await self._exchange(_Phase.TLS_ANSWER, encode_startup(SslRequest()))

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        """Carry out the handshake of TLS."""
        transport = await self._loop.start_tls(
            self.transport, self, context, server_hostname=server_hostname
        )
        if transport is None or self._phase is _Phase.CLOSED:
            raise ConnectionLostError("the server closed the connection in the TLS handshake")
        self._transport = transport

    async def log_in(self, handshake: ClientHandshake) -> None:
        """Return when the server takes commands."""
        self._handshake = handshake
        await self._exchange(_Phase.LOGIN, handshake.start())

    async def query(self, text: str) -> Answer:
        """Return the answer to a command; ServerRefusedError if it is an error."""
        if self._phase not in {_Phase.IDLE, _Phase.CLOSED}:
            raise RuntimeError(f"{text}: a replication connection does one thing at a time")
        answer = await self._exchange(_Phase.COMMAND, encode(Query(text)))
        if answer.error is not None:
            raise ServerRefusedError(answer.error)
        return answer

    async def stream(self, text: str, start: Lsn, handler: WalHandler) -> None:
        """Begin a stream of WAL.

        The handler may get WAL, and even learn of the end, before this returns.
        """
        self._receiver.expect(start)
        self._reported = Lsn(0)
        self._handler = handler
        try:
            answer = await self.query(text)
            if not answer.streams:  # it starts exactly where the timeline ended
                self._end_stream(answer)
        except ProtocolError as error:
            self.fail(error)
            raise
        finally:
            if self._phase in {_Phase.IDLE, _Phase.CLOSED}:
                self._handler = None

    def report(self, flush: Lsn) -> None:
        """Tell the server that WAL up to `flush` is safe, unless it knows already."""
        if flush > self._reported:
            self._reported = flush
            self._send_status()

    def pause_reading(self) -> None:
        """Let the server's sender wait."""
        if not self._is_paused and self.is_open:
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""
        if self._is_paused and self.is_open:
            self._is_paused = False
            self._has_received = True  # nothing could be heard until now
            self.transport.resume_reading()

    def fail(self, error: Exception) -> None:
        """End the connection at once and tell whoever waits; only the first reason counts."""
        if self._phase is _Phase.CLOSED:
            return
        if self._transport is not None:
            self._transport.abort()
        self._end(error)

    def close(self) -> None:
        """Take leave. A call that waits gets an error; the handler hears nothing any more."""
        self._handler = None
        can_say_it = self._phase in {_Phase.IDLE, _Phase.COMMAND, _Phase.STREAM}
        if can_say_it and self._transport is not None and self._is_writable:
            self._transport.write(encode(Terminate()))
            self._transport.close()
            self._end(ConnectionLostError("the connection was closed by us"))
        else:
            self.fail(ConnectionLostError("the connection was closed by us"))

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        # A cast, because the transports of uvloop are asyncio's only in behaviour.
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Let the kernel write where the WAL will stay."""
        del sizehint  # the receiver knows better
        return self._receiver.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what is complete now."""
        if self._phase is _Phase.CLOSED:
            return  # a closing TLS transport still delivers what had arrived
        self._has_received = True
        self._receiver.received(nbytes)
        try:
            self._drain()
        except Exception as error:
            self.fail(error)
            if not isinstance(error, _EXPECTED):
                raise  # a mistake of ours or the handler's, which the event loop reports

    def pause_writing(self) -> None:
        """Hold reports back while the server does not read them."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """Send the newest of them."""
        self._is_writable = True
        self._send_status()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        if self._phase is _Phase.COMMAND and self._answer.error is not None:
            self._end(ServerRefusedError(self._answer.error))  # it said why, and closed
        else:
            default = "the server closed the connection"
            self._end(ConnectionLostError(f"the connection broke: {error}" if error else default))
        self._transport = None

    # Bytes of the server.

    def _drain(self) -> None:
        if self._phase is _Phase.TLS_ANSWER:
            self._take_tls_answer()
        receiver = self._receiver
        while self._phase is not _Phase.CLOSED:
            if self._phase is _Phase.STREAM:
                self._take_wal()
            frame = receiver.frame()
            if frame is None:
                break
            self._take_frame(*frame)

    def _take_wal(self) -> None:
        pieces = self._receiver.wal()
        if pieces:
            assert self._handler is not None, "a stream has a handler"
            self._handler.on_wal(pieces)
        if self._receiver.take_reply_request():
            self._send_status()

    def _take_tls_answer(self) -> None:
        if self._receiver.take_byte() != ACCEPTED[0]:
            raise ConnectionLostError("the server does not speak TLS: set ssl = on there")
        if not self._receiver.is_empty:
            raise ProtocolError("the server sent something in clear text before TLS began")
        self._settle(_Phase.TLS)

    def _take_frame(self, kind: int, body: memoryview) -> None:
        if self._phase is _Phase.LOGIN:
            self._take_login(kind, body)
            return
        message = decode_backend(kind, body)
        if isinstance(message, NoticeResponse | ParameterStatus):
            return
        if self._phase in {_Phase.COMMAND, _Phase.STREAM_END}:
            self._take_answer(message)
        elif isinstance(message, ErrorResponse):
            raise ConnectionLostError(str(ServerRefusedError(message)))
        elif self._phase is _Phase.STREAM:
            self._take_leave(message)
        else:
            raise _unexpected(message)

    def _take_login(self, kind: int, body: memoryview) -> None:
        assert self._handshake is not None, "the phase says so"
        data = self._handshake.receive(kind, body)
        if data:
            self.transport.write(data)
        if self._handshake.is_done:
            self._settle(_Phase.IDLE)

    def _take_answer(self, message: BackendMessage) -> None:
        answer = self._answer
        match message:
            case RowDescription() | CommandComplete():
                pass
            case DataRow(values) if len(answer.rows) < ROWS_MAX:
                answer.rows.append(values)
            case ErrorResponse():
                answer.error = message
            case CopyBothResponse() if self._phase is _Phase.COMMAND and self._handler is not None:
                answer.streams = True
                self._settle(_Phase.STREAM)
                self._start_ticking()
            case ReadyForQuery() if self._phase is _Phase.COMMAND:
                self._settle(_Phase.IDLE)
            case ReadyForQuery():
                self._end_stream(answer)
            case _:
                raise _unexpected(message)

    def _take_leave(self, message: BackendMessage) -> None:
        match message:
            case CopyDone():
                self.transport.write(encode(CopyDone()))
                self._phase, self._answer = _Phase.STREAM_END, Answer()
            case CommandComplete():
                # So a walsender ends that shuts down: all WAL was sent, and reported as safe.
                raise ConnectionLostError("the server shut down, after it had sent all of its WAL")
            case _:
                raise _unexpected(message)

    def _end_stream(self, answer: Answer) -> None:
        if answer.error is not None:
            raise ConnectionLostError(str(ServerRefusedError(answer.error)))
        handler, position = self._handler, self._receiver.position
        assert handler is not None, "a stream has a handler"
        next_timeline = (None, position) if not answer.rows else parse_next(answer.rows[0])
        self._stop_ticking()
        self._phase, self._handler = _Phase.IDLE, None
        handler.on_end(*next_timeline)

    # Asking and telling.

    async def _exchange(self, phase: _Phase, data: bytes) -> Answer:
        """Send something and wait for all of its answer."""
        self.transport.write(data)
        self._phase, self._answer = phase, Answer()
        waiter: asyncio.Future[Answer] = self._loop.create_future()
        self._waiter = waiter
        try:
            return await waiter
        except asyncio.CancelledError:
            # The answer may still come, and would be taken for that of the next command.
            self.fail(ConnectionLostError("a call was cancelled before it was answered"))
            raise

    def _settle(self, phase: _Phase) -> None:
        """End an exchange: its answer is complete."""
        self._phase = phase
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(self._answer)

    def _end(self, error: Exception) -> None:
        if self._phase is _Phase.CLOSED:
            return
        self._phase, self._failure = _Phase.CLOSED, error
        self._stop_ticking()
        handler, self._handler = self._handler, None
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            if not waiter.done():
                waiter.set_exception(error)
        elif handler is not None:
            handler.on_lost(str(error))

    def _send_status(self, *, asks: bool = False) -> None:
        if self._phase is _Phase.STREAM and self._is_writable:
            lsn, now_us = self._reported, postgres_us(self._clock())
            self.transport.write(encode_status_update(lsn, lsn, Lsn(0), now_us, asks))

    # Life signs: a report every tick keeps the server patient, and asks it when it is silent.

    def _start_ticking(self) -> None:
        self._has_received, self._is_asked = True, False
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    def _stop_ticking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        is_silent = not self._has_received and not self._is_paused
        if is_silent and self._is_asked:
            silence = f"the server has been silent for {self._silence_ms_max} ms"
            self.fail(ConnectionLostError(silence))
            return
        self._is_asked, self._has_received = is_silent, False
        self._send_status(asks=is_silent)
        self._timer = self._loop.call_later(self._tick_s, self._tick)


def texts(row: Row) -> list[str]:
    """Return the values of a row, but for NULL; ValueError if one is no text."""
    return [value.decode() for value in row if value is not None]


def parse_next(row: Row) -> tuple[Tli, Lsn]:
    """Read which timeline goes on where, as the server says at the end of a stream."""
    try:
        next_tli, start = texts(row)
        return Tli.parse(next_tli), Lsn.parse(start)
    except ValueError as error:
        raise ProtocolError("the server did not name a timeline and where it begins") from error


def _unexpected(message: BackendMessage) -> ProtocolError:
    return ProtocolError(f"the server sent {type(message).__name__} out of turn")
