"""Frames of the PostgreSQL protocol: a stream of bytes in, whole frames out; no I/O.

A frame is a kind (one byte), the length of the rest (four bytes, itself included) and a body. Only
the packets at the very start of a client's stream lack the kind; they are given kind 0.

    for bytes of the network: reader.feed(data)
    for kind, body in reader: ...                      # as far as whole frames go

A frame that lies within one `data` is a view of it: nothing is copied. A frame that is spread over
several is copied once. Hence a body stays valid as long as the buffer that was fed keeps its bytes:
for ever if it was a `bytes` object, else until its owner writes into it again.

Memory is bounded by what the peer really sent, up to the limit for the kind; the length that a peer
announces reserves nothing. A kind without a limit is refused. Whoever gets a ProtocolError throws
the reader away, because nothing tells where the next frame begins.
"""

import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Final, TypeAlias

from .errors import ProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

HEADER: Final = struct.Struct(">BI")  # kind, bytes of the rest, these four included
HEADER_BYTES: Final = HEADER.size  # 5
LENGTH_BYTES: Final = 4

PACKET_KIND: Final = 0  # what stands for the missing kind of a packet before or at start-up
PACKET_BYTES_MAX: Final = 10_000  # PostgreSQL's MAX_STARTUP_PACKET_LENGTH
PACKET_BYTES_MIN: Final = 8  # the length and a code
# Requests that are followed by another packet; every other one ends the start of the stream.
SSL_REQUEST_CODE: Final = 80877103
GSS_REQUEST_CODE: Final = 80877104

_CODE: Final = struct.Struct(">I")
_NOTHING: Final = memoryview(b"")

_Frame: TypeAlias = tuple[int, memoryview]


def capped(limits: Mapping[int, int], bytes_max: int) -> dict[int, int]:
    """Return limits of which none exceeds `bytes_max`."""
    return {kind: min(limit, bytes_max) for kind, limit in limits.items()}


class FrameReader:
    """Cuts one direction of a connection into frames.

    `limits` says how many bytes a body of each kind may have; messages.py has the tables. A server
    sets `starts_with_packet`: then packets without a kind are expected up to and including the
    first that is neither an SSLRequest nor a GSSENCRequest.

    Invariant: `_partial` is the beginning of one frame, never a whole one, and what follows it in
    the stream is `_data[_at:]`.
    """

    __slots__ = ("_at", "_data", "_header_bytes", "_limits", "_partial")

    def __init__(self, limits: Mapping[int, int], *, starts_with_packet: bool = False) -> None:
        self._limits = limits
        self._header_bytes = LENGTH_BYTES if starts_with_packet else HEADER_BYTES
        self._data = _NOTHING
        self._at = 0
        self._partial = bytearray()

    def feed(self, data: Buffer) -> None:
        """Take the next bytes of the stream."""
        view = memoryview(data)
        if self._at < len(self._data):  # frames that nobody has taken yet
            view = memoryview(b"".join((self._data[self._at :], view)))
        self._data, self._at = view, 0

    def __iter__(self) -> Iterator[_Frame]:
        """Yield every whole frame; may be left and taken up again at any frame."""
        while (frame := self._next()) is not None:
            yield frame

    @property
    def is_between_frames(self) -> bool:
        """Whether every byte so far has been yielded in a frame.

        Must hold before a connection changes to TLS: what was sent before is not to be trusted.
        """
        return not self._partial and self._at == len(self._data)

    def _next(self) -> _Frame | None:
        if self._partial:
            return self._next_from_partial()
        data, start = self._data, self._at
        body_start = start + self._header_bytes
        if body_start <= len(data):
            kind, size_bytes = self._measure(data, start)
            end = start + size_bytes
            if end <= len(data):
                self._at = end
                return self._whole(kind, data[body_start:end])
        self._partial += data[start:]
        self._forget_data()
        return None

    def _next_from_partial(self) -> _Frame | None:
        if not self._fill_partial(self._header_bytes):
            return None
        kind, size_bytes = self._measure(self._partial, 0)
        if not self._fill_partial(size_bytes):
            return None
        frame, self._partial = memoryview(self._partial), bytearray()
        return self._whole(kind, frame[self._header_bytes :])

    def _fill_partial(self, size_bytes: int) -> bool:
        """Bring the partial frame to that size if the data suffices."""
        if len(self._partial) < size_bytes:
            end = min(self._at + size_bytes - len(self._partial), len(self._data))
            self._partial += self._data[self._at : end]
            self._at = end
            if end == len(self._data):
                self._forget_data()
        return len(self._partial) >= size_bytes

    def _forget_data(self) -> None:
        # An owner that reuses its buffer may look whether somebody still holds a view of it.
        self._data, self._at = _NOTHING, 0

    def _measure(self, data: Buffer, start: int) -> tuple[int, int]:
        """Return kind and size in bytes, header included, of the frame whose header is there."""
        if self._header_bytes == LENGTH_BYTES:
            return PACKET_KIND, _checked_packet_bytes(_CODE.unpack_from(data, start)[0])
        kind, length = HEADER.unpack_from(data, start)
        return kind, 1 + _checked_length(self._limits, kind, length)

    def _whole(self, kind: int, body: memoryview) -> _Frame:
        if self._header_bytes == LENGTH_BYTES:
            (code,) = _CODE.unpack_from(body)
            if code not in {SSL_REQUEST_CODE, GSS_REQUEST_CODE}:
                self._header_bytes = HEADER_BYTES
        return kind, body


class FrameSkimmer:
    """Finds the frames of a few kinds in a stream that somebody passes on as it is.

    The others are stepped over by their length, whether their bytes are there yet or not, so result
    rows cost a header each and are never gathered.

    Invariant: at most one of `_partial`, the beginning of a frame that is wanted or whose header is
    not complete, and `_skip_bytes`, what is left of one that is not wanted, is not empty.
    """

    __slots__ = ("_limits", "_partial", "_skip_bytes", "_wanted")

    def __init__(self, limits: Mapping[int, int], wanted: Collection[int]) -> None:
        self._limits = limits
        self._wanted = frozenset(wanted)
        self._partial = bytearray()
        self._skip_bytes = 0

    @property
    def is_between_frames(self) -> bool:
        """Whether the stream so far ends with a whole frame, so that another may be inserted."""
        return not self._partial and not self._skip_bytes

    def skim(self, chunk: Buffer) -> list[tuple[int, memoryview, int]]:
        """Return (kind, body, end of the frame in this chunk) of each wanted frame that ends here.

        A body is a view of the chunk, or of a buffer of its own when it began in an earlier one.
        """
        data = memoryview(chunk)
        found: list[tuple[int, memoryview, int]] = []
        at = self._finish_partial(data, found) if self._partial else 0
        if self._skip_bytes:
            stepped_bytes = min(self._skip_bytes, len(data) - at)
            self._skip_bytes -= stepped_bytes
            at += stepped_bytes
        while len(data) - at >= HEADER_BYTES:
            kind, length = HEADER.unpack_from(data, at)
            end = at + 1 + _checked_length(self._limits, kind, length)
            if kind in self._wanted:
                if end > len(data):
                    break
                found.append((kind, data[at + HEADER_BYTES : end], end))
            elif end > len(data):
                self._skip_bytes = end - len(data)
                return found
            at = end
        self._partial += data[at:]
        return found

    def _finish_partial(self, data: memoryview, found: list[tuple[int, memoryview, int]]) -> int:
        """Complete the partial frame as far as possible; return where the data goes on."""
        partial = self._partial
        at = min(max(HEADER_BYTES - len(partial), 0), len(data))
        partial += data[:at]
        if len(partial) < HEADER_BYTES:
            return at
        kind, length = HEADER.unpack_from(partial)
        missing_bytes = 1 + _checked_length(self._limits, kind, length) - len(partial)
        if kind not in self._wanted:
            self._partial, self._skip_bytes = bytearray(), missing_bytes
            return at
        end = min(at + missing_bytes, len(data))
        partial += data[at:end]
        if end - at == missing_bytes:
            self._partial = bytearray()
            found.append((kind, memoryview(partial)[HEADER_BYTES:], end))
        return end


def _checked_length(limits: Mapping[int, int], kind: int, length: int) -> int:
    limit = limits.get(kind)
    if limit is None:
        raise ProtocolError(
            f"a frame of kind 0x{kind:02X} has no place here: the peer speaks another protocol, "
            "or the stream is out of step"
        )
    if not LENGTH_BYTES <= length <= limit + LENGTH_BYTES:
        raise ProtocolError(
            f"a frame of kind {chr(kind)!r} announces a length of {length} bytes, the limit is "
            f"{limit + LENGTH_BYTES}"
        )
    return length


def _checked_packet_bytes(length: int) -> int:
    if not PACKET_BYTES_MIN <= length <= PACKET_BYTES_MAX:
        raise ProtocolError(
            f"the first packet announces {length} bytes, not {PACKET_BYTES_MIN} to "
            f"{PACKET_BYTES_MAX}: the peer does not speak the PostgreSQL protocol"
        )
    return length
