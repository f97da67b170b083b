"""Connections to computes are encrypted where `upstream_tls` says so, and only to the right ones.

In scope: all kinds of connections that a gateway makes to a compute: links and cancel requests of
sessions, the catalog, positions; certificates of another authority, servers without TLS, servers
that answer nonsense. Out of scope: TLS of clients; see test_login.py.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
import structlog
import uvloop
from fixtures.gateway_alone import (
    ROLE_PASSWORD,
    GatewaysAlone,
    backends_of,
    gateways_alone,
    no_backends,
)
from fixtures.servers import require_tls
from fixtures.waiting import eventually
from unit.fabric.certificates import Authority

from bench.node_process import HOST
from fabric.ids import Epoch
from gateway.catalog_reader import CatalogAwayError, CatalogReader
from gateway.logins import Login, PoolKey
from gateway.pool import Pool
from gateway.position_watch import PositionError, PositionWatch
from gateway.settings import UpstreamTls
from gateway.topology import ComputesView, Target, upstream_context
from gateway.upstream import open_link, refusal
from gateway.wire import error_fields

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine, Iterator

    from fixtures.servers import Fleet

    from sqlnode.postgres import Postgres

pytestmark = pytest.mark.postgres

STORY_S = 30.0
USER_MS = 700  # of which an attempt takes some
KEY = PoolKey("postgres", "postgres")


@pytest.fixture(scope="module")
def world(shared_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaysAlone]:
    require_tls(shared_fleet)
    with gateways_alone(shared_fleet, tmp_path_factory.mktemp("gateways")) as world:
        yield world


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody has told us of."""
    return Authority.create(tmp_path_factory.mktemp("tls") / "stranger")


@pytest.fixture(scope="module")
def secure(world: GatewaysAlone, authority: Authority) -> Postgres:
    """Takes TLS."""
    return world.server("secure", tls=authority.issue())


@pytest.fixture(scope="module")
def plain(world: GatewaysAlone) -> Postgres:
    return world.server("plain")


class Untrusted(NamedTuple):
    """A server that is not what we were told to expect, and the reasons that are given."""

    server: Postgres
    authority: Authority
    reason: str
    reason_of_catalog: str  # whose driver speaks for itself


@pytest.fixture(params=["a stranger's certificate", "no TLS"])
def untrusted(
    request: pytest.FixtureRequest, secure: Postgres, plain: Postgres, authority: Authority,
    stranger: Authority,
) -> Untrusted:  # fmt: skip
    if request.param == "no TLS":
        reason = "the server does not speak TLS, and links must be encrypted"
        return Untrusted(plain, authority, reason, "rejected SSL upgrade")
    return Untrusted(secure, stranger, "certificate verify failed", "certificate verify failed")


def ca_of(authority: Authority) -> str:
    return str(authority.directory / "ca.crt")


# --- A gateway with the right authority -----------------------------------------------------------


def test_everything_that_a_gateway_says_to_a_compute_is_encrypted(
    world: GatewaysAlone, secure: Postgres, authority: Authority
) -> None:
    world.log.has_primary(secure)
    with (
        world.gateway(upstream_tls={"ca_file": ca_of(authority)}) as gateway,
        gateway.address.connect() as client,
    ):
        assert client.execute("select repeat('x', 100000)").fetchone() == ("x" * 100_000,)
        assert client.execute("show seawall.position").fetchone() is not None  # asks the compute
        found = backends_of(secure, "client_addr is not null")
        assert all(one["ssl"] for one in found)
        # Of the session; of the one that asks for positions, and now and then the catalog's reader.
        assert {one["usename"] for one in found} == {"postgres", "seawall_gateway"}
        assert len([one for one in found if "insert_lsn" in one["query"]]) == 1

        caught: list[psycopg.Error] = []

        def sleep() -> None:
            try:
                client.execute("select pg_sleep(600)")
            except psycopg.Error as error:
                caught.append(error)

        thread = threading.Thread(target=sleep)
        thread.start()
        eventually(lambda: backends_of(secure, "query like '%pg_sleep%' and state = 'active'"))
        client.cancel()
        thread.join(STORY_S)
        assert [error.sqlstate for error in caught] == ["57014"]
    no_backends(secure)


def test_a_gateway_without_upstream_tls_does_not_need_it(
    world: GatewaysAlone, plain: Postgres
) -> None:
    world.log.has_primary(plain)
    with world.gateway() as gateway, gateway.address.connect() as client:
        assert client.execute("show seawall.position").fetchone() is not None
        found = backends_of(plain, "client_addr is not null")
        assert found
        assert not any(one["ssl"] for one in found)
    no_backends(plain)


def test_a_gateway_lets_nobody_in_at_a_compute_that_it_does_not_trust(
    world: GatewaysAlone, untrusted: Untrusted
) -> None:
    world.log.has_primary(untrusted.server)
    with world.gateway(upstream_tls={"ca_file": ca_of(untrusted.authority)}) as gateway:
        caught: list[psycopg.Error] = []

        def connect() -> None:
            try:
                gateway.address.connect().close()
            except psycopg.Error as error:
                caught.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        complaint = "the catalog cannot be read"
        eventually(lambda: complaint in gateway.process.log_of_this_start(), what="a complaint")
        gateway.process.stop()
        thread.join(STORY_S)
        assert caught
        said = gateway.process.log_of_this_start()
        assert untrusted.reason_of_catalog in said
        assert "Traceback" not in said
        assert ROLE_PASSWORD not in said
    no_backends(untrusted.server)


# --- Each kind of connection ----------------------------------------------------------------------


def target_of(port: int) -> Target:
    return Target("compute-1", 1, HOST, port, Epoch(1))


def context_of(authority: Authority) -> ssl.SSLContext:
    context = upstream_context(UpstreamTls(ca_file=ca_of(authority)))
    assert context is not None
    return context


def run(story: Coroutine[Any, Any, None]) -> None:
    """Run a story on the gateway's loop, and see that it has left no open file, and no task."""
    before = open_files()

    async def bounded() -> None:
        async with asyncio.timeout(STORY_S):
            await story
            while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110  # the story's time is limited
                await asyncio.sleep(0)

    uvloop.run(bounded())
    gc.collect()  # what was not closed complains now
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def link_error(target: Target, tls: ssl.SSLContext) -> tuple[Exception, str]:
    """How a link fails, and what clients are told of it."""
    ended: list[object] = []
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the caller looks at it
        await open_link(Pool(KEY, None), target, Login(KEY, None), tls, ended.append)
    assert ended == []  # nobody was told of the end of what has not begun
    assert isinstance(caught.value, Exception)
    return caught.value, error_fields(refusal(caught.value)[1])["M"]


async def position_error(target: Target, tls: ssl.SSLContext) -> str:
    watch = PositionWatch(password=ROLE_PASSWORD, tls=tls)
    watch.follow(ComputesView(primary=target, epoch=Epoch(1), is_log_reachable=True))
    with pytest.raises(PositionError) as caught:
        await watch.primary_position()
    await watch.close()
    return str(caught.value)


async def catalog_error(target: Target, tls: ssl.SSLContext) -> tuple[str, str]:
    """What clients are told, and the reason that is logged."""
    reader = CatalogReader(password=ROLE_PASSWORD, tls=tls, on_catalog=lambda *_: None)
    reader.follow(ComputesView(primary=target, epoch=Epoch(1), is_log_reachable=True))
    with structlog.testing.capture_logs() as logged:
        with pytest.raises(CatalogAwayError) as caught:
            await reader.user("postgres", timeout_ms=USER_MS)
        await reader.close()
    (entry,) = logged  # once, however often it was tried
    return str(caught.value), str(entry["reason"])


AWAY = "the primary does not say who may log in: try again in a moment"
NO_CONNECTION = "the server does not take connections at the moment"


def test_each_connection_to_a_compute_that_is_not_trusted_is_refused(untrusted: Untrusted) -> None:
    target, tls = target_of(untrusted.server.port), context_of(untrusted.authority)

    async def story() -> None:
        error, told = await link_error(target, tls)
        assert untrusted.reason in str(error)
        assert told == NO_CONNECTION
        said = await position_error(target, tls)
        assert said.startswith("compute-1: compute-1 cannot be reached: ")
        assert untrusted.reason in said
        told, reason = await catalog_error(target, tls)
        assert told == AWAY
        assert untrusted.reason_of_catalog in reason
        assert ROLE_PASSWORD not in reason

    run(story())
    no_backends(untrusted.server)


HOSTILE_ANSWERS = {
    "nonsense": b"?",
    "an error in the clear": b"E\0\0\0\x0cSFATAL\0\0",
    "more behind the answer": b"SR\0\0\0\x08\0\0\0\0",  # "you are in", said by whoever is between
    "silence and then the end": b"",
}


@pytest.mark.parametrize("what", list(HOSTILE_ANSWERS))
def test_nothing_that_is_said_in_the_clear_counts(authority: Authority, what: str) -> None:
    tls = context_of(authority)
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readexactly(8))
        writer.write(HOSTILE_ANSWERS[what])
        if writer.can_write_eof():
            writer.write_eof()
        heard.append(await reader.read(1_000))  # until the gateway has hung up
        writer.close()

    async def story() -> None:
        async with await asyncio.start_server(answer, HOST, 0) as server:
            target = target_of(server.sockets[0].getsockname()[1])
            _, told = await link_error(target, tls)
            assert told == NO_CONNECTION
            assert "cannot be reached" in await position_error(target, tls)
        # After the request for TLS not a word was said that was not encrypted.
        assert not [said for said in heard if b"postgres" in said or b"user" in said]

    run(story())
