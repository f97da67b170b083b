"""The serving side of physical replication: stock standbys and pg_receivewal read WAL from here.

    server = ReplicationServer(source_of=groups.get, admission=Admission(...))
    address = await server.listen(parse_address("tcp://127.0.0.1:7101"))
    ... primary_conninfo = 'host=127.0.0.1 port=7101 user=demo.main application_name=replica-1'
    await server.close()

Only committed WAL of a branch's history is served (`WalSource`), to readers that `Admission` lets
in. One advance of the committed end wakes all readers of a source at once, and several advances in
one turn of the event loop are one wake.

A Unix socket is found by libpq when it is named `.s.PGSQL.<port>`: see `postgres_socket`.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from fabric.addresses import Address, TcpAddress, UnixAddress, host_is_loopback
from fabric.rpc_server import remove_stale_socket
from pgwire.replication import postgres_us

from .replication_admission import Admission, Applicant
from .replication_serving import Serving
from .replication_session import Host, ReplicationSettings, Session
from .replication_source import Gate, StandbyStatus, WalSource

UNIX_SOCKET_MODE = 0o600
LISTEN_BACKLOG = 64

log = structlog.get_logger()


class ReplicationServer:
    """Serves WAL on any number of addresses.

    `source_of` finds the WAL of a group, `cluster.branch`; `gate_of` holds a reader back.
    """

    def __init__(
        self,
        *,
        source_of: Callable[[str], WalSource | None],
        admission: Admission,
        settings: ReplicationSettings | None = None,
        gate_of: Callable[[Applicant], Gate | None] = lambda _: None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        unix_time_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings or ReplicationSettings()
        self._source_of = source_of
        self._gate_of = gate_of
        self._admission = admission
        self._random_bytes = random_bytes
        self._unix_time_s = unix_time_s
        self._listeners: list[asyncio.Server] = []
        self._socket_paths: list[str] = []
        self._sessions: set[Session] = set()
        self._feeds: dict[int, _Feed] = {}  # by the identity of their source
        self._sessions_so_far = 0
        self._is_closing = False
        self._all_gone = asyncio.Event()

    async def listen(
        self,
        address: Address,
        tls: ssl.SSLContext | None = None,
        *,
        socket_mode: int = UNIX_SOCKET_MODE,
    ) -> Address:
        """Begin to serve; return the address with the port that was chosen if it was 0.

        `socket_mode` opens a Unix socket to other users, such as the one that postgres runs as.
        """
        match address:
            case UnixAddress():
                return await self._listen_unix(address, socket_mode)
            case TcpAddress():
                return await self._listen_tcp(address, tls)

    def standbys(self, group: str | None = None) -> list[StandbyStatus]:
        """Return who streams now, of one group or of all, oldest first."""
        servings = [session.serving for session in self._sessions]
        statuses = [serving.status() for serving in servings if serving is not None]
        wanted = [status for status in statuses if status and group in {None, status.group}]
        return sorted(wanted, key=lambda status: status.session)

    def disconnect(self, group: str) -> None:
        """End the sessions of a group that is no longer served here."""
        self._shut_down(session for session in self._sessions if session.group == group)

    async def close(self) -> None:
        """Stop listening and end all sessions as a PostgreSQL that shuts down does."""
        self._is_closing = True
        for path in self._socket_paths:
            with suppress(FileNotFoundError):
                os.unlink(path)
        for listener in self._listeners:
            listener.close()
        self._shut_down(self._sessions)
        if self._sessions:
            # A session aborts itself when its close takes too long.
            await self._all_gone.wait()
        for listener in self._listeners:
            await listener.wait_closed()

    def _shut_down(self, sessions: Iterable[Session]) -> None:
        for session in list(sessions):
            session.shut_down()

    async def _listen_unix(self, address: UnixAddress, mode: int) -> Address:
        listening = _bound_unix_socket(address.path, mode)
        host = self._host(None)
        self._socket_paths.append(address.path)
        listener = await asyncio.get_running_loop().create_unix_server(
            lambda: Session(host), sock=listening, backlog=LISTEN_BACKLOG
        )
        self._listeners.append(listener)
        return address

    async def _listen_tcp(self, address: TcpAddress, tls: ssl.SSLContext | None) -> Address:
        if tls is None and not host_is_loopback(address.host):
            raise ValueError(f"{address} is not loopback: give it TLS certificates")
        host = self._host(tls)
        listener = await asyncio.get_running_loop().create_server(
            lambda: Session(host), address.host, address.port, backlog=LISTEN_BACKLOG
        )
        self._listeners.append(listener)
        return TcpAddress(address.host, listener.sockets[0].getsockname()[1])

    def _host(self, tls: ssl.SSLContext | None) -> Host:
        return Host(
            settings=self._settings,
            tls=tls,
            source_of=self._source_of,
            gate_of=self._gate_of,
            decide=self._admission.decide,
            random_bytes=self._random_bytes,
            now_us=lambda: postgres_us(self._unix_time_s()),
            opened=self._opened,
            admitted=self._admitted,
            gone=self._gone,
        )

    # Sessions.

    def _opened(self, session: Session) -> int:
        """Keep a session until it is gone; return its number. ConnectionRefusedError: say why."""
        self._sessions_so_far += 1
        self._sessions.add(session)
        if self._is_closing:
            raise ConnectionRefusedError("the node is shutting down: connect to another one")
        if len(self._sessions) > self._settings.connections_max:
            raise ConnectionRefusedError(
                f"the node is at its limit of {self._settings.connections_max} connections"
            )
        return self._sessions_so_far

    def _admitted(self, session: Session) -> None:
        assert session.serving is not None
        source = session.serving.reader.source
        feed = self._feeds.setdefault(id(source), _Feed(source))
        feed.add(session.serving)

    def _gone(self, session: Session) -> None:
        self._sessions.discard(session)
        if session.serving is not None:
            source = session.serving.reader.source
            if self._feeds[id(source)].remove(session.serving):
                del self._feeds[id(source)]
        if self._is_closing and not self._sessions:
            self._all_gone.set()


class _Feed:
    """The readers of one source. Invariant: subscribed to it while there are any."""

    def __init__(self, source: WalSource) -> None:
        self._source = source
        self._servings: set[Serving] = set()
        self._loop = asyncio.get_running_loop()
        self._is_waking = False
        self._unsubscribe: Callable[[], None] | None = None

    def add(self, serving: Serving) -> None:
        """Wake this reader, too."""
        if self._unsubscribe is None:
            self._unsubscribe = self._source.subscribe(self._wake)
        self._servings.add(serving)

    def remove(self, serving: Serving) -> bool:
        """Forget a reader; return whether it was the last."""
        self._servings.discard(serving)
        if self._servings or self._unsubscribe is None:
            return False
        self._unsubscribe()
        self._unsubscribe = None
        return True

    def _wake(self) -> None:
        if not self._is_waking:
            self._is_waking = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_waking = False
        for serving in list(self._servings):
            serving.pump()


def postgres_socket(directory: Path, port: int) -> UnixAddress:
    """Return where libpq looks for a Unix socket, given a directory as host, and a port."""
    return UnixAddress(str(directory / f".s.PGSQL.{port}"))


def _bound_unix_socket(path: str, mode: int) -> socket.socket:
    remove_stale_socket(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before bind, so that there is no moment in which anybody else could connect.
        os.fchmod(listening.fileno(), UNIX_SOCKET_MODE)
        listening.bind(path)
        os.chmod(path, mode)
    except BaseException:
        listening.close()
        raise
    return listening
