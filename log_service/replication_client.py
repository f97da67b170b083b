"""A client of PostgreSQL's physical replication: how a log leader gets the primary's WAL.

    client = await ReplicationClient.connect(upstream)
    info = await client.identify()
    await client.create_slot("log")
    await client.start(slot="log", lsn=..., tli=info.tli, handler=handler)
    # from here on handler.on_wal(pieces), once for each burst of bytes that the kernel had;
    client.report(lsn)                            # and commits up to there return

WAL that was reported is what a primary's commits wait for: a report is one small write, at once,
and a burst is one callback, however many pieces are in it. Memory is bounded: who cannot keep up
calls `pause_reading`, and the server's sender waits.

Nothing is tried again here, and nothing logged: both need to know what the connection is for.

    ServerRefusedError     the server said no; `is_open` tells whether it still takes commands
    ConnectionLostError    there is no connection (any more): connect again
    ScramError,            the server does not prove who it is, or wants what we do not give: look
    IdentityError          at the settings
    ProtocolError          the server talks nonsense

All but the first close the connection. While WAL streams, `handler.on_lost` is told instead.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from fabric.addresses import Address, TcpAddress, UnixAddress, socket_is_loopback
from fabric.buffers import BufferPool
from fabric.ids import SystemIdentifier
from fabric.lsn import Lsn, Tli
from fabric.tls import ClientTls, IdentityError, identity_of_certificate
from pgwire.client_handshake import ClientHandshake, ServerRefusedError
from pgwire.errors import ProtocolError
from pgwire.replication import (
    Command,
    CreateReplicationSlot,
    IdentifySystem,
    Show,
    StartReplication,
    TimelineHistory,
    format_command,
)
from pgwire.scram import ChannelBinding, tls_server_end_point

from .upstream_link import ConnectionLostError, Link, Row, WalHandler, texts
from .wal_receiver import CHUNK_BYTES_DEFAULT, Piece, WalReceiver

__all__ = [
    "ChannelBinding",
    "ConnectionLostError",
    "Piece",
    "ReplicationClient",
    "ReplicationSettings",
    "ServerRefusedError",
    "SystemInfo",
    "Upstream",
    "WalHandler",
]

T = TypeVar("T")

POOL_BYTES_DEFAULT: Final = 16 * 1024 * 1024  # 0.05 s of a COPY at 300 MB/s
SLOT_EXISTS: Final = "42710"  # duplicate_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A server, and who we are to it."""

    address: Address  # of a Unix socket the path, <directory>/.s.PGSQL.<port>
    user: str
    application_name: str  # what synchronous_standby_names compares
    password: str | None = field(default=None, repr=False)
    tls: ClientTls | None = None  # None: plain, on loopback or a Unix socket only
    binding: ChannelBinding = ChannelBinding.PREFERRED

    def __post_init__(self) -> None:
        if self.tls is not None and isinstance(self.address, UnixAddress):
            raise ValueError(f"{self.address}: PostgreSQL speaks no TLS on a Unix socket")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationSettings:
    """Limits of one connection."""

    login_timeout_ms: int = 5_000  # connection, TLS and login together
    command_timeout_ms: int = 10_000  # making a slot waits for the server's disk
    # A server that sends nothing is asked for a sign of life, and given up after so long. The death
    # of its process is noticed at once; this is for a lost host.
    silence_ms_max: int = 10_000
    # SO_RCVBUF: how much the kernel queues before the server's sender has to wait. What is queued
    # delays a small commit behind a large COPY. None: as the kernel likes. Of no effect on a Unix
    # socket, where the sender's buffer counts.
    kernel_buffer_bytes: int | None = None
    chunk_bytes: int = CHUNK_BYTES_DEFAULT  # of memory, leased at a time; one is always held


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """Who a server is, and how far its WAL is flushed."""

    system_identifier: SystemIdentifier
    tli: Tli
    flush_lsn: Lsn


class ReplicationClient:
    """One connection to a server, made by `connect`; it does one thing at a time."""

    def __init__(self, upstream: Upstream, settings: ReplicationSettings, link: Link) -> None:
        self._upstream = upstream
        self._settings = settings
        self._link = link

    @classmethod
    async def connect(
        cls,
        upstream: Upstream,
        settings: ReplicationSettings | None = None,
        *,
        pool: BufferPool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Return a client that is logged in. The clients of one thread may share a pool."""
        settings = settings or ReplicationSettings()
        pool = pool or BufferPool(kept_bytes_max=POOL_BYTES_DEFAULT)
        receiver = WalReceiver(pool, chunk_bytes=settings.chunk_bytes)
        link = Link(receiver, silence_ms_max=settings.silence_ms_max, clock=clock)
        client = cls(upstream, settings, link)
        what = f"let us in at {upstream.address}"
        try:
            await client._within(settings.login_timeout_ms, what, client._log_in())
        except OSError as error:
            link.close()
            raise ConnectionLostError(f"{upstream.address} cannot be reached: {error}") from error
        except BaseException:
            link.close()
            raise
        return client

    @property
    def is_open(self) -> bool:
        """Whether the connection is there."""
        return self._link.is_open

    async def identify(self) -> SystemInfo:
        """Ask whose WAL this is."""
        identifier, tli, lsn, _database = await self._row(IdentifySystem(), columns=4)
        return self._parsed(
            (identifier, tli, lsn),
            lambda one, two, three: SystemInfo(
                SystemIdentifier(int(one)), Tli.parse(two), Lsn.parse(three)
            ),
        )

    async def timeline_history(self, tli: Tli) -> bytes:
        """Return the history file of a timeline, as the server has it."""
        _name, content = await self._row(TimelineHistory(tli), columns=2)
        return content or b""

    async def show(self, name: str) -> str:
        """Return the value of a setting."""
        row = await self._row(Show(name), columns=1)
        return self._parsed(row, str)

    async def create_slot(self, name: str) -> None:
        """Have the server keep WAL from now on, unless the slot is there already."""
        try:
            await self._query(CreateReplicationSlot(name, reserve_wal=True))
        except ServerRefusedError as error:
            if error.sqlstate != SLOT_EXISTS:
                raise

    async def start(self, *, slot: str | None, lsn: Lsn, tli: Tli, handler: WalHandler) -> None:
        """Have WAL streamed to the handler, which may hear of it before this returns."""
        text = format_command(StartReplication(slot, lsn, tli))
        await self._within(
            self._settings.command_timeout_ms,
            f"answer {text}",
            self._link.stream(text, lsn, handler),
        )

    def report(self, flush: Lsn) -> None:
        """Tell the server that WAL up to `flush` is safe; less than before is ignored."""
        self._link.report(flush)

    def pause_reading(self) -> None:
        """Let the server's sender wait; what has been received is still handed on."""
        self._link.pause_reading()

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""
        self._link.resume_reading()

    def close(self) -> None:
        """Take leave; the handler hears nothing any more."""
        self._link.close()

    # Logging in.

    async def _log_in(self) -> None:
        upstream = self._upstream
        loop = asyncio.get_running_loop()
        match upstream.address:
            case UnixAddress(path):
                await loop.create_unix_connection(lambda: self._link, path)
            case TcpAddress(host, port):
                await loop.create_connection(lambda: self._link, host, port)
                self._prepare_socket()
        binding_data = None if upstream.tls is None else await self._start_tls(upstream.tls)
        parameters = {
            "user": upstream.user,
            "database": "replication",
            "replication": "true",
            "application_name": upstream.application_name,
        }
        handshake = ClientHandshake(
            parameters,
            upstream.password,
            random_bytes=secrets.token_bytes,
            binding=upstream.binding,
            binding_data=binding_data,
        )
        await self._link.log_in(handshake)

    def _prepare_socket(self) -> None:
        connected: Any = self._link.transport.get_extra_info("socket")
        if self._upstream.tls is None and not socket_is_loopback(connected.getpeername()):
            raise IdentityError(f"{self._upstream.address} is not loopback: use TLS certificates")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._settings.kernel_buffer_bytes is not None:
            size_bytes = self._settings.kernel_buffer_bytes
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)

    async def _start_tls(self, tls: ClientTls) -> bytes | None:
        """Go on in TLS, check whose certificate it is, and return what a login can be bound to."""
        address = self._upstream.address
        await self._link.ask_for_tls()
        await self._link.start_tls(
            tls.context, address.host if isinstance(address, TcpAddress) else None
        )
        transport = self._link.transport
        tls.check_server(identity_of_certificate(transport.get_extra_info("peercert")))
        session: Any = transport.get_extra_info("ssl_object")
        return tls_server_end_point(session.getpeercert(binary_form=True))

    # Commands.

    async def _row(self, command: Command, *, columns: int) -> Row:
        """Return the one row that the answer has to be."""
        rows = await self._query(command)
        if len(rows) != 1 or len(rows[0]) != columns:
            raise self._nonsense(f"the answer to {format_command(command)} is not one row")
        return rows[0]

    async def _query(self, command: Command) -> list[Row]:
        text = format_command(command)
        query = self._link.query(text)
        answer = await self._within(self._settings.command_timeout_ms, f"answer {text}", query)
        return answer.rows

    def _parsed(self, row: Row, parse: Callable[..., T]) -> T:
        try:
            return parse(*texts(row))
        except (TypeError, ValueError) as error:
            raise self._nonsense("the server answered with what was not asked for") from error

    def _nonsense(self, sentence: str) -> ProtocolError:
        error = ProtocolError(sentence)
        self._link.fail(error)
        return error

    async def _within(self, timeout_ms: int, what: str, doing: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await doing
        except TimeoutError:
            error = ConnectionLostError(f"the server did not {what} within {timeout_ms} ms")
            self._link.fail(error)
            raise error from None
