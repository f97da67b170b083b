"""Who may read WAL: decided by certificate, password or place, first as values, then over TLS.

Out of scope: the exchange of SCRAM messages, which is tests/unit/pgwire's.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from unit.fabric.certificates import Authority
from unit.log_service.replication_world import DEADLINE_S, GROUP, Client, MemorySource, in_loop

from fabric.addresses import TcpAddress, parse_address
from fabric.ids import BranchName, ClusterName, NodeName, Role
from fabric.lsn import Lsn
from fabric.tls import Identity, TlsFiles, client_context, server_context
from log_service.replication_admission import Admission, Applicant, NotAReaderError
from log_service.replication_server import ReplicationServer
from pgwire.channel_binding import ChannelBinding, tls_server_end_point
from pgwire.client_handshake import ClientHandshake, ServerRefusedError
from pgwire.scram import ScramVerifier
from pgwire.server_handshake import Refuse, Scram, Trust
from pgwire.startup import ACCEPTED, SslRequest, StartupMessage, encode_startup

STARTUP = {"user": GROUP, "replication": "true", "application_name": "r1"}
LOG_NODE = "seawall://demo/log/l1"
COMPUTE = "seawall://demo/compute/c1"


def not_random(count: int) -> bytes:
    return bytes(range(count))


VERIFIER = ScramVerifier.make("right", not_random, iterations=1)
OPEN = Admission(trusts_local=True, verifiers={GROUP: VERIFIER}, mock_secret=b"m")
STRICT = Admission(verifiers={GROUP: VERIFIER}, mock_secret=b"m", binding_data=b"certificate")


def identity(cluster: str = "demo", role: Role = Role.COMPUTE) -> Identity:
    return Identity(ClusterName(cluster), role, NodeName("n1"))


def applicant(
    who: Identity | None = None, *, is_local: bool = False, is_encrypted: bool = True
) -> Applicant:
    return Applicant(
        cluster=ClusterName("demo"),
        branch=BranchName("main"),
        application_name="r1",
        identity=who,
        is_local=is_local,
        is_encrypted=is_encrypted,
    )


@pytest.mark.parametrize("admission", [OPEN, STRICT])
@pytest.mark.parametrize("role", list(Role))
def test_certificate_of_the_cluster_counts_by_its_role(admission: Admission, role: Role) -> None:
    decision = admission.decide(applicant(identity(role=role)))
    if role in {Role.COMPUTE, Role.STORAGE, Role.LOG}:
        assert decision == Trust()
    else:
        assert isinstance(decision, Refuse)
        assert f"seawall://demo/{role}/n1 may not read" in decision.message


@pytest.mark.parametrize("admission", [OPEN, STRICT])
def test_certificate_of_another_cluster_is_refused_even_on_this_machine(
    admission: Admission,
) -> None:
    decision = admission.decide(applicant(identity("other"), is_local=True))
    assert isinstance(decision, Refuse)
    assert decision.sqlstate == "28000"


def test_who_is_local_is_trusted_only_where_that_is_allowed() -> None:
    local = applicant(is_local=True, is_encrypted=False)
    assert OPEN.decide(local) == Trust()
    assert STRICT.decide(local) == Scram(VERIFIER, None)
    assert OPEN.decide(applicant()) == Scram(VERIFIER, None)
    assert isinstance(Admission().decide(local), Refuse)


def test_password_is_asked_for_over_tls_and_tied_to_it() -> None:
    assert STRICT.decide(applicant()) == Scram(VERIFIER, b"certificate")
    assert isinstance(STRICT.decide(applicant(is_encrypted=False)), Refuse)


def test_branch_without_a_password_looks_as_if_it_had_one() -> None:
    admission = Admission(verifiers={"demo.other": VERIFIER}, mock_secret=b"m")
    decision = admission.decide(applicant())
    assert isinstance(decision, Scram)
    assert decision.verifier not in {VERIFIER, None}
    assert admission.decide(applicant()) == decision


@pytest.mark.parametrize("value", ["true", "on", "yes", "1", "TRUE"])
def test_every_spelling_of_physical_replication_is_read(value: str) -> None:
    startup = StartupMessage(
        3, 0, STARTUP | {"replication": value, "application_name": "a\nb" * 50}
    )
    found = Applicant.of(startup, identity=None, is_local=True, is_encrypted=False)
    assert (found.group, found.application_name) == (GROUP, ("a?b" * 50)[:63])


@pytest.mark.parametrize(
    "change",
    [
        {"replication": "database"},
        {"replication": "maybe"},
        {"user": "demo"},
        {"user": ".main"},
        {"user": "demo.main."},
        {"user": "demo.MAIN"},
        {"user": "demo." + "x" * 64},
    ],
)
def test_what_is_not_a_reader_of_a_branch_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(NotAReaderError):
        Applicant.of(
            StartupMessage(3, 0, STARTUP | change),
            identity=None,
            is_local=True,
            is_encrypted=False,
        )


# Over TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def node_files(authority: Authority) -> TlsFiles:
    return authority.issue(LOG_NODE)


@asynccontextmanager
async def listening(files: TlsFiles, admission: Admission) -> AsyncIterator[TcpAddress]:
    context = server_context(files)
    context.verify_mode = ssl.CERT_OPTIONAL  # so that passwords have a chance
    source = MemorySource(committed=Lsn(0x1000000))
    server = ReplicationServer(source_of={GROUP: source}.get, admission=admission)
    try:
        address = await server.listen(parse_address("tcp://127.0.0.1:0"), context)
        assert isinstance(address, TcpAddress)
        yield address
    finally:
        await server.close()


@asynccontextmanager
async def encrypted(address: TcpAddress, context: ssl.SSLContext) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(encode_startup(SslRequest()))
        assert await reader.readexactly(1) == ACCEPTED
        await writer.start_tls(context)
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def log_in(client: Client, handshake: ClientHandshake) -> None:
    client.send(handshake.start())
    while not handshake.is_done:
        client.send(handshake.receive(*await client.frame()))


def handshake(secret: str | None = None, **options: object) -> ClientHandshake:
    return ClientHandshake(STARTUP, secret, random_bytes=not_random, **options)  # type: ignore[arg-type]  # checked at run time


def binding_data_of(files: TlsFiles) -> bytes | None:
    certificate = x509.load_pem_x509_certificate(Path(files.certificate_file).read_bytes())
    return tls_server_end_point(certificate.public_bytes(Encoding.DER))


def without_certificate(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.ca_file)
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (COMPUTE, None),
        ("seawall://demo/storage/s1", None),
        ("seawall://other/compute/c1", "may not read WAL of cluster demo"),
        ("seawall://demo/gateway/g1", "may not read WAL of cluster demo"),
        ("", "issue it again"),
    ],
)
@in_loop
async def test_certificate_opens_the_door_or_does_not(
    authority: Authority, node_files: TlsFiles, uri: str, message: str | None
) -> None:
    files = authority.issue(*filter(None, [uri]))
    async with (
        listening(node_files, OPEN) as address,
        encrypted(address, client_context(files)) as client,
    ):
        if message is None:
            await log_in(client, handshake())
            client.query("SHOW wal_segment_size")
            await client.message()
        else:
            with pytest.raises(ServerRefusedError, match=message):
                await log_in(client, handshake())
            assert await client.at_eof()


@in_loop
async def test_password_over_tls_is_bound_to_the_certificate(node_files: TlsFiles) -> None:
    binding_data = binding_data_of(node_files)
    admission = Admission(verifiers={GROUP: VERIFIER}, mock_secret=b"m", binding_data=binding_data)
    context = without_certificate(node_files)
    async with listening(node_files, admission) as address:
        for secret, data, sqlstate in [
            ("right", binding_data, None),
            ("wrong", binding_data, "28P01"),
            ("right", b"another certificate", "28P01"),
        ]:
            required = handshake(secret, binding=ChannelBinding.REQUIRED, binding_data=data)
            async with encrypted(address, context) as client:
                if sqlstate is None:
                    await log_in(client, required)
                    continue
                with pytest.raises(ServerRefusedError) as refused:
                    await log_in(client, required)
                assert refused.value.sqlstate == sqlstate


@pytest.mark.parametrize("new_event_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_start_up_packet_in_one_segment_with_the_end_of_the_handshake_is_taken(
    authority: Authority,
    node_files: TlsFiles,
    new_event_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The loops differ: asyncio's own delivers the packet before `start_tls` has returned."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(asyncio.wait_for(start_up_at_once(authority, node_files), DEADLINE_S))


async def start_up_at_once(authority: Authority, node_files: TlsFiles) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context(authority.issue(COMPUTE))
    tls = context.wrap_bio(incoming, outgoing)
    async with listening(node_files, Admission()) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(encode_startup(SslRequest()))
        assert await reader.readexactly(1) == ACCEPTED
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        writer.write(outgoing.read())
        while True:
            incoming.write(await asyncio.wait_for(reader.read(1 << 16), DEADLINE_S))
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            break
        tls.write(encode_startup(StartupMessage(3, 0, STARTUP)))
        writer.write(outgoing.read())  # the end of the handshake, too
        incoming.write(await asyncio.wait_for(reader.read(1 << 16), DEADLINE_S))
        assert tls.read(1) == b"R"  # AuthenticationOk, because the certificate was seen
        writer.close()


@in_loop
async def test_bytes_between_the_request_for_tls_and_its_answer_are_refused(
    node_files: TlsFiles,
) -> None:
    async with listening(node_files, OPEN) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(encode_startup(SslRequest()) + encode_startup(StartupMessage(3, 0, STARTUP)))
        said = await asyncio.wait_for(reader.read(), DEADLINE_S)
        assert said.startswith(b"E")
        assert b"08P01" in said
        writer.close()


@in_loop
async def test_failed_tls_handshake_ends_the_connection_and_nothing_else(
    authority: Authority, node_files: TlsFiles
) -> None:
    async with listening(node_files, OPEN) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(encode_startup(SslRequest()))
        assert await reader.readexactly(1) == ACCEPTED
        writer.write(b"this is no TLS at all" * 10)
        await asyncio.wait_for(reader.read(), DEADLINE_S)
        writer.close()
        async with encrypted(address, client_context(authority.issue(COMPUTE))) as client:
            await log_in(client, handshake())


@in_loop
async def test_close_does_not_wait_for_a_tls_handshake(node_files: TlsFiles) -> None:
    async with listening(node_files, OPEN) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(encode_startup(SslRequest()))
        assert await reader.readexactly(1) == ACCEPTED
    writer.close()


@in_loop
async def test_plain_tcp_is_served_on_loopback_only() -> None:
    server = ReplicationServer(source_of=lambda _: None, admission=OPEN)
    with pytest.raises(ValueError, match="give it TLS certificates"):
        await server.listen(parse_address("tcp://0.0.0.0:0"))
    await server.close()
