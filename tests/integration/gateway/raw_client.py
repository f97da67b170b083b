"""A client that logs in as it should and then says whatever it is told, and recordings of others.

with RawClient(address, keys) as client:
    client.say(b"anything")
    client.heard(100, quiet_s=1)        # so many bytes, if there are as many
    client.rest()                       # all that comes until the other side closes

with recording(address) as (port, said):
    psycopg.connect(port=port, ...)     # what it sends behind its login is in `said`, by frames
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Self

from pgwire.client_handshake import ClientHandshake
from pgwire.frames import HEADER, LENGTH_BYTES, PACKET_KIND, FrameReader
from pgwire.messages import BACKEND_LIMITS, FRONTEND_LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.gateway_world import Address

TIMEOUT_S = 20.0
RECEIVE_BYTES = 65_536
REST_BYTES_MAX = 64 * 1024 * 1024
LEFT_OUT = {PACKET_KIND, ord("p"), ord("X")}  # of a recording: the login, and the good-bye


class RawClient:
    """A socket. `login` False: nothing has been said on it."""

    def __init__(self, address: Address, *, login: bool = True, **parameters: str) -> None:
        self._socket = socket.create_connection((address.host, address.port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if login:
            self._log_in(address, parameters)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _log_in(self, address: Address, parameters: dict[str, str]) -> None:
        named = {"user": address.user, "database": address.database, **parameters}
        handshake = ClientHandshake(named, address.password, random_bytes=os.urandom)
        reader = FrameReader(BACKEND_LIMITS)
        self._socket.sendall(handshake.start())
        while not handshake.is_done:
            data = self._socket.recv(RECEIVE_BYTES)
            assert data, "a good login was refused"
            reader.feed(data)
            for kind, body in reader:
                if answer := handshake.receive(kind, body):
                    self._socket.sendall(answer)

    def say(self, data: bytes) -> None:
        """Send; harmless if the other side has had enough."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def heard(self, size_bytes: int, *, quiet_s: float) -> bytes:
        """What comes: so many bytes, or up to a silence, or up to the end."""
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while len(received) < size_bytes:
                if not select.select([self._socket], [], [], quiet_s)[0]:
                    break
                if not (data := self._socket.recv(RECEIVE_BYTES)):
                    break
                received += data
        return bytes(received)

    def rest(self) -> bytes:
        """Say no more; all that comes until the other side closes, which must not take long."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := self._socket.recv(RECEIVE_BYTES):
                received += data
                assert len(received) <= REST_BYTES_MAX
        return bytes(received)


def frame(kind: int, body: bytes) -> bytes:
    """A frame with the right length."""
    return HEADER.pack(kind, LENGTH_BYTES + len(body)) + body


@contextlib.contextmanager
def recording(address: Address) -> Iterator[tuple[int, list[bytes]]]:
    """A port that leads to an address, and the frames that come through it behind the login."""
    said: list[bytes] = []
    pumps: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    thread = threading.Thread(target=_pump, args=(client, address, said))
                    thread.start()
                    pumps.append(thread)

        acceptor = threading.Thread(target=serve)
        acceptor.start()
        try:
            yield server.getsockname()[1], said
        finally:
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in pumps:
                thread.join()


def _pump(client: socket.socket, address: Address, said: list[bytes]) -> None:
    frames = FrameReader(FRONTEND_LIMITS, starts_with_packet=True)
    with client, socket.create_connection((address.host, address.port)) as server:
        while True:
            ready, _, _ = select.select([client, server], [], [], TIMEOUT_S)
            if not ready:
                return
            for source in ready:
                data = source.recv(RECEIVE_BYTES)
                if not data:
                    return
                (server if source is client else client).sendall(data)
                if source is client:
                    frames.feed(data)
                    said += [
                        frame(kind, bytes(body)) for kind, body in frames if kind not in LEFT_OUT
                    ]
