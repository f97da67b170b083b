"""A client's connection: start-up packets, TLS, login; then bytes into a Session.

    StartupMessage ─► who is that? ─► SCRAM ─► a link logs in with the same keys ─► the client is in

The login at a server comes before the client is let in the first time that this user comes to this
database with these parameters, so that a server's refusal is the client's; after that what the
server said of itself is known, and a session gets a link when it needs one.

Everything up to the end of the login has one limit of time.
"""

import asyncio
import os
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from pgwire.backend import BackendKeyData
from pgwire.errors import ProtocolError
from pgwire.frames import PACKET_KIND, FrameReader
from pgwire.messages import FRONTEND_LIMITS
from pgwire.server_handshake import ServerHandshake
from pgwire.startup import (
    ACCEPTED,
    REFUSED,
    CancelRequest,
    GssRequest,
    SslRequest,
    StartupMessage,
    decode_startup,
)

from .catalog_reader import CatalogAwayError
from .wire import error_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .admin import AdminSession
    from .session import Session
    from .worker import Worker

_LAST_HEARD: Final = 52  # tcpi_last_data_recv, in milliseconds: linux/tcp.h
_TCP_INFO_BYTES: Final = _LAST_HEARD + 4
KEY_BYTES: Final = 4  # of a cancel key below protocol 3.2
LONG_KEY_BYTES: Final = 32
EARLY_BYTES_MAX: Final = 64 * 1024  # of what comes before its login has been worked on
REQUESTS_MAX: Final = 3  # TLS, GSSAPI, and the start itself

log = structlog.get_logger()


class LoginRefusedError(Exception):
    """The client is not let in: `frame` tells it why."""

    def __init__(self, sqlstate: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.frame = error_frame(sqlstate, message, hint=hint, severity="FATAL")


class ClientConnection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, worker: "Worker") -> None:
        self.session: Session | AdminSession | None = None
        self.user = self.database = self.application = ""
        self.settings: Mapping[str, str] = {}
        """Of the user in this database, as the catalog has them."""
        self.settings_digest = ""
        self.pid = 0
        self.cancel_key = b""
        self.is_counted = False
        self.connected_s = asyncio.get_running_loop().time()
        self._worker = worker
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(FRONTEND_LIMITS, starts_with_packet=True)
        self._requests = 0
        self._handshake: ServerHandshake | None = None
        self._task: asyncio.Task[None] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._early = b""  # what came while the login was still being worked on
        self._is_encrypted = False
        self._is_ended = False
        self._pauses = 0

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; again when TLS has begun."""
        transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        is_new = self._transport is None
        self._transport = transport
        if is_new:
            self._worker.clients.add(self)
            sock = transport.get_extra_info("socket")
            if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._start_limit()

    def data_received(self, data: bytes) -> None:
        """Take what the client says during its login; after that, its session does."""
        try:
            if not self._is_ended:
                self._log_in(data)
        except (ProtocolError, ValueError) as error:
            sqlstate = getattr(error, "sqlstate", ProtocolError.sqlstate)
            text = str(error) if isinstance(error, ProtocolError) else "a message is malformed"
            self._end_with(error_frame(sqlstate, text, severity="FATAL"))

    def eof_received(self) -> bool:
        """The client says no more; whether it still hears."""
        session = self.session
        return session is not None and session.end_of_input()

    def fault(self, reason: str) -> None:
        """End it: the client has lost its way."""
        self._end_with(error_frame(ProtocolError.sqlstate, reason, severity="FATAL"))

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        self._is_ended = True
        self._stop_limit()
        if self._task is not None:
            self._task.cancel()
        self._worker.gone(self)
        if self.session is not None:
            self.session.closed()
            self.session = None

    def pause_writing(self) -> None:
        """The client does not read: nor do we from its servers."""
        self._worker.pause_links(self, is_paused=True)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._worker.pause_links(self, is_paused=False)

    # --- Client ---------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send, sometime."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """End the connection once everything is sent."""
        self._is_ended = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it at once."""
        self._is_ended = True
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Take nothing more for the moment; there may be two reasons for that."""
        self._pauses += 1
        if self._pauses == 1 and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on, once there is no reason against it."""
        self._pauses -= 1
        if self._pauses == 0 and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- Logging in -----------------------------------------------------------------------------

    def _log_in(self, data: bytes) -> None:
        if self._task is not None and not self._task.done():
            self._early += data
            if len(self._early) > EARLY_BYTES_MAX:
                raise ProtocolError("a client sends too much before it is let in")
            return
        self._reader.feed(data)
        for kind, body in self._reader:
            if self._handshake is None:
                if kind != PACKET_KIND:
                    raise ProtocolError("a client sends commands before it has begun")
                self._take_packet(bytes(body))
                if self._task is not None:
                    self._keep_rest()
                    return
            else:
                self.write(self._handshake.receive(kind, body))
                if self._handshake.refusal:
                    self._refused(self._handshake.refusal)
                    return
                if self._handshake.is_proven:
                    self._task = asyncio.ensure_future(self._enter())
                    self._keep_rest()
                    return

    def _keep_rest(self) -> None:
        """What is left in the reader belongs to what comes later."""
        if not self._reader.is_between_frames:
            raise ProtocolError("a client goes on without waiting for the answer to its login")

    def _take_packet(self, body: bytes) -> None:
        packet = decode_startup(body)
        self._requests += 1
        if self._requests > REQUESTS_MAX:
            raise ProtocolError("a client asks again and again how to begin")
        if isinstance(packet, CancelRequest):
            self._worker.cancels.take(packet.pid, packet.key)
            self.close()
        elif isinstance(packet, GssRequest):
            self.write(REFUSED)
        elif isinstance(packet, SslRequest):
            self._answer_tls()
        else:
            self._task = asyncio.ensure_future(self._begin(packet))

    def _answer_tls(self) -> None:
        context = self._worker.client_tls
        if context is None or self._is_encrypted:
            self.write(REFUSED)
            return
        # Whatever came in the clear behind the request is nobody's: an attacker may have sent it.
        if not self._reader.is_between_frames:
            raise ProtocolError("a client sends more before its TLS has begun")
        self.write(ACCEPTED)
        self._task = asyncio.ensure_future(self._start_tls(context))

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        assert self._transport is not None, "a client is connected"
        loop = asyncio.get_running_loop()
        try:
            encrypted = await loop.start_tls(
                self._transport, self, context, server_side=True,
                ssl_handshake_timeout=self._worker.settings.limits.login_ms / 1000,
            )  # fmt: skip
        except (OSError, ssl.SSLError) as error:
            log.info("a client's TLS failed", reason=str(error)[:200])
            self.abort()
            return
        self._task = None
        self._is_encrypted = True
        if encrypted is not None:
            self._transport = encrypted
        self._take_early()

    async def _begin(self, startup: StartupMessage) -> None:
        """Find out who that is, and ask it to prove it."""
        try:
            decision = await self._worker.admit(self, startup, is_encrypted=self._is_encrypted)
        except LoginRefusedError as refused:
            self._end_with(refused.frame)
            return
        except CatalogAwayError as error:
            self._end_with(error_frame("57P03", str(error), severity="FATAL"))
            return
        self._handshake = ServerHandshake(startup, decision, random_bytes=os.urandom, waits=True)
        self._task = None
        self.write(self._handshake.start())
        if self._handshake.refusal:
            self.close()
        self._take_early()

    async def _enter(self) -> None:
        """Let the client in, once a server has."""
        handshake = self._handshake
        assert handshake is not None, "it has proven itself"
        try:
            session, parameters = await self._worker.enter(self, handshake)
        except LoginRefusedError as refused:
            self._end_with(refused.frame)
            return
        key_bytes = LONG_KEY_BYTES if handshake.startup.minor >= 2 else KEY_BYTES  # noqa: PLR2004  # 3.2
        self.pid, self.cancel_key = self._worker.cancels.new_key(self, key_bytes)
        self._stop_limit()
        self._task = self._handshake = None
        self.write(handshake.let_in(parameters, BackendKeyData(self.pid, self.cancel_key)))
        self._carry(session)
        self._take_early()

    def _carry(self, session: "Session | AdminSession") -> None:
        """Be a session's from now on. Bytes take the shortest way: this object is not on it."""
        assert self._transport is not None, "a client is connected"
        self.session = session
        self.data_received = session.feed  # type: ignore[method-assign]  # as said
        self.write = self._transport.write  # type: ignore[method-assign]  # likewise
        self._transport.set_protocol(self)  # uvloop looks a protocol's methods up once

    def _take_early(self) -> None:
        early, self._early = self._early, b""
        if early and not self._is_ended:
            self.data_received(early)

    def state(self) -> tuple[str, str]:
        """Return what the client is doing, and with which server."""
        links = getattr(self.session, "links", None)
        if links is None:
            return ("login" if self.session is None else "admin", "")
        link = links.primary or links.replica
        if link is None:
            return ("idle", "")
        return ("active" if link.is_busy else "idle", link.target_name)

    def heard_ms_ago(self) -> int | None:
        """Return how long ago the client sent something; None: the kernel does not say."""
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        if sock is None:
            return None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return None
        return int.from_bytes(info[_LAST_HEARD:], sys.byteorder)

    def peer_certificate(self) -> dict[str, Any] | None:
        """Return the certificate that the client has shown, if it was checked."""
        if self._transport is None:
            return None
        found: dict[str, Any] | None = self._transport.get_extra_info("peercert")
        return found or None

    # --- The end --------------------------------------------------------------------------------

    def _refused(self, reason: str) -> None:
        log.info("a client was refused", user=self.user[:63], reason=reason[:200])
        self.close()

    def _too_slow(self) -> None:
        if self._task is not None and not self._task.done():
            # It waits for us, and we for a compute: that has limits of its own.
            self._start_limit()
            return
        self._limit = None
        self._end_with(error_frame("08P01", "the login took too long: try again", severity="FATAL"))

    def _end_with(self, error: bytes) -> None:
        if not self._is_ended:
            self.write(error)
            self.close()

    def _start_limit(self) -> None:
        limit_s = self._worker.settings.limits.login_ms / 1000
        self._limit = asyncio.get_running_loop().call_later(limit_s, self._too_slow)

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
