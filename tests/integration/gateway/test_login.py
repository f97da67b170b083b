"""Who gets in, who does not, and what he is told: as with a server; TLS, which is the gateway's.

In scope: refusals with the SQLSTATE that the server gives, SCRAM with and without channel binding,
certificates, limits of connections and of time, the database of the operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
import tomllib
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from fixtures.gateway_world import VISITOR, VISITOR_PASSWORD, Gateway
from psycopg import errors, sql
from unit.fabric.certificates import Authority

from pgwire.startup import MAJOR, GssRequest, SslRequest, StartupMessage, encode_startup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures.gateway_world import Address, GatewayCluster

    from fabric.tls import TlsFiles

pytestmark = pytest.mark.postgres

DEADLINE_S = 60.0
LOGIN_MS = 1_000
CLOSED_S = 6.0  # a busy machine gets its time; a limit that is not kept takes 15 s
SECRET = "secret"  # noqa: S105  # of roles that go with the test
WRONG = "not the password"
FIRST, SECOND = "first \u00bd", "second"
CERTIFIED = "leaf"  # whom the certificates of these tests name


def refusal(target: Address, **more: Any) -> tuple[str, str]:
    """SQLSTATE and severity with which somebody is refused, or his first statement."""

    async def story() -> None:
        client = await asyncpg.connect(**target.asyncpg(), **more)
        try:
            await client.fetchval("select 1")
        finally:
            client.terminate()

    with pytest.raises(asyncpg.PostgresError) as caught:
        asyncio.run(asyncio.wait_for(story(), DEADLINE_S))
    fields: Any = caught.value
    return str(fields.sqlstate), str(fields.severity)


REFUSALS: dict[str, dict[str, Any]] = {
    "a wrong password": {"password": WRONG},
    "an unknown user": {"user": "nobody-knows-me"},
    "an unknown database": {"database": "nothing-is-here"},
    "a user who may not log in": {"user": "cannot_log_in", "password": SECRET},
    "a user without a password": {"user": "without_password", "password": SECRET},
    "a password that has expired": {"user": "expired", "password": SECRET},
    "a database that is closed": {
        "user": VISITOR, "password": VISITOR_PASSWORD, "database": "closed",
    },
    "a role that may have no connection": {"user": "no_connection", "password": SECRET},
}  # fmt: skip
ROLES = {
    "cannot_log_in": f"nologin password '{SECRET}'",
    "without_password": "login",
    "expired": f"login password '{SECRET}' valid until '2001-01-01'",
    "no_connection": f"login password '{SECRET}' connection limit 0",
    CERTIFIED: f"login password '{SECRET}'",
}


@pytest.fixture(scope="module")
def roles(direct: Address) -> Iterator[None]:
    with direct.connect() as connection:
        for name, options in ROLES.items():
            connection.execute(f"create role {name} {options}")
        connection.execute("create database closed")
        connection.execute("revoke connect on database closed from public")
        yield
        connection.execute("drop database closed with (force)")
        for name in ROLES:
            connection.execute(f"drop role {name}")


@pytest.mark.parametrize("who", list(REFUSALS))
@pytest.mark.usefixtures("roles")
def test_refusals_are_the_servers(direct: Address, gateway: Address, who: str) -> None:
    changes = REFUSALS[who]
    expected = refusal(direct.but(**changes))
    assert refusal(gateway.but(**changes)) == expected
    assert expected[1] == "FATAL"


def test_a_wrong_setting_at_the_start_is_refused_alike(direct: Address, gateway: Address) -> None:
    wrong = {"server_settings": {"work_mem": "nonsense"}}
    assert refusal(gateway, **wrong) == refusal(direct, **wrong)


def test_a_password_is_changed_and_the_new_one_counts(direct: Address, gateway: Address) -> None:
    visitor = gateway.but(user="changing", password=FIRST)
    with direct.connect() as owner:
        owner.execute(f"create role changing login password '{FIRST}'")
        try:
            with visitor.connect() as client:
                owner.execute(f"alter role changing password '{SECOND}'")
                with visitor.but(password=SECOND).connect() as other:
                    assert other.execute("select current_user").fetchone() == ("changing",)
                with pytest.raises(
                    psycopg.OperationalError, match="password authentication failed"
                ):
                    visitor.connect()
                assert client.execute("select 1").fetchone() == (1,)
        finally:
            owner.execute("drop role changing")


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def files(authority: Authority) -> TlsFiles:
    return authority.issue()  # for the name localhost


@pytest.fixture(scope="module")
def tls_gateway(gateway_cluster: GatewayCluster, files: TlsFiles) -> Iterator[Gateway]:
    tls = {
        "certificate_file": files.certificate_file, "key_file": files.key_file, "require": True,
        "client_ca_file": files.ca_file,
    }  # fmt: skip
    with gateway_cluster.another(client_tls=tls, limits={"login_ms": LOGIN_MS}) as gateway:
        yield gateway


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("binding", ["disable", "prefer", "require"])
def test_tls_is_spoken_and_bound_to_the_password(
    tls_gateway: Gateway, files: TlsFiles, mode: str, binding: str
) -> None:
    tls = {"sslmode": mode, "sslrootcert": files.ca_file, "channel_binding": binding}
    named = {"host": "localhost", "hostaddr": tls_gateway.address.host}
    with tls_gateway.address.connect(**tls, **named) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        tls_gateway.address.but(password=WRONG).connect(**tls, **named)


def test_a_client_without_tls_is_refused(tls_gateway: Gateway) -> None:
    assert refusal(tls_gateway.address, ssl=False) == ("28000", "FATAL")


def test_asyncpg_speaks_tls(tls_gateway: Gateway, files: TlsFiles) -> None:
    context = ssl.create_default_context(cafile=files.ca_file)

    async def story() -> None:
        address = tls_gateway.address.but(host="localhost")
        client = await asyncpg.connect(**address.asyncpg(), ssl=context)
        assert await client.fetchval("select $1::text", "x" * 100_000) == "x" * 100_000
        await client.close()

    asyncio.run(asyncio.wait_for(story(), DEADLINE_S))


def test_a_gateway_without_tls_says_so(gateway: Address) -> None:
    with gateway.connect(sslmode="prefer") as connection:
        assert not connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        gateway.connect(sslmode="require")


@pytest.mark.usefixtures("roles")
def test_a_certificate_is_due_where_it_is_required(
    gateway_cluster: GatewayCluster, authority: Authority, files: TlsFiles
) -> None:
    tls = {
        "certificate_file": files.certificate_file, "key_file": files.key_file,
        "client_ca_file": files.ca_file, "require_client_certificate": True,
    }  # fmt: skip
    theirs = authority.issue()
    os.chmod(theirs.key_file, 0o600)  # as libpq demands
    shown = {"sslcert": theirs.certificate_file, "sslkey": theirs.key_file, "sslmode": "require"}
    with gateway_cluster.another(client_tls=tls) as gateway:
        certified = gateway.address.but(user=CERTIFIED, password=SECRET)
        with certified.connect(**shown) as connection:
            assert connection.execute("select current_user").fetchone() == (CERTIFIED,)
        for address, more in (
            (certified, {"sslmode": "require"}),  # no certificate
            (gateway.address, shown),  # of somebody else
            (certified.but(password=WRONG), shown),  # and the password counts, too
        ):
            with pytest.raises(psycopg.OperationalError):
                address.connect(**more)


# --- Limits ---------------------------------------------------------------------------------------


def closes_within(connection: socket.socket) -> float:
    """How long until the other side closes."""
    connection.settimeout(DEADLINE_S)
    before_s = time.monotonic()
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - before_s


STARTUP = encode_startup(StartupMessage(MAJOR, 0, {"user": "postgres", "database": "postgres"}))
SILENCES = {
    "nothing": b"",
    "half a packet": STARTUP[:11],
    "a request for TLS": encode_startup(SslRequest()),
    "a request for GSS": encode_startup(GssRequest()),
    "all but the proof": STARTUP,
}


@pytest.mark.parametrize("said", list(SILENCES))
def test_a_client_that_goes_silent_at_its_login_is_closed(tls_gateway: Gateway, said: str) -> None:
    address = (tls_gateway.address.host, tls_gateway.address.port)
    with socket.create_connection(address, timeout=DEADLINE_S) as connection:
        connection.sendall(SILENCES[said])
        assert closes_within(connection) < CLOSED_S


def test_limits_of_connections_are_refusals_that_end(gateway_cluster: GatewayCluster) -> None:
    limits = {"clients": 5, "clients_per_user": 3}
    with gateway_cluster.another(limits=limits) as gateway:
        visitor = gateway.address.but(user=VISITOR, password=VISITOR_PASSWORD)
        with contextlib.ExitStack() as ends:
            held = [ends.enter_context(gateway.address.connect()) for _ in range(3)]
            assert refusal(gateway.address) == ("53300", "FATAL")
            held += [ends.enter_context(visitor.connect()) for _ in range(2)]
            assert refusal(visitor) == ("53300", "FATAL")
            for connection in held:
                assert connection.execute("select 1").fetchone() == (1,)
        with visitor.connect() as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_a_client_that_idles_too_long_is_told_so(gateway_cluster: GatewayCluster) -> None:
    with (
        gateway_cluster.another(limits={"idle_client_ms": 700}) as gateway,
        gateway.address.connect() as idle,
        gateway.address.connect() as waiting,
    ):
        waiting.execute("begin")
        waiting.execute("select pg_sleep(1.5)")  # works, and is in a transaction: not idle
        with pytest.raises(psycopg.OperationalError) as caught:
            idle.execute("select 1")
        assert caught.value.sqlstate == "57P05"
        assert waiting.execute("select 1").fetchone() == (1,)


def test_the_operator_reads_the_pools_and_nobody_else(
    gateway_cluster: GatewayCluster, gateway: Address
) -> None:
    (name,) = [one["name"] for one in gateway_cluster.local.status()["gateways"]]
    config = gateway_cluster.local.layout.node(name).config
    path: Path = type(config)(tomllib.loads(config.read_text())["admin_password_file"])
    admin = gateway.but(user="seawall_admin", database="seawall", password=path.read_text().strip())
    with gateway.connect() as client, admin.connect() as connection:
        client.execute("select 1")
        cursor = connection.execute("show pools")
        assert cursor.description is not None
        assert cursor.fetchall()
        with pytest.raises(psycopg.Error):
            connection.execute(sql.SQL("drop table pools"))
        with pytest.raises(errors.Error):
            connection.execute("show everything")
    with pytest.raises(psycopg.OperationalError):
        gateway.but(database="seawall").connect().execute("show pools")
    with pytest.raises(psycopg.OperationalError):
        admin.but(password=WRONG).connect()
