"""One connection of the replication server: start-up, TLS, login, time limits, close.

    first packet ──► [TLS] ──► start-up packet ──► login ──► replication_serving.py
         └──────────── authentication_timeout_ms ────┘

The session is the connection's asyncio protocol, and the link through which the reader is served.
Whatever goes wrong ends in `_gone`, exactly once, and from then on nothing is sent.

What a peer can cost is bounded: frames by their kind, bytes to be sent by the write buffer, silence
by timeouts, and a close that the peer does not let happen by an abort.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, cast

import msgspec
import structlog

from fabric.addresses import socket_is_loopback
from fabric.frames import Buffer
from fabric.tls import Identity, IdentityError, identity_of_certificate
from pgwire.backend import BackendKeyData, ErrorResponse
from pgwire.errors import ProtocolError
from pgwire.frames import PACKET_BYTES_MAX, PACKET_KIND, FrameReader
from pgwire.messages import encode
from pgwire.server_handshake import Decision, ServerHandshake
from pgwire.startup import (
    ACCEPTED,
    REFUSED,
    CancelRequest,
    GssRequest,
    SslRequest,
    StartupMessage,
    decode_startup,
)

from .replication_admission import Applicant
from .replication_answers import shutdown_of_stream
from .replication_serving import LIMITS, Reader, Serving
from .replication_source import Gate, WalSource

_CANCEL_KEY_BYTES: Final = 4  # what every version of the protocol takes

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationSettings:
    """What a user may tune."""

    connections_max: Annotated[int, msgspec.Meta(ge=1)] = 256
    """Standbys, redo engines and tools of all branches. A connection costs some 20 KiB."""

    authentication_timeout_ms: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """From the first byte to the first command; a sixth of PostgreSQL's, for nobody types here."""

    keepalive_interval_ms: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """How often a stream says that it lives; also how exact the two limits below are."""

    silence_timeout_ms: Annotated[int, msgspec.Meta(ge=1)] = 60_000
    """A reader that streams and says nothing for so long is gone: PostgreSQL's own default."""

    idle_timeout_ms: Annotated[int, msgspec.Meta(ge=1)] = 3_600_000
    """Between streams. A standby that reached a fork is silent until it has replayed up to it."""

    write_buffer_bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 1024 * 1024
    """How much may wait to be sent to one reader: eight messages of a reader that lags."""

    drain_timeout_ms: Annotated[int, msgspec.Meta(ge=1)] = 2_000
    """How long a close may take, of one connection or of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the server gives to its sessions."""

    settings: ReplicationSettings
    tls: ssl.SSLContext | None
    source_of: Callable[[str], WalSource | None]
    gate_of: Callable[[Applicant], Gate | None]
    decide: Callable[[Applicant], Decision]
    random_bytes: Callable[[int], bytes]
    now_us: Callable[[], int]
    opened: Callable[["Session"], int]  # its number; ConnectionRefusedError: not now
    admitted: Callable[["Session"], None]
    gone: Callable[["Session"], None]


class Session(asyncio.Protocol):
    """One connection. The server keeps it from `opened` to `gone`."""

    def __init__(self, host: Host) -> None:
        self.serving: Serving | None = None
        self._host = host
        self._settings = host.settings
        self._loop = asyncio.get_running_loop()
        self._frames = FrameReader(LIMITS, starts_with_packet=True)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changing: asyncio.Task[None] | None = None  # to TLS
        self._applicant: Applicant | None = None
        self._source: WalSource | None = None
        self._handshake: ServerHandshake | None = None
        self._asked_for: set[type] = set()
        self._early = b""
        self._number = 0
        self._peer = ""
        self._is_paused = self._is_closing = self._is_gone = self._is_encrypted = False
        self._received_at_s = 0.0

    # The link.

    @property
    def is_writable(self) -> bool:
        """Whether little enough waits to be sent, and the connection is open."""
        return not (self._is_paused or self._is_closing)

    def write(self, *buffers: Buffer) -> None:
        """Send bytes. The buffers must not change afterwards."""
        if not self._is_closing:
            assert self._transport is not None
            self._transport.writelines(buffers)

    def fail(self, sqlstate: str, message: str) -> None:
        """Tell the peer why, and close."""
        if not self._is_closing:
            log.info("replication connection refused", peer=self._peer, reason=message)
        self.write(encode(ErrorResponse.of("FATAL", sqlstate, message)))
        self.close()

    def close(self) -> None:
        """Close when what was written is sent."""
        if self._is_closing:
            return
        self._is_closing = True
        assert self._transport is not None
        self._transport.close()
        self._set_timer(self._settings.drain_timeout_ms, self.abort)

    # The server's verbs.

    @property
    def group(self) -> str:
        """The branch that is read; "" before it is known."""
        return "" if self._applicant is None else self._applicant.group

    def shut_down(self) -> None:
        """End as PostgreSQL does, so that standbys look for another node at once."""
        if self.serving is not None and self.serving.is_streaming:
            self.write(shutdown_of_stream())
            self.close()
        elif self._changing is not None:
            self.abort()  # nothing can be said in the middle of a TLS handshake
        else:
            self.fail("57P01", "terminating connection due to administrator command")

    def abort(self) -> None:
        """Close, whatever waits to be sent."""
        self._is_closing = True
        assert self._transport is not None
        self._transport.abort()
        if self._changing is not None:
            self._gone()  # a TLS handshake that is under way may keep the loss to itself

    # The connection's events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first packet, or say why not."""
        # uvloop's transports do not inherit from asyncio's.
        self._use(cast("asyncio.Transport", transport))
        self._received_at_s = self._loop.time()
        connection = transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._peer = _peer_text(transport)
        self._set_timer(self._settings.authentication_timeout_ms, self._authentication_is_late)
        try:
            self._number = self._host.opened(self)
        except ConnectionRefusedError as error:
            self.fail("53300", str(error))  # too_many_connections

    def data_received(self, data: bytes) -> None:
        """Take bytes of the peer."""
        self._received_at_s = self._loop.time()
        if self._changing is not None:
            self._keep_early(data)
            return
        self._frames.feed(data)
        try:
            for kind, body in self._frames:
                if self._is_closing:
                    return
                self._frame(kind, body)
        except ProtocolError as error:
            self.fail(error.sqlstate, str(error))

    def pause_writing(self) -> None:
        """Enough waits to be sent."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_paused = False
        if self.serving is not None and not self._is_closing:
            self.serving.pump()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended, by whomever."""
        del error
        self._gone()

    # Start-up.

    def _frame(self, kind: int, body: memoryview) -> None:
        if self.serving is not None:
            self.serving.receive(kind, body)
        elif self._handshake is not None:
            self._send_handshake(self._handshake.receive(kind, body))
        else:
            assert kind == PACKET_KIND, "packets come until a start-up packet has"
            self._packet(body)

    def _packet(self, body: memoryview) -> None:
        match decode_startup(body):
            case SslRequest():
                self._once(SslRequest)
                self._answer_ssl_request()
            case GssRequest():
                self._once(GssRequest)
                self.write(REFUSED)
            case CancelRequest():
                self.close()  # nothing that is served here takes long, and no answer is expected
            case StartupMessage() as startup:
                self._log_in(startup)

    def _once(self, request: type) -> None:
        if request in self._asked_for or self._is_encrypted:
            raise ProtocolError("the peer asks for encryption again")
        self._asked_for.add(request)

    def _log_in(self, startup: StartupMessage) -> None:
        assert self._transport is not None
        applicant = Applicant.of(
            startup,
            identity=self._identity(),
            is_local=_is_local(self._transport),
            is_encrypted=self._is_encrypted,
        )
        self._applicant = applicant
        self._source = self._host.source_of(applicant.group)
        self._handshake = ServerHandshake(
            startup,
            self._host.decide(applicant),
            random_bytes=self._host.random_bytes,
            parameters=_parameters(self._source),
            backend_key=BackendKeyData(self._number, self._host.random_bytes(_CANCEL_KEY_BYTES)),
        )
        self._send_handshake(self._handshake.start())

    def _identity(self) -> Identity | None:
        assert self._transport is not None
        certificate = self._transport.get_extra_info("peercert")
        try:
            return identity_of_certificate(certificate) if certificate else None
        except IdentityError as error:
            raise ProtocolError(str(error)) from error

    def _send_handshake(self, data: bytes) -> None:
        assert self._handshake is not None
        assert self._applicant is not None
        if self._handshake.is_done and self._source is None:
            # Only now, so that nobody finds out from outside which branches are here.
            self.fail("3D000", f"{self._applicant.group} is not on this node: ask another one")
            return
        self.write(data)
        if self._handshake.refusal:
            log.info("replication login refused", peer=self._peer, reason=self._handshake.refusal)
            self.close()
        elif self._handshake.is_done:
            self._serve(self._applicant)

    def _serve(self, applicant: Applicant) -> None:
        assert self._source is not None
        reader = Reader(
            session=self._number,
            group=applicant.group,
            application_name=applicant.application_name,
            peer=self._peer,
            source=self._source,
            gate=self._host.gate_of(applicant),
        )
        self.serving = Serving(reader, self, now_us=self._host.now_us)
        self._host.admitted(self)
        self._set_timer(self._settings.keepalive_interval_ms, self._look_after)

    # TLS.

    def _answer_ssl_request(self) -> None:
        if not self._frames.is_between_frames:
            # It came before the encryption that it would be taken for: somebody put it there.
            raise ProtocolError("bytes follow the request for TLS before its answer")
        if self._host.tls is None:
            self.write(REFUSED)
            return
        assert self._transport is not None
        self.write(ACCEPTED)
        self._transport.pause_reading()
        self._changing = self._loop.create_task(self._change_to_tls(self._host.tls))

    async def _change_to_tls(self, context: ssl.SSLContext) -> None:
        assert self._transport is not None
        raw = self._transport
        try:
            transport = await self._loop.start_tls(
                raw,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._settings.authentication_timeout_ms / 1000,
            )
        except OSError as error:  # as ssl.SSLError and TimeoutError are
            log.info("replication TLS failed", peer=self._peer, reason=str(error))
            self._changing = None
            raw.abort()
            self._gone()
            return
        assert transport is not None
        self._changing = None
        self._is_encrypted = True
        self._use(transport)
        if self._early:
            early, self._early = self._early, b""
            self.data_received(early)

    def _keep_early(self, data: bytes) -> None:
        """Keep what came with the end of the handshake, until we can answer through TLS.

        It has come through TLS: the plain connection is not read from any more.
        """
        self._early += data
        if len(self._early) > PACKET_BYTES_MAX:
            log.info("replication peer is too hasty", peer=self._peer)
            self.abort()

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=self._settings.write_buffer_bytes_max)

    # Time, and the end.

    def _set_timer(self, delay_ms: int, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_ms / 1000, action)

    def _authentication_is_late(self) -> None:
        log.info("replication login takes too long", peer=self._peer)
        self.abort()

    def _look_after(self) -> None:
        """Keep a stream alive, and end what has been silent for too long."""
        assert self.serving is not None
        settings = self._settings
        is_streaming = self.serving.is_streaming
        limit_ms = settings.silence_timeout_ms if is_streaming else settings.idle_timeout_ms
        silent_ms = (self._loop.time() - self._received_at_s) * 1000
        if silent_ms >= limit_ms:
            log.info("replication reader is silent", peer=self._peer, silent_ms=round(silent_ms))
            self.abort()
            return
        self.serving.keepalive(reply_requested=silent_ms >= limit_ms / 2)
        self._set_timer(settings.keepalive_interval_ms, self._look_after)

    def _gone(self) -> None:
        if self._is_gone:
            return
        self._is_gone = self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._changing is not None:
            self._changing.cancel()
        if self.serving is not None:
            self.serving.end()
        self._host.gone(self)


def _parameters(source: WalSource | None) -> list[tuple[str, str]]:
    """Return what clients want to know; libpq's tools refuse to work without some of these."""
    if source is None:
        return []
    return [
        ("server_version", source.server_version),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("in_hot_standby", "off"),
    ]


def _is_local(transport: asyncio.Transport) -> bool:
    if transport.get_extra_info("socket").family == socket.AF_UNIX:
        return True
    return socket_is_loopback(transport.get_extra_info("peername"))


def _peer_text(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unix"
