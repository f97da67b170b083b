"""Cuts what a client sends into frames, and stops when the session has to wait. Pure.

Each whole frame goes to `take(kind, frame)`. When that says STOP, the frame is kept with all that
follows it, until `go_on`. Data of COPY is not gathered: it is passed on as it comes.

Limits: a frame that announces too much is refused before it is gathered; of a client that waits
not more than a little is read.
"""

import struct
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from pgwire.errors import ProtocolError

from .batches import COPY_DATA

HEADER_BYTES: Final = 5
LENGTH_BYTES: Final = 4
BACKLOG_BYTES_MAX: Final = 256 * 1024
_HEADER: Final = struct.Struct(">BI")


@runtime_checkable
class Tap(Protocol):
    """The connection that bytes come from."""

    def pause_reading(self) -> None:
        """Read nothing more for the moment."""

    def resume_reading(self) -> None:
        """Go on."""


class Intake:
    """The frames of one client.

    Invariant: at most one of `_chunks`, the beginning of one frame, and `_backlog`, frames that
    wait, is not empty; and the backlog is only while the intake is stopped.
    """

    __slots__ = ("_backlog", "_backlog_bytes", "_bytes_max", "_chunks", "_chunks_bytes",
                 "_is_paused", "_needed_bytes", "_pass_bytes", "_pass_on", "_take", "_tap",
                 "is_ended", "is_stopped")  # fmt: skip

    def __init__(
        self,
        tap: Tap,
        take: Callable[[int, bytes], bool],
        pass_on: Callable[[bytes], None],
        *,
        frame_bytes_max: int,
    ) -> None:
        """`take` returns whether the frame was taken; `pass_on` gets data of COPY, with headers."""
        self._tap = tap
        self._take = take
        self._pass_on = pass_on
        self._bytes_max = frame_bytes_max
        self._chunks: list[bytes] = []
        self._chunks_bytes = self._needed_bytes = 0
        self._pass_bytes = 0
        self._backlog: list[bytes] = []
        self._backlog_bytes = 0
        self._is_paused = False
        self.is_stopped = False
        self.is_ended = False

    @property
    def is_empty(self) -> bool:
        """Whether a frame can begin with the next byte, and be taken."""
        return not (self.is_stopped or self._chunks or self._pass_bytes or self.is_ended)

    @property
    def has_part(self) -> bool:
        """Whether a frame has begun that is not complete."""
        return bool(self._chunks or self._pass_bytes)

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        if self.is_stopped:
            self._keep(data)
            return
        if self._chunks:
            self._chunks.append(data)
            self._chunks_bytes += len(data)
            if self._chunks_bytes < self._needed_bytes:
                return
            data = b"".join(self._chunks)
            self._chunks = []
        self._cut(data)

    def go_on(self, before: bytes = b"") -> None:
        """Take up again what waits; `before` comes first, and was taken once already."""
        if before and self._pass_bytes:
            raise ProtocolError("data of a COPY came while another statement was running")
        data = b"".join((before, *self._backlog, *self._chunks))
        self._backlog, self._backlog_bytes, self._chunks = [], 0, []
        self.is_stopped = False
        self._cut(data)
        if self._is_paused and not self.is_stopped and not self.is_ended:
            self._is_paused = False
            self._tap.resume_reading()

    def _cut(self, data: bytes) -> None:
        at, size = 0, len(data)
        needed_bytes = HEADER_BYTES
        if self._pass_bytes:
            at = self._pass(data, 0)
        while at + HEADER_BYTES <= size and not self.is_ended:
            kind, length = _HEADER.unpack_from(data, at)
            end = at + 1 + length
            if kind == COPY_DATA and length >= LENGTH_BYTES:
                self._pass_bytes = end - at
                at = self._pass(data, at)
                continue
            self._check(length)
            if end > size:
                needed_bytes = end - at
                break
            if not self._take(kind, data if end - at == size else data[at:end]):
                self.is_stopped = True
                self._keep(data[at:])
                return
            at = end
        if at < size:
            self._chunks, self._chunks_bytes = [data[at:]], size - at
            self._needed_bytes = needed_bytes

    def _check(self, length: int) -> None:
        if not LENGTH_BYTES <= length <= self._bytes_max:
            raise ProtocolError(
                f"a message announces {length} bytes, the limit is {self._bytes_max}"
            )

    def _pass(self, data: bytes, at: int) -> int:
        end = min(at + self._pass_bytes, len(data))
        self._pass_bytes -= end - at
        self._pass_on(data[at:end])
        return end

    def _keep(self, data: bytes) -> None:
        self._backlog.append(data)
        self._backlog_bytes += len(data)
        if self._backlog_bytes > BACKLOG_BYTES_MAX and not self._is_paused:
            self._is_paused = True
            self._tap.pause_reading()
