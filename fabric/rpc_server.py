"""The serving side of RPC: methods by name, limits, authorisation, deadlines, graceful close.

    server = RpcServer(cluster=ClusterName("blue"))
    server.add(GET_PAGES, pages.get, roles={Role.COMPUTE})
    address = await server.listen(parse_address("unix:///run/seawall/storage.sock"))
    ...
    await server.close()

A call may be made by a TLS peer of our cluster whose certificate has one of the method's roles,
and by any peer of a plain link: those are on this machine only (loopback, or a Unix socket that
only its owner can open). Handlers see the peer and may be stricter.

Limits answer differently by what keeps the connection alive. Too many calls: the call is refused as
busy, and reading goes on, so that cancels get through. Too many queued bytes, or a peer that does
not read its answers: we stop reading.
"""

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Collection
from contextlib import suppress

import structlog

from .addresses import Address, TcpAddress, UnixAddress, host_is_loopback
from .buffers import BufferPool
from .ids import ClusterName, Role
from .rpc import Channel, Handler, Method, Peer, Q, R, RpcSettings
from .rpc_connection import Connection, peer_of
from .rpc_serving import ChannelRoute, Route, ServedConnection
from .tls import IdentityError

UNIX_SOCKET_MODE = 0o600
# A connection that nobody has accepted yet costs the kernel little, a refused one costs a retry.
LISTEN_BACKLOG = 512
PROBE_TIMEOUT_S = 1.0  # connecting blocks only while a living server's backlog is full

log = structlog.get_logger()


class RpcServer:
    """Serves the methods added to it on any number of addresses.

    `cluster` is whose certificates are taken. None takes every cluster that our CA has signed for,
    and then handlers must look at `call.peer.identity.cluster`.
    """

    def __init__(self, *, cluster: ClusterName | None, settings: RpcSettings | None = None) -> None:
        self._cluster = cluster
        self._settings = settings or RpcSettings()
        self._pool = BufferPool(kept_bytes_max=self._settings.pooled_bytes_max)
        self._routes: dict[str, Route] = {}
        self._channels: dict[int, ChannelRoute] = {}
        self._connections_accepted = 0
        self._listeners: list[asyncio.Server] = []
        self._connections: set[ServedConnection] = set()
        self._socket_paths: list[str] = []
        self._is_closing = False

    def add(self, method: Method[Q, R], handler: Handler[Q, R], *, roles: Collection[Role]) -> None:
        """Offer a method to TLS peers with one of `roles`, and to plain local peers."""
        if method.name in self._routes:
            raise ValueError(f"method {method.name} is added twice")
        self._routes[method.name] = Route(method, handler, frozenset(roles))

    def add_channel(self, number: int, channel: Channel, *, roles: Collection[Role]) -> None:
        """Take one-way messages for `number` from TLS peers with `roles`, and plain local peers."""
        if number in self._channels:
            raise ValueError(f"channel {number} is added twice")
        self._channels[number] = ChannelRoute(channel, frozenset(roles))

    async def listen(self, address: Address, tls: ssl.SSLContext | None = None) -> Address:
        """Begin to serve; return the address with the port that was chosen if it was 0."""
        match address:
            case UnixAddress():
                return await self._listen_unix(address)
            case TcpAddress():
                return await self._listen_tcp(address, tls)

    async def close(self) -> None:
        """Stop listening, let the calls under way finish, then end all connections.

        Peers are told to go elsewhere, and leave when their last answer has arrived. Calls that
        cross the goodbye are refused as busy. What is left after `drain_timeout_ms` is cancelled.
        """
        self._is_closing = True
        self._stop_listening()
        for connection in list(self._connections):
            connection.drain("the server is shutting down")
        await self._until_gone()
        left = list(self._connections)
        for connection in left:
            connection.abort("the server is shutting down and has waited long enough")
        if left:
            log.info("rpc connections cut at shutdown", connections=len(left))
            await self._until_gone()
        if self._connections:
            log.error("rpc handlers ignore that they are cancelled", calls=self._calls_left())
        for listener in self._listeners:
            await listener.wait_closed()

    def _stop_listening(self) -> None:
        # The path first: once we have stopped listening, it may be another server's.
        for path in self._socket_paths:
            with suppress(FileNotFoundError):
                os.unlink(path)
        for listener in self._listeners:
            listener.close()

    async def _until_gone(self) -> None:
        gone = [connection.gone for connection in self._connections]
        if gone:
            await asyncio.wait(gone, timeout=self._settings.drain_timeout_ms / 1000)

    def _calls_left(self) -> list[str]:
        return sorted(name for left in self._connections for name in left.calls_under_way())

    async def _listen_unix(self, address: UnixAddress) -> Address:
        remove_stale_socket(address.path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Before bind, so that there is no moment in which anybody else could connect.
            os.fchmod(listening.fileno(), UNIX_SOCKET_MODE)
            listening.bind(address.path)
            listener = await asyncio.get_running_loop().create_unix_server(
                self._accept, sock=listening, backlog=LISTEN_BACKLOG
            )
        except BaseException:
            listening.close()
            raise
        self._listeners.append(listener)
        self._socket_paths.append(address.path)
        return address

    async def _listen_tcp(self, address: TcpAddress, tls: ssl.SSLContext | None) -> Address:
        if tls is None and not host_is_loopback(address.host):
            raise ValueError(f"{address} is not loopback: give it TLS certificates")
        # asyncio wants the handshake limit to be absent when there is no TLS.
        limit_s = self._settings.connect_timeout_ms / 1000 if tls else None
        listener = await asyncio.get_running_loop().create_server(
            self._accept,
            address.host,
            address.port,
            ssl=tls,
            ssl_handshake_timeout=limit_s,
            backlog=LISTEN_BACKLOG,
        )
        self._listeners.append(listener)
        return TcpAddress(address.host, listener.sockets[0].getsockname()[1])

    def _accept(self) -> Connection:
        self._connections_accepted += 1
        served = ServedConnection(
            settings=self._settings,
            routes=self._routes,
            channels=self._channels,
            number=self._connections_accepted,
            admit=self._admit,
            forget=self._connections.discard,
        )
        return Connection(served, self._settings, self._pool)

    def _admit(self, served: ServedConnection, transport: asyncio.Transport) -> Peer:
        """Return who connected, or raise IdentityError or ConnectionRefusedError."""
        if self._is_closing:
            raise ConnectionRefusedError("the server is shutting down")
        if len(self._connections) >= self._settings.connections_max:
            raise ConnectionRefusedError(
                f"the server is at its limit of {self._settings.connections_max} connections"
            )
        peer = peer_of(transport)
        if self._cluster and peer.identity and peer.identity.cluster != self._cluster:
            raise IdentityError(
                f"the client is {peer.identity}, but only cluster {self._cluster} is served here"
            )
        self._connections.add(served)
        return peer


def remove_stale_socket(path: str) -> None:
    """Remove the socket that a process left behind; refuse to touch a living one or a file."""
    if not os.path.lexists(path):
        return
    # Asked first, because connecting to an ordinary file is refused like to a stale socket.
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(f"cannot listen at {path}: it is not a socket; remove it or choose another")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(f"cannot listen at {path}: another process does")
