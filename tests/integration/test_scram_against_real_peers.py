"""SCRAM and both handshakes against software that others wrote.

In scope: libpq (psycopg) and asyncpg log in to a small server made of our handshake; our client
logs in to real PostgreSQL; wrong passwords both ways; passwords hashed as PostgreSQL hashes them.
Out of scope: certificates instead of passwords (test_replication_client.py).
"""

import asyncio
import contextlib
import random
import secrets
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import uvloop
from fixtures.servers import Fleet
from psycopg import sql
from unit.fabric.certificates import Authority

from fabric.tls import TlsFiles
from pgwire.backend import BackendKeyData
from pgwire.client_handshake import ClientHandshake, ServerRefusedError
from pgwire.frames import FrameReader
from pgwire.messages import BACKEND_LIMITS, FRONTEND_LIMITS
from pgwire.scram import (
    ChannelBinding,
    ScramKeys,
    ScramVerifier,
    tls_server_end_point,
)
from pgwire.server_handshake import Decision, Scram, ServerHandshake
from pgwire.startup import (
    ACCEPTED,
    REFUSED,
    SslRequest,
    StartupMessage,
    decode_startup,
    encode_startup,
)
from sqlnode.postgres import PostgresSettings

SECRET = "pêncil №1"  # noqa: S105  # of these tests; SASLprep makes "No" of the last sign
WRONG_SECRET = "pencil"  # noqa: S105  # as above
PARAMETERS = (
    ("server_version", "15.18"),
    ("client_encoding", "UTF8"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
)
STORY_TIMEOUT_S = 60


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(asyncio.wait_for(story(), STORY_TIMEOUT_S))


# Drivers log in to our server.


class Door:
    """A server that lets clients in, or not, and has nothing else to offer."""

    def __init__(self, decide: Callable[[str], Decision], tls: TlsFiles | None) -> None:
        self._decide = decide
        self._context = None if tls is None else server_tls(tls)
        self.handshakes: list[ServerHandshake] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one client through its login, then wait until it leaves."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            startup = await self._startup(reader, writer)
            handshake = ServerHandshake(
                startup,
                self._decide(startup.parameters["user"]),
                random_bytes=secrets.token_bytes,
                parameters=PARAMETERS,
                backend_key=BackendKeyData(1, b"1234"),
            )
            self.handshakes.append(handshake)
            await self._shake_hands(handshake, reader, writer)
            if handshake.is_done:
                await reader.read()
        writer.close()

    async def _startup(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> StartupMessage:
        while True:
            size = int.from_bytes(await reader.readexactly(4))
            packet = decode_startup(await reader.readexactly(size - 4))
            if isinstance(packet, StartupMessage):
                return packet
            assert isinstance(packet, SslRequest)
            writer.write(REFUSED if self._context is None else ACCEPTED)
            if self._context is not None:
                await writer.start_tls(self._context)

    async def _shake_hands(
        self,
        handshake: ServerHandshake,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        frames = FrameReader(FRONTEND_LIMITS)
        writer.write(handshake.start())
        while not (handshake.is_done or handshake.refusal):
            frames.feed(await reader.read(65536) or b"p\0\0\0\4")
            for kind, body in frames:
                writer.write(handshake.receive(kind, body))
        await writer.drain()


@contextlib.asynccontextmanager
async def door(
    decide: Callable[[str], Decision], tls: TlsFiles | None = None
) -> AsyncIterator[Door]:
    opened = Door(decide, tls)
    server = await asyncio.start_server(opened.serve, "127.0.0.1", 0)
    async with server:
        opened.port = server.sockets[0].getsockname()[1]
        yield opened


def server_tls(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate_file, files.key_file)
    return context


def libpq(port: int, password: str, **options: str) -> bool:
    """Log in with libpq; return whether it had to show the password."""
    conninfo = {"host": "127.0.0.1", "port": str(port), "user": "ada", "dbname": "x"} | options
    connection = psycopg.connect(
        " ".join(f"{name}={value}" for name, value in conninfo.items()),
        password=password,
        autocommit=True,
    )
    used = bool(connection.pgconn.used_password)
    connection.close()
    return used


def scram(_user: str) -> Scram:
    return Scram(ScramVerifier.make(SECRET, secrets.token_bytes))


def test_libpq_logs_in_with_scram() -> None:
    async def story() -> None:
        async with door(scram) as opened:
            assert await asyncio.to_thread(libpq, opened.port, SECRET)

    run(story)


def test_asyncpg_logs_in_with_scram() -> None:
    async def story() -> None:
        async with door(scram) as opened:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=opened.port, user="ada", password=SECRET, database="x"
            )
            connection.terminate()
            assert opened.handshakes[0].is_done

    run(story)


def test_libpq_logs_in_with_channel_binding(tmp_path: Path) -> None:
    files = Authority.create(tmp_path / "ca").issue()
    der = ssl.PEM_cert_to_DER_cert(Path(files.certificate_file).read_text(encoding="ascii"))

    def decide(user: str) -> Scram:
        return Scram(scram(user).verifier, tls_server_end_point(der))

    async def story() -> None:
        async with door(decide, files) as opened:
            options = {"sslmode": "require", "channel_binding": "require"}
            assert await asyncio.to_thread(libpq, opened.port, SECRET, **options)

    run(story)


def test_libpq_notices_a_binding_to_another_certificate(tmp_path: Path) -> None:
    files = Authority.create(tmp_path / "ca").issue()

    def decide(user: str) -> Scram:
        return Scram(scram(user).verifier, bytes(32))

    async def story() -> None:
        async with door(decide, files) as opened:
            options = {"sslmode": "require", "channel_binding": "require"}
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                await asyncio.to_thread(libpq, opened.port, SECRET, **options)
            assert "another TLS connection" in opened.handshakes[0].refusal

    run(story)


@pytest.mark.parametrize("knows_user", [True, False])
def test_drivers_with_a_wrong_password_are_refused(knows_user: bool) -> None:
    def decide(user: str) -> Scram:
        return scram(user) if knows_user else Scram(ScramVerifier.mock(user, b"secret"))

    async def story() -> None:
        async with door(decide) as opened:
            with pytest.raises(psycopg.OperationalError, match='failed for user "ada"'):
                await asyncio.to_thread(libpq, opened.port, WRONG_SECRET)
            place = {"host": "127.0.0.1", "port": opened.port, "database": "x"}
            with pytest.raises(asyncpg.InvalidPasswordError) as caught:
                await asyncpg.connect(user="ada", password=WRONG_SECRET, **place)
            assert caught.value.sqlstate == "28P01"

    run(story)


# Our client logs in to real servers.


def log_in(
    connection: socket.socket, secret: str | ScramKeys, *, bound_to: bytes | None = None
) -> ClientHandshake:
    """Log in over a connected socket as ada, if `bound_to` is given not without it."""
    handshake = ClientHandshake(
        {"user": "ada", "database": "postgres"},
        secret,
        random_bytes=secrets.token_bytes,
        binding=ChannelBinding.DISABLED if bound_to is None else ChannelBinding.REQUIRED,
        binding_data=bound_to,
    )
    frames = FrameReader(BACKEND_LIMITS)
    connection.sendall(handshake.start())
    while not handshake.is_done:
        data = connection.recv(65536)
        assert data, "the server closed the connection"
        frames.feed(data)
        for kind, body in frames:
            connection.sendall(handshake.receive(kind, body))
    return handshake


def tcp(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=STORY_TIMEOUT_S)


def tls(port: int) -> ssl.SSLSocket:
    """Connect in TLS; whose certificate it is does not matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = tcp(port)
    plain.sendall(encode_startup(SslRequest()))
    assert plain.recv(1) == ACCEPTED
    return context.wrap_socket(plain)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def start_server(fleet: Fleet, **extra: str) -> int:
    """Start a server with user ada; return its port."""
    server = fleet.server("p", settings=PostgresSettings(tcp_port=free_port(), extra=extra))
    server.start_blocking()
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("create role ada login replication password {}").format(sql.Literal(SECRET))
        )
    return server.port


@pytest.mark.postgres
def test_our_client_logs_in_to_postgres(fleet: Fleet) -> None:
    with tcp(start_server(fleet)) as connection:
        handshake = log_in(connection, SECRET)
        assert handshake.server_parameters["server_version"].startswith(
            str(fleet.binaries.version.major)
        )
        assert handshake.backend_key is not None


@pytest.mark.postgres
def test_postgres_refuses_our_client_with_a_wrong_password(fleet: Fleet) -> None:
    with tcp(start_server(fleet)) as connection:
        with pytest.raises(ServerRefusedError) as caught:
            log_in(connection, WRONG_SECRET)
        assert caught.value.sqlstate == "28P01"


@pytest.mark.postgres
def test_keys_caught_at_our_door_open_postgres(fleet: Fleet) -> None:
    port = start_server(fleet)
    verifier = verifier_of(fleet, "ada")

    async def story() -> None:
        async with door(lambda _user: Scram(verifier)) as opened:
            await asyncio.to_thread(libpq, opened.port, SECRET)
            keys = opened.handshakes[0].keys
            assert keys is not None
        with tcp(port) as connection:
            assert log_in(connection, keys).is_done

    run(story)


def verifier_of(fleet: Fleet, user: str) -> ScramVerifier:
    """What the server stores of a user's password."""
    with psycopg.connect(fleet.servers[0].conninfo(), autocommit=True) as connection:
        row = connection.execute(
            "select rolpassword from pg_authid where rolname = %s", (user,)
        ).fetchone()
    assert row is not None
    return ScramVerifier.parse(row[0])


@pytest.mark.postgres
def test_our_verifier_is_one_that_postgres_takes(fleet: Fleet) -> None:
    port = start_server(fleet)
    made = ScramVerifier.make("another", secrets.token_bytes)
    with psycopg.connect(fleet.servers[0].conninfo(), autocommit=True) as connection:
        connection.execute(sql.SQL("alter role ada password {}").format(sql.Literal(made.format())))
    assert verifier_of(fleet, "ada") == made
    with tcp(port) as connection:
        assert log_in(connection, "another").is_done


ALPHABET = (
    "aZ09 \u00a0\u00ad\u00aa\u00df\u00e9\u0130\u0221\u0300\u0301\u0327\u0344\u037a\u0627\u0628"
    "\u06ddא\u0e33\u1100\u1161\u1e9e\u2000\u200b\u200d\u200e\u2028\u2126\u2163\u3000\ufb01\ufdfa"
    "\ufdd0\ufeff\uff21\ufffd\U0001d400\U0001f600\U000e0001\U0010fffd\x07\x7f\x80"
)


@pytest.mark.postgres
def test_passwords_are_prepared_as_postgres_does(fleet: Fleet) -> None:
    """Compared by the keys that the server makes of them."""
    start_server(fleet)
    rng = random.Random(1)
    passwords = [*ALPHABET, *("".join(rng.choices(ALPHABET, k=4)) for _ in range(100))]
    with psycopg.connect(fleet.servers[0].conninfo(), autocommit=True) as connection:
        for password in passwords:
            connection.execute(sql.SQL("alter role ada password {}").format(sql.Literal(password)))
            row = connection.execute(
                "select rolpassword from pg_authid where rolname = 'ada'"
            ).fetchone()
            assert row is not None
            stored = ScramVerifier.parse(row[0])
            salt = stored.salt
            ours = ScramVerifier.make(password, lambda _: salt, iterations=stored.iterations)  # noqa: B023  # called at once
            assert ours == stored, ascii(password)


# In TLS.


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca")


def start_tls_server(fleet: Fleet, authority: Authority) -> int:
    """Start a server that speaks TLS and trusts the authority's clients."""
    files = authority.issue()
    directory = fleet.directory / "tls"
    directory.mkdir()
    names = {"ca.crt": files.ca_file, "s.crt": files.certificate_file, "s.key": files.key_file}
    for name, source in names.items():
        (directory / name).write_bytes(Path(source).read_bytes())
        (directory / name).chmod(0o600)
    fleet.identity.give_tree(directory)
    require_tls(fleet)
    return start_server(
        fleet,
        ssl="on",
        ssl_ca_file=str(directory / "ca.crt"),
        ssl_cert_file=str(directory / "s.crt"),
        ssl_key_file=str(directory / "s.key"),
    )


def require_tls(fleet: Fleet) -> None:
    program = fleet.binaries.bin_dir / "pg_config"
    built = subprocess.run([program, "--configure"], capture_output=True, check=True, text=True)
    if "openssl" not in built.stdout.lower():
        pytest.skip(f"the server in {program.parent} was built without OpenSSL")


@pytest.mark.postgres
def test_our_client_binds_its_login_to_the_tls_connection(
    fleet: Fleet, authority: Authority
) -> None:
    with tls(start_tls_server(fleet, authority)) as connection:
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        assert log_in(connection, SECRET, bound_to=tls_server_end_point(der)).is_done


@pytest.mark.postgres
def test_postgres_refuses_a_login_bound_to_another_connection(
    fleet: Fleet, authority: Authority
) -> None:
    with (
        tls(start_tls_server(fleet, authority)) as connection,
        pytest.raises(ServerRefusedError, match="channel binding"),
    ):
        log_in(connection, SECRET, bound_to=bytes(32))
