"""Connections to computes: TCP, TLS if it is asked for, login; then bytes into a Link.

The one place that reads from and writes to servers. What a server sends is held to its frames by
`link.py`; whatever is wrong with it ends the connection, and the session goes on elsewhere.

Back pressure: a client that does not read stops the reading from its server, by `pause_reading`.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

import structlog

from pgwire.backend import ErrorResponse
from pgwire.client_handshake import ClientHandshake, ServerRefusedError
from pgwire.errors import ProtocolError
from pgwire.frames import FrameReader
from pgwire.messages import BACKEND_LIMITS, encode
from pgwire.scram import ScramError, tls_server_end_point
from pgwire.startup import ACCEPTED, CancelRequest, SslRequest, encode_startup

from .intake import Tap
from .link import Link
from .pool import Login, Pool, target_id
from .topology import Target
from .wire import TERMINATE_FRAME, error_frame

CONNECT_S: Final = 5.0
CANCEL_S: Final = 5.0
NO_ANSWER: Final = ""

log = structlog.get_logger()


class LinkConnection(asyncio.Protocol):
    """One connection to a compute."""

    def __init__(self, on_end: Callable[["LinkConnection"], None]) -> None:
        self.link: Link | None = None
        self.backend_key = b""
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._handshake: ClientHandshake | None = None
        self._reader = FrameReader(BACKEND_LIMITS)
        self._tls_answer: asyncio.Future[bytes] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_ended = False
        self._is_paused = False
        self._held_up: Tap | None = None  # the client that waits for this server to read

    # --- Logging in -----------------------------------------------------------------------------

    async def open(
        self, target: Target, login: Login, tls: ssl.SSLContext | None
    ) -> ClientHandshake:
        """Connect and log in; raises what went wrong."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, target.host, target.port)
        binding: bytes | None = None
        if tls is not None:
            binding = await self._start_tls(tls, target.host)
        parameters = {
            "user": login.key.user,
            "database": login.key.database,
            **dict(login.key.parameters),
        }
        self._handshake = ClientHandshake(
            parameters, login.keys, random_bytes=os.urandom, binding_data=binding
        )
        self.write(self._handshake.start())
        await self._ready
        return self._handshake

    async def _start_tls(self, tls: ssl.SSLContext, host: str) -> bytes | None:
        loop = asyncio.get_running_loop()
        self._tls_answer = loop.create_future()
        self.write(encode_startup(SslRequest()))
        answer = await self._tls_answer
        self._tls_answer = None
        if answer != ACCEPTED:
            raise ProtocolError("the server does not speak TLS, and links must be encrypted")
        assert self._transport is not None, "it has just answered"
        encrypted = await loop.start_tls(self._transport, self, tls, server_hostname=host)
        assert encrypted is not None, "the loop returns one"
        self._transport = encrypted
        certificate = encrypted.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return None if certificate is None else tls_server_end_point(certificate)

    def _continue(self, data: bytes) -> None:
        if self._tls_answer is not None:
            if not self._tls_answer.done():
                self._tls_answer.set_result(data)  # more than a byte is no answer
            return
        handshake = self._handshake
        if handshake is None:
            raise ProtocolError("the server speaks before it is spoken to")
        self._reader.feed(data)
        for kind, body in self._reader:
            answer = handshake.receive(kind, body)
            if answer:
                self.write(answer)
            if handshake.is_done:
                if not self._reader.is_between_frames:
                    raise ProtocolError("the server goes on after its login")
                if not self._ready.done():
                    self._ready.set_result(None)
                return

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember how to send; again when TLS has begun."""
        transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Take what the server says during its login; after that, the link does."""
        try:
            self._continue(data)
        except (ProtocolError, ScramError, ServerRefusedError, ValueError) as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            self.abort()

    def carry(self, link: Link) -> None:
        """Be a link from now on. Bytes take the shortest way: this object is not on it."""
        assert self._transport is not None, "it has logged in"
        self.link = link
        self.data_received = link.feed  # type: ignore[method-assign]  # as said
        self.write = self._transport.write  # type: ignore[method-assign]  # likewise
        self._transport.set_protocol(self)  # uvloop looks a protocol's methods up once

    def fault(self, reason: str) -> None:
        """End it: the server has lost its way."""
        log.warning("a server has lost its way", reason=reason[:300])
        self.abort()

    def eof_received(self) -> None:
        """The server has said all it has to: the connection ends."""

    def connection_lost(self, error: Exception | None) -> None:
        """Hear that it is over."""
        if self._is_ended:
            return
        self._is_ended = True
        self.resume_writing()
        for waiting in (self._ready, self._tls_answer):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error or ConnectionResetError("the server hung up"))
                waiting.exception()  # nobody may be waiting any more
        self._on_end(self)

    def pause_writing(self) -> None:
        """The server does not read: nor do we from its session's client."""
        owner = self.link.owner if self.link is not None else None
        client = None if owner is None else owner.client
        if isinstance(client, Tap):
            client.pause_reading()
            self._held_up = client

    def resume_writing(self) -> None:
        """The server reads again; whoever was held up goes on, wherever its session is now."""
        client, self._held_up = self._held_up, None
        if client is not None:
            client.resume_reading()

    # --- Wire -----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send, sometime."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """End the connection once everything is sent."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(TERMINATE_FRAME)
            self._transport.close()

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Take nothing from the server for the moment."""
        transport = self._transport
        if transport is not None and not self._is_paused and not transport.is_closing():
            self._is_paused = True
            transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        transport = self._transport
        if transport is not None and self._is_paused and not transport.is_closing():
            self._is_paused = False
            transport.resume_reading()


async def open_link(
    pool: Pool,
    target: Target,
    login: Login,
    tls: ssl.SSLContext | None,
    on_end: Callable[[LinkConnection], None],
) -> Link:
    """Return a link that has logged in; raises what went wrong."""
    connection = LinkConnection(on_end)
    try:
        async with asyncio.timeout(CONNECT_S):
            handshake = await connection.open(target, login, tls)
    except BaseException:
        connection.abort()
        raise
    link = Link(connection, login.key, target_id(target), is_primary=pool.replica is None)
    link.parameters.update(handshake.server_parameters)
    key = handshake.backend_key
    if key is not None:
        link.backend_pid, connection.backend_key = key.pid, key.key
    connection.carry(link)
    return link


def refusal(error: BaseException) -> tuple[str, bytes]:
    """Return the SQLSTATE of a login that failed, "" if there was no answer, and what to say."""
    if isinstance(error, ServerRefusedError):
        fields = {**error.fields, "S": "FATAL", "V": "FATAL"}
        return error.sqlstate, encode(ErrorResponse(fields))
    if isinstance(error, ScramError):
        said = error_frame("28000", f"no login at the server: {error}", severity="FATAL")
        return "28000", said
    return NO_ANSWER, error_frame(
        "57P03", "the server does not take connections at the moment", severity="FATAL"
    )


async def cancel(target: Target, pid: int, key: bytes, tls: ssl.SSLContext | None) -> None:
    """Ask a server to end what a backend is doing. There is no answer."""
    try:
        async with asyncio.timeout(CANCEL_S):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                if tls is not None:
                    writer.write(encode_startup(SslRequest()))
                    if await reader.readexactly(1) != ACCEPTED:
                        return
                    await writer.start_tls(tls, server_hostname=target.host)
                writer.write(encode_startup(CancelRequest(pid, key)))
                await writer.drain()
                await reader.read(1)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        log.info("a cancel request did not reach its server", reason=str(error)[:200])
