"""Connections of sessions to computes: bytes into a Link, and out of it.

The one place that reads from and writes to servers. What a server sends is held to its frames by
`link.py`; whatever is wrong with it ends the connection, and the session goes on elsewhere.

Back pressure: a client that does not read stops the reading from its server, by `pause_reading`.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

import structlog

from pgwire.backend import BackendKeyData, ErrorResponse
from pgwire.client_handshake import ServerRefusedError
from pgwire.messages import encode
from pgwire.scram import ScramError
from pgwire.startup import ACCEPTED, CancelRequest, SslRequest, encode_startup

from .intake import Tap
from .link import Link
from .logins import Login
from .pool import Pool, target_id
from .server_login import log_in
from .topology import Target
from .wire import TERMINATE_FRAME, error_frame

CONNECT_S: Final = 5.0
CANCEL_S: Final = 5.0
NO_ANSWER: Final = ""

log = structlog.get_logger()


class LinkConnection(asyncio.Protocol):
    """One connection to a compute, from the end of its login on."""

    def __init__(
        self,
        transport: asyncio.Transport,
        key: BackendKeyData | None,
        on_end: Callable[["LinkConnection"], None],
    ) -> None:
        self.link: Link | None = None
        self.key = key
        """What cancels what it does; None: the server has told none."""
        self._on_end = on_end
        self._transport = transport
        self._is_ended = False
        self._is_paused = False
        self._held_up: Tap | None = None  # the client that waits for this server to read

    def carry(self, link: Link) -> None:
        """Begin. Bytes take the shortest way: this object is not on it."""
        self.link = link
        self.data_received = link.feed  # type: ignore[method-assign]  # as said
        self.write = self._transport.write  # type: ignore[method-assign]  # likewise
        self._transport.set_protocol(self)  # uvloop looks a protocol's methods up once
        self._transport.resume_reading()

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def eof_received(self) -> None:
        """The server has said all it has to: the connection ends."""

    def connection_lost(self, error: Exception | None) -> None:
        """Hear that it is over."""
        if self._is_ended:
            return
        self._is_ended = True
        self.resume_writing()
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
        self._transport.write(data)

    def close(self) -> None:
        """End the connection once everything is sent."""
        if not self._transport.is_closing():
            self._transport.write(TERMINATE_FRAME)
            self._transport.close()

    def abort(self) -> None:
        """End it at once."""
        self._transport.abort()

    def fault(self, reason: str) -> None:
        """End it: the server has lost its way."""
        log.warning("a server has lost its way", reason=reason[:300])
        self.abort()

    def pause_reading(self) -> None:
        """Take nothing from the server for the moment."""
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()


async def open_link(
    pool: Pool,
    target: Target,
    login: Login,
    tls: ssl.SSLContext | None,
    on_end: Callable[[LinkConnection], None],
) -> Link:
    """Return a link that has logged in; raises what went wrong."""
    parameters = {
        "user": login.key.user,
        "database": login.key.database,
        **dict(login.key.parameters),
    }
    async with asyncio.timeout(CONNECT_S):
        transport, handshake = await log_in(target, tls, parameters, login.keys)
    key = handshake.backend_key
    connection = LinkConnection(transport, key, on_end)
    link = Link(connection, login.key, target_id(target), is_primary=pool.replica is None)
    link.parameters.update(handshake.server_parameters)
    link.backend_pid = 0 if key is None else key.pid
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


async def cancel(target: Target, key: BackendKeyData, tls: ssl.SSLContext | None) -> None:
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
                writer.write(encode_startup(CancelRequest(key.pid, key.key)))
                await writer.drain()
                await reader.read(1)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        log.info("a cancel request did not reach its server", reason=str(error)[:200])
