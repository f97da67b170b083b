"""A connection to a compute that asks one thing, again and again: how far it is.

    link = PositionLink(PRIMARY_SQL, on_answer=..., on_end=...)
    await link.open(target, password, tls)    log in, and have the question prepared
    link.ask()                                on_answer(lsn), within ANSWER_S, or on_end(link, why)

The question is three messages that are always the same bytes, so that asking costs a write and a
read. Whatever goes wrong, or takes too long, ends the connection: there is nothing to repair.
"""

import asyncio
import ssl
import struct
from collections.abc import Callable
from typing import Final

from fabric.lsn import Lsn
from pgwire.backend import BindComplete, CommandComplete, ReadyForQuery, TransactionStatus
from pgwire.errors import ProtocolError
from pgwire.frames import LENGTH_BYTES, FrameReader
from pgwire.frontend import Bind, Execute, Parse, Sync
from pgwire.messages import encode

from .server_login import LIMITS, REFUSALS, log_in
from .settings import GATEWAY_ROLE
from .topology import Target

CONNECT_S: Final = 3.0
ANSWER_S: Final = 2.0

# The second column: see `usable_position`.
PRIMARY_SQL: Final = (
    "select pg_catalog.pg_current_wal_insert_lsn(),"
    " pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))"
)
REPLICA_SQL: Final = "select pg_catalog.pg_last_wal_replay_lsn()"

PAGE_BYTES: Final = 8192  # of WAL: XLOG_BLCKSZ, which nobody changes
PAGE_HEADER_BYTES: Final = 24
SEGMENT_HEADER_BYTES: Final = 40

_STATEMENT: Final = "position"
_ASK: Final = encode(Bind("", _STATEMENT, (), ())) + encode(Execute("")) + encode(Sync())
_PARAMETERS: Final = {
    "user": GATEWAY_ROLE,
    "database": "postgres",
    "application_name": GATEWAY_ROLE,
    "search_path": "pg_catalog",
}
_ROW, _READY, _ERROR = ord("D"), ord("Z"), ord("E")
_ANSWER_BEGIN: Final = encode(BindComplete()) + bytes([_ROW])
_ANSWER_END: Final = encode(CommandComplete("SELECT 1")) + encode(
    ReadyForQuery(TransactionStatus.IDLE)
)
_COUNT: Final = struct.Struct(">H")
_SIZE: Final = struct.Struct(">i")
_COLUMNS_MAX: Final = 2


class PositionError(Exception):
    """A compute does not say how far it is: the sentence says why. Another one may."""


def usable_position(lsn: Lsn, segment_bytes: int) -> Lsn:
    """Return the end of what was written, for a primary that says where it will write next.

    At the beginning of a page that is behind the page's header, and a replica that has replayed all
    there is stands before it: it would not get there until somebody writes again.
    """
    if lsn % segment_bytes == SEGMENT_HEADER_BYTES:
        return lsn - SEGMENT_HEADER_BYTES
    if lsn % PAGE_BYTES == PAGE_HEADER_BYTES:
        return lsn - PAGE_HEADER_BYTES
    return lsn


def whole_answer(data: bytes) -> memoryview | None:
    """Return the row of an answer that has come in one piece, as nearly all do: to cut it into
    frames takes 20 us more. None: it is anything else.
    """
    if not (data.startswith(_ANSWER_BEGIN) and data.endswith(_ANSWER_END)):
        return None
    begin_bytes = len(_ANSWER_BEGIN)
    end = len(data) - len(_ANSWER_END)
    if int.from_bytes(data[begin_bytes : begin_bytes + LENGTH_BYTES], "big") != end - begin_bytes:
        return None
    return memoryview(data)[begin_bytes + LENGTH_BYTES : end]


def position_of(body: memoryview) -> Lsn:
    """Read the one row that a question is answered with; ProtocolError if that is none."""
    try:
        (count,) = _COUNT.unpack_from(body)
        texts: list[str] = []
        at = _COUNT.size
        for _ in range(min(count, _COLUMNS_MAX)):
            (size_bytes,) = _SIZE.unpack_from(body, at)
            at += _SIZE.size
            if size_bytes < 0:
                raise PositionError("it has not replayed anything yet")
            if at + size_bytes > len(body):
                raise ProtocolError("a compute answered with half a row")
            texts.append(str(body[at : at + size_bytes], "ascii"))
            at += size_bytes
        lsn = Lsn.parse(texts[0])
        return lsn if len(texts) == 1 else usable_position(lsn, max(PAGE_BYTES, int(texts[1])))
    except (struct.error, IndexError, ValueError) as error:
        raise ProtocolError("a compute answered with what is no position") from error


# --- A connection ---------------------------------------------------------------------------------


class PositionLink(asyncio.Protocol):
    """A connection that asks one thing. `on_answer` is called for each question, `on_end` once."""

    def __init__(
        self,
        sql: str,
        *,
        on_answer: Callable[[Lsn], None],
        on_end: Callable[["PositionLink", str], None],
    ) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sql = sql
        self._on_answer, self._on_end = on_answer, on_end
        self._reader = FrameReader(LIMITS)
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._lsn: Lsn | None = None
        self._has_ended = False

    # What the caller does.

    async def open(self, target: Target, password: str, tls: ssl.SSLContext | None) -> None:
        """Connect, log in, prepare the question; PositionError if that cannot be done."""
        try:
            async with asyncio.timeout(CONNECT_S):
                transport, _ = await log_in(target, tls, _PARAMETERS, password)
                self._transport = transport
                transport.set_protocol(self)
                transport.resume_reading()
                self._write(encode(Parse(_STATEMENT, self._sql)) + encode(Sync()))
                await self.ready
        except TimeoutError:
            self.close()
            raise PositionError(f"{target.name} did not let us in within {CONNECT_S:g} s") from None
        except (OSError, *REFUSALS) as error:
            self.close()
            raise PositionError(f"{target.name} cannot be reached: {error}") from error
        except BaseException:
            self.close()
            raise

    def ask(self) -> None:
        """Send the question; the last one has been answered."""
        self._lsn = None
        self._write(_ASK)
        self._limit = asyncio.get_running_loop().call_later(
            ANSWER_S, self._fail, f"it did not answer within {ANSWER_S:g} s"
        )

    def close(self) -> None:
        """End it; nobody hears of it any more."""
        self._has_ended = True
        self._drop()

    # What the network does.

    def data_received(self, data: bytes) -> None:
        """Take what the server says."""
        if self._has_ended:
            return
        try:
            if self._limit is not None and self._reader.is_between_frames:
                row = whole_answer(data)
                if row is not None:
                    self._lsn = position_of(row)
                    self._take_ready()
                    return
            self._reader.feed(data)
            for kind, body in self._reader:
                self._take(kind, body)
        except (PositionError, ProtocolError) as error:
            self._fail(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        """Hear that it is over."""
        self._fail("it closed the connection" if error is None else str(error))

    def _take(self, kind: int, body: memoryview) -> None:
        if kind == _ROW:
            self._lsn = position_of(body)
        elif kind == _ERROR:
            raise PositionError(f"it answered with {error_code(body)}")
        elif kind == _READY:
            self._take_ready()

    def _take_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
            return
        lsn, self._lsn = self._lsn, None
        if self._limit is None or lsn is None:
            raise ProtocolError("it answered without a position")
        self._limit.cancel()
        self._limit = None
        self._on_answer(lsn)

    def _fail(self, reason: str) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if not self.ready.done():
            self.ready.set_exception(PositionError(reason))
            self.ready.exception()  # somebody may have left already
        self._drop()
        self._on_end(self, reason)

    def _drop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._has_ended:
            self._transport.write(data)


def error_code(body: memoryview) -> str:
    """Return the SQLSTATE of an ErrorResponse: fields of a letter and a text, each with a zero."""
    for field in bytes(body).split(b"\0"):
        if field[:1] == b"C":
            return field[1:6].decode("ascii", "replace")
    return "an error"
