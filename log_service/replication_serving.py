"""An admitted reader: its commands, and the streams of WAL between them.

    query ──► answer                                    any number of times
    START_REPLICATION ──► copy both ways ──► end of stream, then queries again

A stream ends when its timeline did (we send CopyDone, the reader answers it), or when the reader
wants it to (the other way round). Then the reader asks what to do next over the same connection,
which is why a promotion costs it no reconnect.

WAL is pushed by `pump`, which is called whenever something may have changed: more is committed, the
gate has moved, the peer's socket has room again. It stops when there is nothing to send, when
enough waits in the write buffer, or when a piece of WAL has to be fetched from somewhere slow.

Invariant: at most one fetch is under way, and while it is only keepalives are sent.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from fabric.frames import Buffer
from fabric.lsn import Lsn
from pgwire.copying import CopyBothResponse, CopyData, CopyDone
from pgwire.errors import CommandError, ProtocolError
from pgwire.frames import capped
from pgwire.frontend import AuthenticationResponse, Query, Terminate
from pgwire.messages import FRONTEND_LIMITS, decode_frontend, encode, kind_of
from pgwire.replication import StartReplication, parse_command

from .replication_answers import (
    RefusedError,
    answer,
    checked_start,
    end_of_stream,
    refusal,
    removed,
)
from .replication_source import Gate, StandbyStatus, WalRemovedError, WalSource
from .replication_stream import DivergedError, WalStream

# The longest frame: a query. A standby's reports have 40 bytes, a command some 100.
FRAME_BYTES_MAX: Final = 8 * 1024

_QUERY: Final = kind_of(Query)
_TERMINATE: Final = kind_of(Terminate)
_COPY_DATA: Final = kind_of(CopyData)
_COPY_DONE: Final = kind_of(CopyDone)
LIMITS: Final = {
    kind: limit
    for kind, limit in capped(FRONTEND_LIMITS, FRAME_BYTES_MAX).items()
    if kind in {_QUERY, _TERMINATE, _COPY_DATA, _COPY_DONE, kind_of(AuthenticationResponse)}
}

log = structlog.get_logger()


class Link(Protocol):
    """The connection, as far as this module needs it."""

    def write(self, *buffers: Buffer) -> None:
        """Send bytes. The buffers must not change afterwards."""

    @property
    def is_writable(self) -> bool:
        """Whether little enough waits to be sent, and the connection is open."""

    def fail(self, sqlstate: str, message: str) -> None:
        """Tell the peer why, and close."""

    def close(self) -> None:
        """Close when what was written is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Who was admitted, and what it gets."""

    session: int
    group: str
    application_name: str
    peer: str
    source: WalSource
    gate: Gate | None


class Serving:
    """The queries and streams of one reader."""

    def __init__(self, reader: Reader, link: Link, *, now_us: Callable[[], int]) -> None:
        self.reader = reader
        self._link = link
        self._now_us = now_us
        self._stream: WalStream | None = None
        self._copy_done_sent = False
        self._keepalive_owed = False
        self._fetching: asyncio.Future[Sequence[Buffer]] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def is_streaming(self) -> bool:
        """Whether a copy is under way."""
        return self._stream is not None

    def status(self) -> StandbyStatus | None:
        """Where the reader is; None while it does not stream."""
        stream, reader = self._stream, self.reader
        if stream is None:
            return None
        return StandbyStatus(
            session=reader.session,
            group=reader.group,
            application_name=reader.application_name,
            peer=reader.peer,
            tli=stream.tli,
            sent=stream.sent,
            write=stream.write,
            flush=stream.flush,
            apply=stream.apply,
            gate=None if reader.gate is None else reader.gate.limit,
        )

    def receive(self, kind: int, body: memoryview) -> None:
        """Take one frame; ProtocolError if it has no place here."""
        if kind == _COPY_DATA and self._stream is not None:
            if self._stream.receive(body):
                self._keepalive_owed = True
                self.pump()
        elif kind == _COPY_DONE and self._stream is not None:
            self._reader_is_done()
        elif kind == _TERMINATE:
            self._link.close()
        elif kind == _QUERY and self._stream is None:
            self._query(decode_frontend(kind, body))
        else:
            where = "a stream" if self.is_streaming else "a replication session"
            raise ProtocolError(f"a message of kind {chr(kind)!r} has no place in {where}")

    def pump(self) -> None:
        """Send what there is to send."""
        if self._stream is None or self._copy_done_sent:
            return
        if self._keepalive_owed and self._link.is_writable:
            self._keepalive_owed = False
            self._link.write(self._stream.keepalive(reply_requested=False))
        if self._fetching is None:
            self._advance(self._stream)

    def keepalive(self, *, reply_requested: bool) -> None:
        """Tell the reader that we are here."""
        if self._stream is not None and not self._copy_done_sent and self._link.is_writable:
            self._link.write(self._stream.keepalive(reply_requested=reply_requested))

    def end(self) -> None:
        """Let go of everything; the connection is gone."""
        self._end_stream()

    # Queries.

    def _query(self, message: object) -> None:
        assert isinstance(message, Query)
        try:
            command = parse_command(message.query)
            if isinstance(command, StartReplication):
                self._start(command)
            else:
                self._link.write(answer(command, self.reader.source))
        except (CommandError, RefusedError) as error:
            log.info("replication command refused", reader=self._name, reason=str(error))
            self._link.write(refusal(error.sqlstate, str(error)))

    def _start(self, command: StartReplication) -> None:
        reader = self.reader
        start = checked_start(command, reader.source)
        if start.is_over:
            self._link.write(end_of_stream(reader.source.fork_of(start.tli)))
            return
        self._link.write(encode(CopyBothResponse()))
        self._stream = WalStream(
            reader.source, reader.gate, tli=start.tli, start=start.lsn, now_us=self._now_us
        )
        if reader.gate is not None:
            self._unsubscribe = reader.gate.subscribe(self.pump)
        log.info("replication started", reader=self._name, tli=start.tli, lsn=start.lsn)
        self.pump()

    # Streams.

    def _advance(self, stream: WalStream, fetched: Sequence[Buffer] | None = None) -> None:
        try:
            if fetched is not None:
                self._link.write(*stream.framed(fetched))
            self._push(stream)
        except DivergedError as error:
            self._fail_diverged(error)
        except WalRemovedError:
            self._fail_removed(stream)

    def _push(self, stream: WalStream) -> None:
        source, link = self.reader.source, self._link
        while link.is_writable and (count := stream.bytes_wanted()):
            pieces = source.read_now(stream.tli, stream.sent, count)
            if pieces is None:
                self._fetch(stream, count)
                return
            link.write(*stream.framed(pieces))
        if link.is_writable and stream.is_at_fork():
            self._copy_done_sent = True
            link.write(encode(CopyDone()))

    def _fetch(self, stream: WalStream, count: int) -> None:
        reading = self.reader.source.read(stream.tli, stream.sent, count)
        self._fetching = asyncio.ensure_future(reading)
        self._fetching.add_done_callback(self._fetched)

    def _fetched(self, fetching: "asyncio.Future[Sequence[Buffer]]") -> None:
        if fetching is not self._fetching or self._stream is None:
            # The stream ended meanwhile. Its fetch was cancelled, unless it failed before that.
            if not fetching.cancelled():
                fetching.exception()
            return
        self._fetching = None
        error = fetching.exception()
        if error is None:
            self._advance(self._stream, fetching.result())
        elif isinstance(error, WalRemovedError):
            self._fail_removed(self._stream)
        else:
            log.error("WAL cannot be read", reader=self._name, exc_info=error)
            self._link.fail("58030", "WAL cannot be read here now: see this node's log")

    def _reader_is_done(self) -> None:
        stream = self._stream
        assert stream is not None
        if not self._copy_done_sent:
            self._link.write(encode(CopyDone()))
        log.info("replication stopped", reader=self._name, tli=stream.tli, lsn=stream.sent)
        self._end_stream()
        self._link.write(end_of_stream(self.reader.source.fork_of(stream.tli)))

    def _end_stream(self) -> None:
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            fetching.cancel()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._stream = None
        self._copy_done_sent = self._keepalive_owed = False

    def _fail_diverged(self, error: DivergedError) -> None:
        log.error("a reader has WAL that never happened", reader=self._name, reason=str(error))
        self._link.fail("XX000", str(error))

    def _fail_removed(self, stream: WalStream) -> None:
        refused = removed(self.reader.source, stream.tli, Lsn(stream.sent))
        self._link.fail(refused.sqlstate, str(refused))

    @property
    def _name(self) -> str:
        reader = self.reader
        return f"{reader.application_name} of {reader.group} at {reader.peer}"
