"""The RPC frame: bytes in, frames out; no I/O. docs/formats/rpc_frame.md is the specification.

A frame is a fixed prefix, a msgpack header and a raw payload. Pages and WAL travel as payload and
never pass through msgpack; a large payload is received straight into the buffer that the reader of
the frame gets, so it is copied once, by the kernel.

`FrameDecoder` is made for `asyncio.BufferedProtocol`: put bytes into its `room`, tell
`received(count)`. Memory is bounded by one frame of the largest allowed size plus a small buffer,
whatever the peer sends. Anything wrong is a `FrameError`, which is always the peer's fault, and
after which the connection has no meaning: a decoder that has raised must be thrown away.

Several messages pass between log nodes for every commit, so what each frame runs through is written
with few calls: a call of Python costs 50 to 100 ns, and a helper a field had made a dozen a frame.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

from .buffers import BufferPool

VERSION: Final = 1
PREFIX: Final = struct.Struct(">BBQII")  # version, kind, call id, header bytes, payload bytes
PREFIX_BYTES: Final = PREFIX.size  # 18
_pack_prefix: Final = PREFIX.pack
_unpack_prefix: Final = PREFIX.unpack_from

# Holds a burst of small frames in one read. A frame that does not fit gets a buffer of its own.
RECEIVE_BUFFER_BYTES: Final = 64 * 1024
# Below this a copy into one buffer is cheaper than a second entry in the write vector.
JOINED_PAYLOAD_BYTES_MAX: Final = 2 * 1024

Buffer: TypeAlias = bytes | bytearray | memoryview
Payload: TypeAlias = Buffer | Sequence[Buffer]


class FrameError(Exception):
    """The peer sent something that is not a frame of this version within the limits."""


class Kind(IntEnum):
    """What a frame is for; the comment says who sends it."""

    REQUEST = 1  # client
    RESPONSE = 2  # server
    ERROR = 3  # server: the call with this id failed
    CANCEL = 4  # client: nobody waits for this call any more
    HELLO = 5  # server, first frame of a connection: its limits
    HEARTBEAT = 6  # both, when they have sent nothing else for a while
    GOODBYE = 7  # both: why no further call will be taken on this connection
    MESSAGE = 8  # client: one way, for the channel that the call id names; nobody answers


# For what is asked of every frame: a member of an enum is looked up by a metaclass, 100 ns a time.
HEARTBEAT: Final = Kind.HEARTBEAT
MESSAGE: Final = Kind.MESSAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLimits:
    """The largest frame that is accepted from a peer."""

    # A thousand page keys of some 50 bytes each, and room.
    header_bytes_max: int = 128 * 1024
    # Several times the largest single transfer, 1 MiB of a widened sequential scan.
    payload_bytes_max: int = 16 * 1024 * 1024


# A msgspec.Struct, because it is made once a frame: 0.1 us against 0.4 us for a frozen dataclass.
class Frame(msgspec.Struct, frozen=True):
    """One whole frame. The payload of a large frame is a view of a buffer that belongs to it."""

    kind: Kind
    call_id: int
    header: bytes
    payload: bytes | memoryview


class FrameDecoder:
    """Cuts a stream of bytes into frames.

    `room` is where the next bytes of the stream belong, and never empty.

    Invariant: `_buffer[0:_end]` holds the unfinished beginning of a frame that fits the buffer,
    or `_body` is the unfinished rest of one that does not, and then `_end` is 0. `room` is what
    follows in the one or the other: it must not hold on to a body that a reader has got, since the
    pool would take it for a reader.
    """

    __slots__ = (
        "_body",
        "_body_end",
        "_body_prefix",
        "_buffer",
        "_end",
        "_header_bytes_max",
        "_payload_bytes_max",
        "_pool",
        "room",
    )

    def __init__(self, limits: FrameLimits, pool: BufferPool) -> None:
        self._header_bytes_max = limits.header_bytes_max
        self._payload_bytes_max = limits.payload_bytes_max
        self._pool = pool
        self._buffer = self.room = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self._end = 0
        self._body: memoryview | None = None
        self._body_end = 0
        self._body_prefix = (Kind.HEARTBEAT, 0, 0)

    def received(self, count: int) -> list[Frame]:
        """Take note of `count` bytes put into `room`; return the frames they complete."""
        if self._body is not None:
            return self._body_received(self._body, count)
        buffer, start, end = self._buffer, 0, self._end + count
        frames: list[Frame] = []
        while end - start >= PREFIX_BYTES:
            version, number, call_id, header_bytes, payload_bytes = _unpack_prefix(buffer, start)
            kind = _KINDS.get(number)
            if (
                version != VERSION
                or kind is None
                or header_bytes > self._header_bytes_max
                or payload_bytes > self._payload_bytes_max
            ):
                raise self._refusal(version, number, header_bytes, payload_bytes)
            header_start = start + PREFIX_BYTES
            payload_start = header_start + header_bytes
            stop = payload_start + payload_bytes
            if stop > end:
                if stop - start > len(buffer):
                    self._begin_body(kind, call_id, header_bytes, payload_bytes)
                    self._body_first_part(buffer[header_start:end])
                    return frames
                break
            header = buffer[header_start:payload_start].tobytes()
            payload = buffer[payload_start:stop].tobytes() if payload_bytes else b""
            frames.append(Frame(kind, call_id, header, payload))
            start = stop
        if start == end:  # nearly always: a read brings whole frames
            self._end, self.room = 0, buffer
            return frames
        self._end = end - start
        if start:
            buffer[: self._end] = buffer[start:end]
        self.room = buffer[self._end :]
        return frames

    def feed(self, data: Buffer) -> list[Frame]:
        """Copy `data` into the decoder; return the frames it completes."""
        rest = memoryview(data)
        frames: list[Frame] = []
        while rest:
            target = self.room
            count = min(len(target), len(rest))
            target[:count] = rest[:count]
            frames += self.received(count)
            rest = rest[count:]
        return frames

    @property
    def is_between_frames(self) -> bool:
        """Whether the stream may end here without cutting a frame in two."""
        return self._body is None and self._end == 0

    def _body_received(self, body: memoryview, count: int) -> list[Frame]:
        self._body_end += count
        if self._body_end < len(body):
            self.room = body[self._body_end :]
            return []
        kind, call_id, header_bytes = self._body_prefix
        self._body, self.room = None, self._buffer
        return [Frame(kind, call_id, bytes(body[:header_bytes]), body[header_bytes:])]

    def _refusal(
        self, version: int, number: int, header_bytes: int, payload_bytes: int
    ) -> FrameError:
        """Say what is wrong with a prefix."""
        if version != VERSION:
            return FrameError(f"frame version {version} is not {VERSION}: upgrade the older side")
        if number not in _KINDS:
            return FrameError(
                f"frame kind {number} is unknown: the peer does not speak this protocol"
            )
        if header_bytes > self._header_bytes_max:
            return FrameError(
                f"a frame header of {header_bytes} bytes exceeds the limit of "
                f"{self._header_bytes_max}"
            )
        return FrameError(
            f"a frame payload of {payload_bytes} bytes exceeds the limit of "
            f"{self._payload_bytes_max}"
        )

    def _begin_body(self, kind: Kind, call_id: int, header_bytes: int, payload_bytes: int) -> None:
        self._body = self._pool.lease(header_bytes + payload_bytes)
        self._body_end = 0
        self._body_prefix = (kind, call_id, header_bytes)
        self._end = 0

    def _body_first_part(self, part: memoryview) -> None:
        assert self._body is not None
        assert len(part) < len(self._body)
        self._body[: len(part)] = part
        self._body_end = len(part)
        self.room = self._body[len(part) :]


def encode_frame(
    kind: Kind, call_id: int, header: bytes = b"", payload: Payload = b""
) -> list[Buffer]:
    """Return the buffers that make up one frame, in order; large payloads are not copied.

    The buffers of the payload must not change until they have been written out.
    """
    parts = (payload,) if isinstance(payload, _BUFFERS) else payload
    payload_bytes = 0
    for part in parts:  # `byte_count`, without the call
        payload_bytes += part.nbytes if isinstance(part, memoryview) else len(part)
    prefix = _pack_prefix(VERSION, kind, call_id, len(header), payload_bytes)
    if payload_bytes <= JOINED_PAYLOAD_BYTES_MAX:
        return [b"".join((prefix, header, *parts))]
    return [prefix + header, *parts]


def payload_byte_count(payload: Payload) -> int:
    """Return how many bytes a payload has in all its buffers."""
    if isinstance(payload, _BUFFERS):
        return byte_count(payload)
    count = 0
    for part in payload:  # `byte_count`, without the call
        count += part.nbytes if isinstance(part, memoryview) else len(part)
    return count


def byte_count(buffer: Buffer) -> int:
    """Return the size of a buffer; the `len` of a view counts elements, not bytes."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


_BUFFERS: Final = (bytes, bytearray, memoryview)  # a tuple is asked in half the time of the union
_KINDS: Final = {int(kind): kind for kind in Kind}
