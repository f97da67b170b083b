"""A connection to a compute, logged in: its answers, and whose business they are. Pure.

A link belongs to one session, or to nobody while it waits in its pool. Bytes of the server come in
by `feed`; they go on to the owner's client as they are, except what the session has asked for by
itself. Frames are stepped over by their headers; which ones are looked at says the batch that is
being answered.

Invariant: `batches` are the answers that are due, oldest first; a server that says anything else
than these, or what comes unasked, has lost its way, and so has the link.
"""

import struct
from collections import deque
from typing import Final, Protocol

from pgwire.errors import ProtocolError

from .batches import (
    ALL_QUIET,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_IN,
    DATA_ROW,
    EMPTY_QUERY,
    ERROR,
    IDLE,
    NOTICE,
    NOTIFICATION,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    READY,
    Answer,
    Batch,
)
from .changes import Change
from .logins import PoolKey
from .wire import PARSE_COMPLETE_FRAME, error_fields, first_name

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024  # of what is looked at: errors, notices, tags
STATEMENTS_MAX: Final = 1_000  # prepared on one shared link
LENGTH_BYTES: Final = 4
HEADER_BYTES: Final = 5
READY_BYTES: Final = 6
_ONE_ROW: Final = b"C\0\0\0\rSELECT 1\0Z\0\0\0\5I"
_ONE_ROW_BYTES: Final = len(_ONE_ROW)
_unpack_header: Final = struct.Struct(">BI").unpack_from
# Functions of PostgreSQL, as notices name them; nobody else can say so.
_SYNC_REP_WAIT: Final = b"\0RSyncRepWaitForLSN\0"
_QUICKDIE: Final = b"\0Rquickdie\0"


class Wire(Protocol):
    """What carries bytes."""

    def write(self, data: bytes) -> None:
        """Send, sometime."""

    def close(self) -> None:
        """End the connection once everything is sent."""

    def abort(self) -> None:
        """End it at once."""

    def fault(self, reason: str) -> None:
        """End it at once, because the other side has lost its way."""


class Owner(Protocol):
    """The session that a link belongs to."""

    @property
    def client(self) -> Wire:
        """Who hears the answers."""

    def ended(self, link: "Link", batch: Batch) -> None:
        """Hear that a batch has been answered; `link.status` is what it left."""

    def statement_ended(self, link: "Link", batch: Batch, tag: bytes) -> None:
        """Hear that a statement of a watched batch has ended well."""

    def failed(self, link: "Link", batch: Batch, error: bytes) -> None:
        """Hear of an error; the batch's answer ends with it."""

    def confirmed(self, change: Change) -> None:
        """Hear that a statement was prepared or closed, as the client has asked."""

    def copy_began(self, link: "Link", batch: Batch) -> None:
        """Hear that the server takes COPY data."""

    def told(self, name: bytes, value: bytes) -> None:
        """Hear of a setting that the server reports."""


class Link:
    """One connection to a compute."""

    __slots__ = ("_partial", "_skip_bytes", "applied", "backend_pid", "batches", "farewell",
                 "farewell_frame", "idle_since_s", "is_closed", "is_primary", "key", "owner",
                 "parameters", "statements", "status", "target_id", "target_name",
                 "wire")  # fmt: skip

    def __init__(
        self, wire: Wire, key: PoolKey, target_id: tuple[str, int, int], *, is_primary: bool
    ) -> None:
        """`target_id`: the compute, by name first, and the life of it."""
        self.wire = wire
        self.key = key
        self.target_id = target_id
        self.target_name = target_id[0]
        self.is_primary = is_primary
        self.owner: Owner | None = None
        self.status = IDLE
        self.batches: deque[Batch] = deque()
        self.statements: dict[bytes, int] = {}  # what is prepared: the serial number by name
        self.applied: tuple[bytes, ...] = ()  # whose variables are set
        self.parameters: dict[str, str] = {}
        self.backend_pid = 0
        self.farewell = ""  # the code of the server's last words
        self.farewell_frame = b""
        self.idle_since_s = 0.0
        self.is_closed = False
        self._partial = b""
        self._skip_bytes = 0

    @property
    def is_busy(self) -> bool:
        """Whether answers are due or a transaction is open."""
        return bool(self.batches) or self.status != IDLE

    @property
    def is_between_frames(self) -> bool:
        """Whether the client has only whole frames of this link's."""
        return not self._skip_bytes

    def will_have(self, name: bytes) -> int | None:
        """Return the serial number of a statement once all that is due was answered well."""
        serial = self.statements.get(name)
        for batch in self.batches:
            for expected in batch.expected:
                if expected.wire_name == name and expected.answer is not Answer.AS_PARSED:
                    serial = expected.serial if expected.kind == PARSE_COMPLETE else None
        return serial

    def feed(self, data: bytes) -> None:
        """Take bytes of the server."""
        try:
            # An answer of one row to a plain batch, the only one that is due: nearly all are so.
            # It is known by its end, and by frames that lead exactly there: a row may look alike.
            batches, owner = self.batches, self.owner
            if (
                data.endswith(_ONE_ROW)
                and batches
                and ((batch := batches[0]).quiet is ALL_QUIET or batch.can_be_shown_at_once)
                and owner is not None
                and not (self._skip_bytes or self._partial)
            ):
                at, end = 0, len(data) - _ONE_ROW_BYTES
                while at < end:
                    kind, length = _unpack_header(data, at)
                    if not ALL_QUIET[kind]:
                        break
                    at += 1 + length
                if at == end:
                    batches.popleft()
                    self.status = IDLE
                    batch.is_special = False
                    owner.client.write(data)
                    owner.ended(self, batch)
                    return
            self._take(data)
        except (ProtocolError, ValueError) as error:
            self.wire.fault(str(error))

    def _take(self, data: bytes) -> None:
        at = start = 0
        if self._skip_bytes:
            at = min(self._skip_bytes, len(data))
            self._skip_bytes -= at
        elif self._partial:
            data, self._partial = self._partial + data, b""
        size = len(data)
        last_header = size - HEADER_BYTES
        quiet = self.batches[0].quiet if self.batches else _NOTHING_QUIET
        while at <= last_header:
            kind, length = _unpack_header(data, at)
            end = at + 1 + length
            if quiet[kind] and length >= LENGTH_BYTES:
                at = end
                continue
            if end > size or length < LENGTH_BYTES:
                _check(length)
                break
            start = self._look(kind, data, start, at, end)
            at = end
            quiet = self.batches[0].quiet if self.batches else _NOTHING_QUIET
        if at < size:
            self._partial = data[at:]
        elif at > size:
            self._skip_bytes = at - size
            at = size
        if at > start:
            self._deliver(data if start == 0 and at == size else data[start:at])

    def _look(self, kind: int, data: bytes, start: int, at: int, end: int) -> int:
        """Take a frame that may matter; return from where on nothing has been delivered."""
        if kind == READY:
            return self._end_batch(data, start, end)
        if kind == PARAMETER_STATUS:
            name, value_at = first_name(data, at + 5)
            self._told(name, first_name(data, value_at)[0])
            return start if self.owner is not None else end
        if kind == ERROR:
            return self._fail(data, start, at, end)
        if kind == NOTICE:
            return self._notice(data, start, at, end)
        if not self.batches:
            if kind == NOTIFICATION:
                return start if self.owner is not None else end
            raise ProtocolError("the server answers what nobody has asked")
        return self._answer(kind, data, start, at, end)

    def _answer(self, kind: int, data: bytes, start: int, at: int, end: int) -> int:
        batch = self.batches[0]
        if kind in {PARSE_COMPLETE, CLOSE_COMPLETE}:
            return self._expected(kind, data, start, at, end)
        if batch.is_undecided:
            self._show(batch)
        if kind == COMMAND_COMPLETE:
            if batch.is_unreplicated:
                self._deliver(data[start:at])
                return end
            self._statement_ended(batch, data[at + 5 : end - 1])
        elif kind in {EMPTY_QUERY, PORTAL_SUSPENDED}:
            if batch.executed and kind == PORTAL_SUSPENDED:
                batch.executed.popleft()
        elif kind == COPY_IN:
            if self.owner is not None:
                self.owner.copy_began(self, batch)
        elif kind in {ord("R"), ord("K"), ord("v")} or (not batch.quiet[kind] and kind != DATA_ROW):
            raise ProtocolError(f"the server sent a frame of kind 0x{kind:02X} out of turn")
        return start

    def _expected(self, kind: int, data: bytes, start: int, at: int, end: int) -> int:
        batch = self.batches[0]
        expected = batch.expected.popleft() if batch.expected else None
        if expected is None:
            return start
        if expected.kind != kind:
            raise ProtocolError("the server confirms something else than what was asked")
        if expected.answer is not Answer.AS_PARSED:
            if kind == PARSE_COMPLETE:
                self.statements[expected.wire_name] = expected.serial
            else:
                self.statements.pop(expected.wire_name, None)
        if expected.change is not None and self.owner is not None:
            self.owner.confirmed(expected.change)
        if expected.answer is Answer.PASS:
            return start
        self._deliver(data[start:at])
        if expected.answer is Answer.AS_PARSED:
            self._deliver(PARSE_COMPLETE_FRAME)
        return end

    def _show(self, batch: Batch) -> None:
        """Let the client see what was held back, because this server answers well."""
        held = batch.decide()
        if held:
            self._deliver(held)

    def _statement_ended(self, batch: Batch, tag: bytes) -> None:
        if batch.is_watched and self.owner is not None:
            self.owner.statement_ended(self, batch, tag)

    def _fail(self, data: bytes, start: int, at: int, end: int) -> int:
        whole = data[at:end]
        fields = error_fields(whole)
        batch = self.batches[0] if self.batches else None
        if fields.get("V") in {"FATAL", "PANIC"}:
            # Whoever owns the link decides what its client hears, once the connection has ended.
            self.farewell, self.farewell_frame = fields.get("C", ""), whole
            self._deliver(data[start:at])
            return end
        if batch is None:
            return start
        batch.has_failed = True
        if self.owner is not None:
            self.owner.failed(self, batch, whole)
        batch.expected.clear()
        batch.executed.clear()
        if batch.is_refused:
            return end
        if batch.is_undecided:
            self._show(batch)
        return start

    def _notice(self, data: bytes, start: int, at: int, end: int) -> int:
        """Pass a notice on, but for those that are meant for us."""
        batch = self.batches[0] if self.batches else None
        if _QUICKDIE in data[at:end]:
            # The server is killed and says so. It tells nothing of what it was at, and its clients
            # stay: to them this would be the beginning of an answer.
            self._deliver(data[start:at])
            return end
        if batch is not None and _SYNC_REP_WAIT in data[at:end]:
            batch.distrust()
            self._deliver(data[start:at])
            return end
        return start if self.owner is not None else end

    def _end_batch(self, data: bytes, start: int, end: int) -> int:
        if not self.batches:
            raise ProtocolError("the server is ready for a query once more than it was asked")
        batch = self.batches[0]
        whole = data if start == 0 and end == len(data) else data[start:end]
        if batch.is_special:
            if batch.is_undecided:
                self._show(batch)
            self._deliver(whole[:-READY_BYTES] if batch.is_unreplicated else whole)
        elif self.owner is not None:
            self.owner.client.write(whole)
        self.batches.popleft()
        self.status = data[end - 1]
        if self.owner is not None:
            self.owner.ended(self, batch)
        return end

    def _deliver(self, data: bytes) -> None:
        """Give bytes to the client, or hold them back, or throw them away."""
        if not data or self.owner is None:
            return
        if self.batches:
            batch = self.batches[0]
            if batch.is_ours or batch.is_refused:
                return
            if batch.is_undecided:
                batch.preamble += data
                return
            if not batch.has_answered and batch.can_wait(data):
                batch.wait(data)
                return
            batch.has_answered = True
            if batch.preamble:
                data, batch.preamble = batch.preamble + data, b""
        self.owner.client.write(data)

    def _told(self, name: bytes, value: bytes) -> None:
        if len(self.parameters) < STATEMENTS_MAX:
            self.parameters[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        if self.owner is not None:
            self.owner.told(name, value)


def _check(length: int) -> None:
    """Refuse what is no frame, or too long to be looked at as a whole."""
    if length < LENGTH_BYTES:
        raise ProtocolError("the server announces a frame of less than its header")
    if length > FRAME_BYTES_MAX:
        raise ProtocolError("the server announces a message that is far too long")


_NOTHING_QUIET: Final = bytes(256)
