"""The metrics endpoint answers Prometheus and probes, and survives clients that mean no good."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter
from unit.fabric.rpc_world import in_loop

from fabric.metrics import REQUEST_BYTES_MAX, MetricsServer, MetricsSettings


class Endpoint:
    """A running server and what it is told about its component."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.problem: str | None = None
        self.unreadiness: str | None = None
        self.port = 0

    async def ask(self, request: bytes) -> bytes:
        """Send a request; return all that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            writer.write_eof()
            return await reader.read()
        finally:
            writer.transport.abort()


@asynccontextmanager
async def endpoint(
    settings: MetricsSettings | None = None, *, has_readiness: bool = True
) -> AsyncIterator[Endpoint]:
    world = Endpoint()
    server = MetricsServer(
        world.registry,
        problem=lambda: world.problem,
        readiness=(lambda: world.unreadiness) if has_readiness else None,
        settings=settings,
    )
    world.port = await server.start()
    try:
        yield world
    finally:
        await server.close()


@in_loop
async def test_metrics_are_served_from_the_registry_that_was_passed_in() -> None:
    async with endpoint() as world:
        Counter("pages_served", "Pages.", registry=world.registry).inc(3)
        answer = await world.ask(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\npages_served_total 3.0\n" in answer
        assert b"python_info" not in answer


@in_loop
async def test_health_says_what_is_wrong() -> None:
    async with endpoint() as world:
        assert (await world.ask(b"GET /healthz HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nok\n")
        world.problem = "postgres is not running"
        answer = await world.ask(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b"postgres is not running\n")


@in_loop
async def test_a_component_may_be_healthy_and_not_ready() -> None:
    async with endpoint() as world:
        assert (await world.ask(b"GET /readyz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\nok\n")
        world.unreadiness = "it opens its logs"
        answer = await world.ask(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b"it opens its logs\n")
        assert (await world.ask(b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")


@in_loop
async def test_a_component_that_says_nothing_else_is_ready_when_it_is_healthy() -> None:
    async with endpoint(has_readiness=False) as world:
        world.problem = "postgres is not running"
        answer = await world.ask(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert answer.endswith(b"postgres is not running\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../healthz HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /metrics SPDY/3\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n", b"400"),
        (b"", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * REQUEST_BYTES_MAX, b"431"),
        (b"x" * (3 * REQUEST_BYTES_MAX), b"431"),
    ],
)
@in_loop
async def test_a_bad_request_gets_its_status(request_: bytes, status: bytes) -> None:
    async with endpoint() as world:
        answer = await world.ask(request_)
        assert answer.split(b" ")[1] == status
        assert (await world.ask(b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")


@in_loop
async def test_a_client_that_says_nothing_is_cut() -> None:
    async with endpoint(MetricsSettings(timeout_ms=20)) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        assert await read_to_the_end(reader) == b""
        writer.transport.abort()


@in_loop
async def test_connections_beyond_the_limit_are_cut_and_closing_cuts_the_rest() -> None:
    async with endpoint(MetricsSettings(connections_max=1)) as world:
        first_reader, first = await asyncio.open_connection("127.0.0.1", world.port)
        second_reader, second = await asyncio.open_connection("127.0.0.1", world.port)
        assert await read_to_the_end(second_reader) == b""
    assert await read_to_the_end(first_reader) == b""
    first.transport.abort()
    second.transport.abort()


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
