"""The way into a compute: TCP, TLS if it is asked for, login; then it is somebody else's.

    transport, handshake = await log_in(target, tls, parameters, secret)
    transport.set_protocol(protocol)
    transport.resume_reading()

The transport does not read when it is handed over: nothing gets lost between the two protocols.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Final, cast

from pgwire.client_handshake import ClientHandshake, ServerRefusedError
from pgwire.errors import ProtocolError
from pgwire.frames import FrameReader, capped
from pgwire.messages import BACKEND_LIMITS
from pgwire.scram import ScramError, ScramKeys, tls_server_end_point
from pgwire.startup import ACCEPTED, SslRequest, encode_startup

from .topology import Target

FRAME_BYTES_MAX: Final = 64 * 1024  # an error with all its fields
LIMITS: Final = capped(BACKEND_LIMITS, FRAME_BYTES_MAX)
REFUSALS: Final = (ProtocolError, ScramError, ServerRefusedError, ValueError)


async def log_in(
    target: Target,
    tls: ssl.SSLContext | None,
    parameters: Mapping[str, str],
    secret: str | ScramKeys | None,
) -> tuple[asyncio.Transport, ClientHandshake]:
    """Return a connection that waits for a command; raises what went wrong, OSError or REFUSALS."""
    loop = asyncio.get_running_loop()
    login = _Login()
    try:
        await loop.create_connection(lambda: login, target.host, target.port)
        binding = None if tls is None else await login.encrypt(tls, target.host)
        handshake = ClientHandshake(
            parameters, secret, random_bytes=os.urandom, binding_data=binding
        )
        transport = await login.run(handshake)
    except BaseException:
        login.abort()
        raise
    return transport, handshake


class _Login(asyncio.Protocol):
    """A connection up to the end of its login."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._handshake: ClientHandshake | None = None
        self._reader = FrameReader(LIMITS)
        self._waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def encrypt(self, tls: ssl.SSLContext, host: str) -> bytes | None:
        """Begin TLS; return what SCRAM binds to."""
        loop = asyncio.get_running_loop()
        transport = self._open_transport()
        transport.write(encode_startup(SslRequest()))
        # More than one byte would be somebody's who writes before the encryption has begun.
        if await self._waiting != ACCEPTED:
            raise ProtocolError("the server does not speak TLS, and links must be encrypted")
        encrypted = await loop.start_tls(transport, self, tls, server_hostname=host)
        assert encrypted is not None, "uvloop and asyncio return one"
        self._transport, self._waiting = encrypted, loop.create_future()
        certificate = encrypted.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return None if certificate is None else tls_server_end_point(certificate)

    async def run(self, handshake: ClientHandshake) -> asyncio.Transport:
        """Log in; return the transport, which does not read."""
        self._handshake = handshake
        self._open_transport().write(handshake.start())
        await self._waiting
        transport = self._open_transport()
        if transport.is_closing():  # whoever gets it would never hear of that
            raise ConnectionResetError("the server hung up")
        return transport

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember how to send; again when TLS has begun."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's: no subclass
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Take what the server says."""
        if self._waiting.done():
            self._end(ProtocolError("the server speaks before it is spoken to"))
            return
        if self._handshake is None:
            self._waiting.set_result(data)
            return
        try:
            self._continue(self._handshake, data)
        except REFUSALS as error:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Hear that it is over."""
        self._end(error or ConnectionResetError("the server hung up"))

    def _continue(self, handshake: ClientHandshake, data: bytes) -> None:
        transport = self._open_transport()
        self._reader.feed(data)
        for kind, body in self._reader:
            answer = handshake.receive(kind, body)
            if answer:
                transport.write(answer)
            if handshake.is_done:
                if not self._reader.is_between_frames:
                    raise ProtocolError("the server goes on after its login")
                transport.pause_reading()
                self._waiting.set_result(b"")
                return

    def _open_transport(self) -> asyncio.Transport:
        assert self._transport is not None, "connections are made before anything is said"
        return self._transport

    def _end(self, error: Exception) -> None:
        if not self._waiting.done():
            self._waiting.set_exception(error)
            self._waiting.exception()  # nobody may be waiting any more
        self.abort()
