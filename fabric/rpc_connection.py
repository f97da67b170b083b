"""One RPC connection, the part that servers and clients share: a thin shell around `frames.py`.

It cuts the stream into frames for its `owner`, tells senders to wait while the peer does not read,
sends heartbeats, and ends the connection when the peer is dead or breaks the protocol.

It is an `asyncio.BufferedProtocol`, so the kernel writes where the decoder wants the bytes.
Measured against a plain `Protocol` on uvloop, receiving takes 30 us of user time instead of 42 for
a payload of 128 KiB, and the same for a small one.

Life signs need no clock: a tick every `heartbeat_ms` asks what has happened since the last one.
Both sides send a heartbeat when they have sent nothing else, so silence means death; only while we
ourselves refuse to read does silence mean nothing.
"""

import asyncio
import socket
from enum import Enum, auto
from typing import Any, Final, Protocol, cast

from .addresses import socket_is_loopback
from .buffers import BufferPool
from .frames import (
    HEARTBEAT,
    Frame,
    FrameDecoder,
    FrameError,
    FrameLimits,
    Kind,
    Payload,
    encode_frame,
)
from .rpc import Peer, RpcSettings, encode_header
from .tls import IdentityError, identity_of_certificate

UNIX_SEND_BUFFER_BYTES: Final = 1024 * 1024  # the kernel takes what its own limit allows


class Owner(Protocol):
    """The server's or client's part of a connection."""

    def connection_opened(self, connection: "Connection") -> None:
        """The transport is there, TLS handshake included; raise nothing."""

    def frame_received(self, frame: Frame) -> None:
        """Handle any frame but a heartbeat; FrameError says that the peer broke the protocol."""

    def connection_lost(self, reason: str) -> None:
        """The transport is gone; nothing else will be called."""


class ReadHold(Enum):
    """Why we do not read from the peer at the moment."""

    PEER_DOES_NOT_READ = auto()
    REQUESTS_QUEUED = auto()


class Connection(asyncio.BufferedProtocol):
    """The protocol object of one transport."""

    def __init__(self, owner: Owner, settings: RpcSettings, pool: BufferPool) -> None:
        self._owner = owner
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder(
            FrameLimits(
                header_bytes_max=settings.header_bytes_max,
                payload_bytes_max=settings.payload_bytes_max,
            ),
            pool,
        )
        self._transport: asyncio.Transport | None = None
        # Whether there is room in the write buffer, or nothing to wait for any more. A plain
        # attribute, because it is asked for every message; `_writable` wakes who waits for it.
        self.is_writable = True
        self._writable = asyncio.Event()
        self._holds: set[ReadHold] = set()
        self._end_reason = ""
        self._tick_timer: asyncio.TimerHandle | None = None
        self._has_received = self._has_sent = False
        self._silent_ticks = self._stalled_ticks = self._unsent_bytes = 0

    # What owners use.

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of an open connection."""
        assert self._transport is not None
        return self._transport

    @property
    def is_open(self) -> bool:
        """Whether frames can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def until_writable(self) -> None:
        """Wait while the peer does not read; return at once when the connection has ended."""
        # All waiters wake together, and the first of them may fill the buffer again.
        while not self.is_writable:
            await self._writable.wait()

    def send(
        self, kind: Kind, call_id: int = 0, header: bytes = b"", payload: Payload = b""
    ) -> None:
        """Queue a frame; on a connection that has ended, do nothing."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._has_sent = True
        buffers = encode_frame(kind, call_id, header, payload)
        if len(buffers) == 1:
            transport.write(buffers[0])
        else:
            transport.writelines(buffers)

    def hold_reading(self, hold: ReadHold) -> None:
        """Stop reading until `release_reading` is called with the same reason."""
        if not self._holds and self.is_open:
            self.transport.pause_reading()
        self._holds.add(hold)

    def release_reading(self, hold: ReadHold) -> None:
        """Read on, unless there is another reason not to."""
        if hold not in self._holds:
            return
        self._holds.discard(hold)
        if not self._holds and self.is_open:
            self._silent_ticks = 0
            self.transport.resume_reading()

    def close(self, reason: str, *, tell_peer: bool = False) -> None:
        """End the connection after what is queued has been written."""
        self._end_reason = self._end_reason or reason
        if tell_peer:
            self.send(Kind.GOODBYE, header=encode_header(reason))
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """End the connection at once."""
        self._end_reason = self._end_reason or reason
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to tick."""
        # A cast, because the transports of uvloop are asyncio's only in behaviour.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=self._settings.write_buffer_bytes_max)
        connected: Any = transport.get_extra_info("socket")
        if connected is not None and connected.family == socket.AF_UNIX:
            # TCP sizes its buffer by itself; this one would stay at 208 KiB, a wake-up each.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BUFFER_BYTES)
        self._tick_later()
        self._owner.connection_opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Let the kernel write where the decoder wants the bytes."""
        del sizehint  # the decoder knows better
        return self._decoder.room

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on the frames that are complete now."""
        self._has_received = True
        transport = self._transport
        if transport is None or transport.is_closing():
            return  # a closing TLS transport still delivers what had arrived
        try:
            for frame in self._decoder.received(nbytes):
                if frame.kind is not HEARTBEAT:
                    self._owner.frame_received(frame)
        except FrameError as error:
            self.close(f"the peer broke the protocol: {error}", tell_peer=True)

    def eof_received(self) -> None:
        """Note whether the stream ended where it may; returning None closes the transport."""
        if not self._decoder.is_between_frames:
            self._end_reason = self._end_reason or "the peer closed in the middle of a frame"

    def pause_writing(self) -> None:
        """Make senders wait, and take no further requests from a peer that does not read."""
        self.is_writable = False
        self._writable.clear()
        self.hold_reading(ReadHold.PEER_DOES_NOT_READ)

    def resume_writing(self) -> None:
        """Let senders go on."""
        self._wake_senders()
        self.release_reading(ReadHold.PEER_DOES_NOT_READ)

    def connection_lost(self, error: Exception | None) -> None:
        """Stop ticking and tell the owner."""
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._wake_senders()
        default = f"the connection broke: {error}" if error else "the peer closed the connection"
        self._owner.connection_lost(self._end_reason or default)

    def _wake_senders(self) -> None:
        self.is_writable = True
        self._writable.set()

    # Life signs.

    def _tick_later(self) -> None:
        interval_s = self._settings.heartbeat_ms / 1000
        self._tick_timer = self._loop.call_later(interval_s, self._tick)

    def _tick(self) -> None:
        self._tick_later()
        # A closing transport is stalled as long as it is there: its buffer will not empty.
        unsent_bytes = self.transport.get_write_buffer_size()
        is_stalled = not self.is_open or 0 < self._unsent_bytes <= unsent_bytes
        self._stalled_ticks = self._stalled_ticks + 1 if is_stalled else 0
        is_silent = not self._has_received and not self._holds
        self._silent_ticks = self._silent_ticks + 1 if is_silent else 0
        if self._silent_ticks >= self._settings.dead_after_heartbeats:
            self.abort("the peer has been silent for too long")
        elif self._stalled_ticks >= self._settings.dead_after_heartbeats:
            self.abort("the peer has not read for too long")
        elif not self._has_sent and not unsent_bytes:
            self.send(Kind.HEARTBEAT)
        self._has_received = self._has_sent = False
        self._unsent_bytes = unsent_bytes


def peer_of(transport: asyncio.Transport) -> Peer:
    """Return who is at the other end; raise IdentityError when it may not speak plainly."""
    address = str(transport.get_extra_info("peername"))
    if transport.get_extra_info("ssl_object") is not None:
        identity = identity_of_certificate(transport.get_extra_info("peercert"))
        return Peer("tls", address, identity)
    connected: Any = transport.get_extra_info("socket")
    if connected.family == socket.AF_UNIX:
        return Peer("unix", "unix")
    try:
        names = (connected.getpeername(), connected.getsockname())
    except OSError as error:
        raise IdentityError(f"{address} was gone before it was known: {error}") from error
    if all(map(socket_is_loopback, names)):
        return Peer("loopback", address)
    raise IdentityError(f"{address} is not loopback and speaks plain TCP: use TLS certificates")
