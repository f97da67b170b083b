"""The arithmetic of the gateway's benchmarks, and what they write for and read from programs.

In scope: ratios, what a login is taken off with, pgbouncer's settings, those of a second gateway,
credentials, the light client against a server in this process. Out of scope: anything that starts
a cluster or a proxy; `make bench-gateway` does.
"""

import argparse
import asyncio
import configparser
import os
import ssl
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.faults.target import TargetError
from bench.gateway.__main__ import first_of, remark
from bench.gateway.bars import BARS, cpu_name, latency_name
from bench.gateway.certificate import Certificate, make_certificate
from bench.gateway.connect_process import Done, Order
from bench.gateway.connects import rate_of
from bench.gateway.cost import cpu_measurements, latency_measurements
from bench.gateway.credentials import Credentials, keys_of, password_in
from bench.gateway.extra_gateway import GatewaySpec, changed
from bench.gateway.failover import Round, Seen, judged
from bench.gateway.light_client import LightClient, LightClientError
from bench.gateway.load import Load, cpu_us_a_query, latencies_us
from bench.gateway.pgbouncer import find_pgbouncer, ini_text
from bench.gateway.routing import classifier_us
from bench.gateway.ways import CpuClock, Way, rotated
from bench.gateway.world import GatewayStatus, primary_of
from bench.pagefault.pgbench import PgbenchError
from bench.pagefault.report import Measurement
from pgwire.backend import ErrorResponse, ReadyForQuery, TransactionStatus
from pgwire.channel_binding import tls_server_end_point
from pgwire.messages import encode
from pgwire.scram import ScramClient, ScramServer, ScramVerifier
from pgwire.server_handshake import Scram, ServerHandshake, Trust
from pgwire.startup import ACCEPTED, SslRequest, StartupMessage, decode_startup


def value(measurements: list[Measurement], name: str) -> float:
    (found,) = [one.value for one in measurements if one.name == name]
    return found


def load(*, cpu_us: float = 10, latency_us: float = 100) -> Load:
    return Load(1000, cpu_us, latency_us)


# Cost.


def test_logins_are_taken_off_with_their_transactions() -> None:
    assert cpu_us_a_query(1.1, 0.1, 10_008, 8) == pytest.approx(100)
    assert cpu_us_a_query(0.1, 0.2, 10_008, 8) == 0


def test_run_of_nothing_but_logins_tells_nothing() -> None:
    with pytest.raises(PgbenchError, match="8 transactions of 8 clients"):
        cpu_us_a_query(1, 0.1, 8, 8)


def test_ratios_are_of_the_same_round() -> None:
    rounds = [
        {"direct": load(), "pgbouncer": load(cpu_us=10), "gateway": load(cpu_us=12)},
        {"direct": load(), "pgbouncer": load(cpu_us=20), "gateway": load(cpu_us=24)},
        {"direct": load(), "pgbouncer": load(cpu_us=10), "gateway": load(cpu_us=90)},
    ]
    assert value(cpu_measurements("simple", 8, rounds), "cpu_simple_8") == pytest.approx(1.2)


def test_pgbouncer_that_costs_nothing_is_nothing_to_compare_with() -> None:
    rounds = [{"direct": load(), "pgbouncer": load(cpu_us=0), "gateway": load()}]
    with pytest.raises(TargetError, match="no processor time"):
        cpu_measurements("simple", 8, rounds)


def test_added_latency_is_what_is_compared() -> None:
    rounds = [
        {
            "direct": load(latency_us=100),
            "pgbouncer": load(latency_us=180),
            "gateway": load(latency_us=200),
        }
    ]
    found = latency_measurements("simple", rounds)
    assert value(found, "latency_simple_8") == pytest.approx(1.25)
    assert value(found, "latency_simple_8_gateway_added_us") == pytest.approx(100)


def test_one_disturbed_round_does_not_turn_latency_around() -> None:
    fine = {
        "direct": load(latency_us=100),
        "pgbouncer": load(latency_us=150),
        "gateway": load(latency_us=160),
    }
    disturbed = {**fine, "direct": load(latency_us=900)}
    found = latency_measurements("simple", [fine, disturbed, fine])
    assert value(found, "latency_simple_8") == pytest.approx(1.2)


def test_pgbouncer_faster_than_the_direct_way_cannot_be_compared_with() -> None:
    slow = load(latency_us=200)
    with pytest.raises(TargetError, match="others use the machine"):
        latency_measurements("simple", [{"direct": slow, "pgbouncer": load(), "gateway": slow}])


def test_latencies_are_the_third_column_of_every_log() -> None:
    first, second = "0 1 173 0 1700000000 12\n1 1 250 0 1700000000 13\n", "2 9 9 0 1 1"
    assert latencies_us([first, "", second]) == [173, 250, 9]


@given(st.lists(st.integers(), min_size=1, unique=True), st.integers(0, 100))
def test_everybody_comes_once_a_round_and_first_in_turn(items: list[int], number: int) -> None:
    order = rotated(items, number)
    assert sorted(order) == sorted(items)
    assert order[0] == items[number % len(items)]


def test_processor_time_of_a_process_is_seen_and_a_direct_way_has_none() -> None:
    clock = CpuClock.of(Way("this", 1, os.getpid()))
    before = clock.seconds()
    sum(range(2_000_000))
    assert clock.seconds() > before
    assert CpuClock.of(Way("direct", 1)).seconds() == 0


def test_process_that_ends_makes_a_measurement_void() -> None:
    clock = CpuClock(Way("gone", 1, 1 << 22), (1 << 22,))
    with pytest.raises(TargetError, match="gone has ended"):
        clock.seconds()


# Connections.


def done(count: int, *, failures: int = 0) -> Done:
    return Done(took_s=10, logins_ms=[5.0] * count, failures=failures, said=["no"] * failures)


def test_rates_of_processes_add_up() -> None:
    rate = rate_of([done(1000), done(500)], 3.0, "gateway")
    assert rate.per_min == pytest.approx(9000)
    assert rate.cpu_ms == pytest.approx(2)


def test_login_that_fails_is_one_too_many() -> None:
    with pytest.raises(TargetError, match="1 logins through gateway failed: no"):
        rate_of([done(1000), done(1000, failures=1)], 3.0, "gateway")


def test_keys_are_in_no_repr() -> None:
    order = Order(
        port=1, local_host="", seconds=1, clients=1, client_key=b"geheim", server_key=b"geheim",
        certificate_file="", sql="",
    )  # fmt: skip
    verifier = ScramVerifier.make("geheim", os.urandom)
    told = repr(order) + repr(Credentials("geheim", verifier.format(), keys_of("geheim", verifier)))
    assert "geheim" not in told
    assert "SCRAM" not in told


# Failover.


def test_worst_answer_is_the_worst_of_all_rounds() -> None:
    rounds = [
        Round([Seen(0.5, True), Seen(0.7, True)], 0.4),
        Round([Seen(0.6, True), Seen(1.9, True)], 0.5),
    ]
    found = judged("failover", rounds)
    assert value(found, "failover_worst_answer_s") == 1.9
    assert value(found, "failover_connections_lost") == 0


def test_what_a_session_lost_is_counted_by_kind() -> None:
    seen = [Seen(1, False, "broken"), Seen(1, True, "refused"), Seen(1, True, "", False)]
    rounds = [Round(seen, 0.5)]
    found = judged("failover", rounds)
    assert value(found, "failover_connections_lost") == 1
    assert value(found, "failover_failed_statements") == 2
    assert value(found, "failover_states_lost") == 1


# Credentials.


@given(st.text("abc:äÖ \\", min_size=1, max_size=20))
def test_keys_of_a_password_log_in_where_its_verifier_is(password: str) -> None:
    verifier = ScramVerifier.make(password, os.urandom, iterations=2)
    client = ScramClient(keys_of(password, verifier), ["SCRAM-SHA-256"], random_bytes=os.urandom)
    server = ScramServer(verifier, random_bytes=os.urandom)
    challenge = server.start(client.mechanism, client.first())
    client.finish(server.finish(client.final(challenge)))


def test_password_that_the_primary_does_not_know_is_noticed() -> None:
    with pytest.raises(TargetError, match="not the one that its primary knows"):
        keys_of("one", ScramVerifier.make("another", os.urandom, iterations=2))


def test_password_file_is_read_as_a_local_cluster_writes_it() -> None:
    assert password_in("127.0.0.1:5432:*:postgres:s3cr-et_\n127.0.0.1:5433:*:postgres:x\n") == (
        "s3cr-et_"
    )
    with pytest.raises(TargetError, match="empty"):
        password_in("")


def test_password_file_for_clients_is_private(tmp_path: Path) -> None:
    verifier = ScramVerifier.make("p", os.urandom, iterations=2)
    path = tmp_path / "pgpass"
    Credentials("p", verifier.format(), keys_of("p", verifier)).write_passfile(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "*:*:*:postgres:p\n"


# Programs.


def test_pgbouncer_is_told_what_the_gateway_does(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path / "c", tmp_path / "k")
    parser = configparser.ConfigParser()
    parser.read_string(ini_text(tmp_path, port=1, server_port=2, certificate=certificate))
    assert parser["databases"]["*"] == "host=127.0.0.1 port=2"
    assert parser["pgbouncer"]["pool_mode"] == "session"
    assert parser["pgbouncer"]["client_tls_sslmode"] == "require"
    parser.read_string(ini_text(tmp_path, port=1, server_port=2, certificate=None))
    assert parser["pgbouncer"]["client_tls_sslmode"] == "disable"


def test_missing_pgbouncer_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.gateway.pgbouncer.SEARCHED_BESIDES", str(tmp_path))
    with pytest.raises(TargetError, match="apt-get install pgbouncer"):
        find_pgbouncer(str(tmp_path))


def test_second_gateway_differs_in_its_place_and_in_what_is_asked_for(tmp_path: Path) -> None:
    values = {
        "name": "gateway-1", "listen": "tcp://127.0.0.1:1", "run_dir": "/a", "log_nodes": ["x"],
        "tls": {"ca_file": "ca"}, "limits": {"links": 5, "clients": 7},
    }  # fmt: skip
    new = changed(
        values, run_dir=tmp_path, port=9, limits={"links": 6}, client_tls={"key_file": "k"}
    )
    spec = GatewaySpec(name="gateway-1", directory=tmp_path, values=new)
    assert tomllib.loads(spec.config_text()) == {
        **values, "listen": "tcp://127.0.0.1:9", "run_dir": str(tmp_path),
        "limits": {"links": 6, "clients": 7}, "client_tls": {"key_file": "k"},
    }  # fmt: skip
    assert values["listen"] == "tcp://127.0.0.1:1"


# The light client.


VERIFIER = ScramVerifier.make("p", os.urandom, iterations=2)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Use = Callable[[LightClient], Awaitable[None]]


class Server:
    """One that knows TLS, SCRAM and one query; what it saw of each login."""

    def __init__(self, certificate: Certificate) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate.certificate_file, certificate.key_file)
        self.binding = tls_server_end_point(
            ssl.PEM_cert_to_DER_cert(certificate.certificate_file.read_text())
        )
        self.queries: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client."""
        binding = None
        packet = decode_startup(await packet_of(reader))
        if isinstance(packet, SslRequest):
            writer.write(ACCEPTED)
            await writer.start_tls(self.context)
            binding = self.binding
            packet = decode_startup(await packet_of(reader))
        assert isinstance(packet, StartupMessage)
        handshake = ServerHandshake(packet, Scram(VERIFIER, binding), random_bytes=os.urandom)
        writer.write(handshake.start())
        while not handshake.is_done:
            kind = (await reader.readexactly(1))[0]
            writer.write(handshake.receive(kind, await packet_of(reader)))
        while kind_text := await reader.read(1):
            body = await packet_of(reader)
            if kind_text != b"Q":
                break
            self.queries.append(body)
            is_known = body == b"select 1\0"
            writer.write(b"" if is_known else encode(ErrorResponse({"C": "42601", "M": "what?"})))
            writer.write(encode(ReadyForQuery(TransactionStatus.IDLE)))
        writer.close()


async def packet_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)


async def visit(serve: Serve, use: Use, tls: ssl.SSLContext | None = None) -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = await LightClient.open(port, keys_of("p", VERIFIER), tls=tls)
        try:
            await use(client)
        finally:
            await client.leave()


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_light_client_logs_in_and_asks(tmp_path: Path, is_encrypted: bool) -> None:
    certificate = make_certificate(tmp_path)
    server = Server(certificate)

    async def ask(client: LightClient) -> None:
        assert client.is_open
        await client.ask("select 1")
        with pytest.raises(LightClientError, match="42601 what"):
            await client.ask("selec")
        await client.ask("select 1")

    asyncio.run(visit(server.serve, ask, certificate.client_context() if is_encrypted else None))
    assert len(server.queries) == 3


def test_connection_that_the_server_closes_is_noticed() -> None:
    async def trust(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup = decode_startup(await packet_of(reader))
        assert isinstance(startup, StartupMessage)
        writer.write(ServerHandshake(startup, Trust(), random_bytes=os.urandom).start())
        writer.close()

    async def look(client: LightClient) -> None:
        async with asyncio.timeout(5):
            while client.is_open:  # noqa: ASYNC110  # a client is not told
                await asyncio.sleep(0.001)
        with pytest.raises(LightClientError, match="no answer"):
            await client.ask("select 1")

    asyncio.run(visit(trust, look))


async def nothing(_: LightClient) -> None:
    return


@pytest.mark.parametrize(
    "answer",
    [b"", b"R\xff\xff\xff\xff", b"R\0\0\0\x03", b"E\0\0\0\x0bMno\0C1\0\0", b"Z\0\0\0\x05I"],
)
def test_whatever_a_server_says_instead_of_a_login_is_one_error(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    with pytest.raises(LightClientError):
        asyncio.run(visit(serve, nothing))


# The program.


def test_bars_have_names_of_their_own_and_cover_what_was_promised() -> None:
    names = {bar.name for bar in BARS}
    assert len(names) == len(BARS)
    assert {cpu_name(m, c) for m in ("simple", "prepared") for c in (8, 32)} <= names
    assert {latency_name("simple"), "routing_us", "stale_reads", "idle_memory_mb"} <= names
    assert "connects_per_min" in names


def test_control_is_never_taken_for_the_gateway() -> None:
    assert "pgbouncer" in remark("cpu_simple_8", argparse.Namespace(control=True))
    assert remark("cpu_simple_8", argparse.Namespace(control=False)) == ""


def test_first_failure_of_nested_groups_is_what_is_told() -> None:
    first = TargetError("first")
    group = BaseExceptionGroup("", [BaseExceptionGroup("", [first]), TargetError("second")])
    assert first_of(group) is first


def test_classifier_is_timed_with_texts_that_only_read() -> None:
    found = classifier_us(count=50, rounds=3)
    assert len(found) == 3
    assert min(found) > 0


def test_status_of_a_cluster_without_a_gateway_is_read() -> None:
    text = (
        b'{"computes": [{"name": "compute-1", "role": "primary", "state": "up", "port": 5}], '
        b'"urls": {"primary": "postgresql://x"}, "epoch": 3}'
    )
    status = msgspec.json.decode(text, type=GatewayStatus)
    assert primary_of(status).port == 5
    assert status.gateways == ()
