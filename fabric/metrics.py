"""The HTTP endpoint of a component: `GET /metrics` for Prometheus, two paths for probes.

`/healthz` is for liveness: 503 when the component is not healthy. `/readyz` is for readiness: 503
while it does not do its work, be it that it is starting or waits for others.

A tiny HTTP/1.1 server of one request per connection, on a port of its own, in the component's event
loop: so `/healthz` answers only while the loop turns. It reads no body, keeps no connection and
bounds everything: bytes of a request, time of a connection, number of connections.

The registry is passed in; the global one of prometheus_client is never used. Nothing served here is
secret, and nothing here changes anything.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

REQUEST_BYTES_MAX: Final = 8 * 1024  # what common web servers allow for a request's head
_REQUEST_LINE_PARTS: Final = 3
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """What a user may tune."""

    host: str = "127.0.0.1"
    """Where to listen; pods say 0.0.0.0, and a NetworkPolicy lets Prometheus in."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """0 lets the system choose."""

    timeout_ms: Annotated[int, msgspec.Meta(ge=1)] = 5_000
    """For a whole connection. Probes and Prometheus give up sooner than later, too."""

    connections_max: Annotated[int, msgspec.Meta(ge=1)] = 32
    """Two Prometheus servers, the probes, and somebody with a browser, several times over."""


@dataclass(frozen=True, slots=True)
class _Response:
    status: str
    body: bytes
    content_type: str = _TEXT


class MetricsServer:
    """Serves a registry. `problem` returns why the component is not healthy, or None.

    `readiness` returns why it is not ready, or None; without it, it is when it is healthy.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        problem: Callable[[], str | None],
        readiness: Callable[[], str | None] | None = None,
        settings: MetricsSettings | None = None,
    ) -> None:
        self._registry = registry
        self._problem = problem
        self._readiness = readiness or problem
        self._settings = settings or MetricsSettings()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Begin to serve; return the port."""
        self._server = await asyncio.start_server(
            self._connected, self._settings.host, self._settings.port, limit=REQUEST_BYTES_MAX
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop serving and cut the connections there are."""
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._settings.connections_max:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout_ms / 1000):
                response = await self._answer(reader)
                writer.write(_encode(response))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.CancelledError):
            # A client that says nothing, does not read, or has gone; or we are closing.
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> _Response:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _Response("431 Request Header Fields Too Large", b"the request is too long\n")
        except asyncio.IncompleteReadError:
            return _Response("400 Bad Request", b"the request is not whole\n")
        return self._respond(head.split(b"\r\n", 1)[0])

    def _respond(self, request_line: bytes) -> _Response:
        parts = request_line.split(b" ")
        if len(parts) != _REQUEST_LINE_PARTS or not parts[2].startswith(b"HTTP/1."):
            return _Response("400 Bad Request", b"this is not HTTP/1.1\n")
        if parts[0] != b"GET":
            return _Response("405 Method Not Allowed", b"only GET is served here\n")
        path = parts[1].split(b"?", 1)[0]
        if path == b"/metrics":
            return _Response("200 OK", generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)
        if path == b"/healthz":
            return _verdict(self._problem())
        if path == b"/readyz":
            return _verdict(self._readiness())
        return _Response("404 Not Found", b"there are /metrics, /healthz and /readyz\n")


def _verdict(problem: str | None) -> _Response:
    if problem is None:
        return _Response("200 OK", b"ok\n")
    return _Response("503 Service Unavailable", f"{problem}\n".encode())


def _encode(response: _Response) -> bytes:
    head = (
        f"HTTP/1.1 {response.status}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + response.body
