"""Cancel requests: whose they are, and how they come to the process that has that client.

With several workers a request comes to any of them. The number in its key has the index of the
right one, and a datagram takes it there. Whoever guesses a key learns nothing: there is no answer.
"""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .settings import GatewaySettings

if TYPE_CHECKING:
    from .client import ClientConnection

COUNTER_BITS: Final = 24  # and the index above them: together they are positive in 32 bits
DATAGRAM_BYTES_MAX: Final = 512
PID_BYTES: Final = 4


class Cancels:
    """The keys of one worker's clients."""

    def __init__(self, settings: GatewaySettings, index: int) -> None:
        self._run_dir = Path(settings.run_dir)
        self._workers = settings.workers
        self._index = index
        self._counter = 0
        self._clients: dict[int, ClientConnection] = {}
        self._socket: socket.socket | None = None
        self._found: Callable[[ClientConnection], None] = lambda _: None

    def listen(self, found: Callable[["ClientConnection"], None]) -> None:
        """Take requests from now on; `found` hears of each client whose key was shown."""
        self._found = found
        if self._workers == 1:
            return
        path = self._path(self._index)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # its own name
        self._socket.bind(str(path))
        path.chmod(0o600)
        asyncio.get_running_loop().add_reader(self._socket, self._take_datagrams)

    def close(self) -> None:
        """Take no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            # Its name stays: it may be a successor's by now, and whoever comes next removes it.
            self._socket = None

    def new_key(self, client: "ClientConnection", key_bytes: int) -> tuple[int, bytes]:
        """Return what a client has to show to cancel what it has begun."""
        while True:
            self._counter = (self._counter + 1) % (1 << COUNTER_BITS)
            pid = self._index << COUNTER_BITS | self._counter
            if self._counter and pid not in self._clients:
                self._clients[pid] = client
                return pid, secrets.token_bytes(key_bytes)

    def forget(self, client: "ClientConnection") -> None:
        """A client is gone."""
        self._clients.pop(client.pid, None)

    def take(self, pid: int, key: bytes) -> None:
        """Take a request, whosever it is."""
        index = pid >> COUNTER_BITS
        if index == self._index:
            self._find(pid, key)
        elif 0 <= index < self._workers and self._socket is not None:
            data = pid.to_bytes(PID_BYTES, "big") + key
            with contextlib.suppress(OSError):  # that worker is gone, and its clients, too
                self._socket.sendto(data, str(self._path(index)))

    def _find(self, pid: int, key: bytes) -> None:
        client = self._clients.get(pid)
        if client is not None and secrets.compare_digest(client.cancel_key, key):
            self._found(client)

    def _take_datagrams(self) -> None:
        assert self._socket is not None, "it is read"
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._socket.recv(DATAGRAM_BYTES_MAX)
                self._find(int.from_bytes(data[:PID_BYTES], "big"), data[PID_BYTES:])

    def _path(self, index: int) -> Path:
        return self._run_dir / f"worker-{index}.sock"
