"""Mutual TLS decides who may connect and who may call: certificates are made here and thrown away.

Python's `ssl` does the cryptography; what is tested is that it is asked for everything.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from unit.fabric.certificates import Authority
from unit.fabric.rpc_world import ECHO, WHO, Text, in_loop, make_client, raw_peer, serving

from fabric.frames import Kind
from fabric.ids import ClusterName, NodeName, Role
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import DeniedError, UnreachableError
from fabric.tls import (
    ClientTls,
    Identity,
    IdentityError,
    TlsFiles,
    client_context,
    identity_of_certificate,
    parse_identity,
    server_context,
)

SERVER = "seawall://blue/storage/s1"
COMPUTE = "seawall://blue/compute/c1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("tls") / "theirs")


def expecting_storage(context: ssl.SSLContext, cluster: str = "blue") -> ClientTls:
    return ClientTls(context, ClusterName(cluster), Role.STORAGE)


def client_tls(files: TlsFiles) -> ClientTls:
    return expecting_storage(client_context(files))


@asynccontextmanager
async def connecting(server: TlsFiles, client: TlsFiles) -> AsyncIterator[RpcClient]:
    """Serve with one certificate, and connect with another."""
    async with serving(tls=server) as world, world.client(tls=client_tls(client)) as connected:
        yield connected


@in_loop
async def test_the_handler_sees_the_identity_in_the_certificate(authority: Authority) -> None:
    async with connecting(authority.issue(SERVER), authority.issue(COMPUTE)) as client:
        assert (await client.call(WHO, Text(""))).response == Text(COMPUTE)


@in_loop
async def test_payloads_of_every_size_come_back_over_tls(authority: Authority) -> None:
    async with connecting(authority.issue(SERVER), authority.issue(COMPUTE)) as client:
        for size in (0, 1, 8192, 100_000, 4 * 1024 * 1024):
            payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
            assert (await client.call(ECHO, Text(""), payload)).payload == payload


@in_loop
async def test_a_role_that_the_method_does_not_name_is_denied(authority: Authority) -> None:
    async with serving(tls=authority.issue(SERVER)) as world:
        files = authority.issue("seawall://blue/gateway/g1")
        async with world.client(tls=client_tls(files)) as client:
            with pytest.raises(DeniedError, match="gateway"):
                await client.call(ECHO, Text(""))


@in_loop
async def test_a_client_of_another_cluster_is_refused(authority: Authority) -> None:
    async with serving(tls=authority.issue(SERVER)) as world:
        files = authority.issue("seawall://green/compute/c1")
        async with world.client(tls=client_tls(files)) as client:
            with pytest.raises(UnreachableError, match="only cluster blue"):
                await client.call(ECHO, Text(""))


@in_loop
async def test_a_server_of_several_clusters_takes_both_and_knows_them_apart(
    authority: Authority,
) -> None:
    async with serving(tls=authority.issue(SERVER), cluster=None) as world:
        for uri in (COMPUTE, "seawall://green/compute/c1"):
            async with world.client(tls=client_tls(authority.issue(uri))) as client:
                assert (await client.call(WHO, Text(""))).response == Text(uri)


@pytest.mark.parametrize("uri", ["seawall://green/storage/s1", COMPUTE])
@in_loop
async def test_a_server_that_is_somebody_else_gets_no_call(authority: Authority, uri: str) -> None:
    async with connecting(authority.issue(uri), authority.issue(COMPUTE)) as client:
        with pytest.raises(UnreachableError, match=f"the server is {uri}"):
            await client.call(ECHO, Text(""))


@pytest.mark.parametrize("uris", [(), (COMPUTE, "seawall://blue/storage/s2"), ("seawall://blue",)])
@in_loop
async def test_a_certificate_without_one_identity_is_refused(
    authority: Authority, uris: tuple[str, ...]
) -> None:
    async with connecting(authority.issue(SERVER), authority.issue(*uris)) as client:
        with pytest.raises(UnreachableError, match="seawall://cluster/role/node"):
            await client.call(ECHO, Text(""))


@in_loop
async def test_certificates_of_another_authority_count_for_nothing(
    authority: Authority, stranger: Authority
) -> None:
    async with serving(tls=authority.issue(SERVER)) as world:
        foreign_client = stranger.issue(COMPUTE)
        # It trusts our server, but our server does not trust it.
        trusting = TlsFiles(
            ca_file=authority.issue(COMPUTE).ca_file,
            certificate_file=foreign_client.certificate_file,
            key_file=foreign_client.key_file,
        )
        for files in (foreign_client, trusting):
            async with world.client(tls=client_tls(files)) as client:
                with pytest.raises(UnreachableError):
                    await client.call(ECHO, Text(""))
        async with world.client(tls=client_tls(authority.issue(COMPUTE))) as client:
            await client.call(ECHO, Text(""))


@in_loop
async def test_a_client_without_a_certificate_is_refused(authority: Authority) -> None:
    async with serving(tls=authority.issue(SERVER)) as world:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(authority.issue(COMPUTE).ca_file)
        async with world.client(tls=expecting_storage(context)) as client:
            with pytest.raises(UnreachableError):
                await client.call(ECHO, Text(""))


@in_loop
async def test_tls_1_2_is_refused(authority: Authority) -> None:
    async with serving(tls=authority.issue(SERVER)) as world:
        context = client_context(authority.issue(COMPUTE))
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with world.client(tls=expecting_storage(context)) as client:
            with pytest.raises(UnreachableError):
                await client.call(ECHO, Text(""))


@in_loop
async def test_plain_and_tls_do_not_mix(authority: Authority) -> None:
    async with serving(tls=authority.issue(SERVER)) as world, make_client(world.address) as plain:
        with pytest.raises(UnreachableError):
            await plain.call(ECHO, Text(""))
    async with serving() as world:
        async with world.client(tls=client_tls(authority.issue(COMPUTE))) as client:
            with pytest.raises(UnreachableError):
                await client.call(ECHO, Text(""))
        async with raw_peer(world.address, greeted=False) as peer:
            assert (await peer.frame()).kind is Kind.HELLO


def test_an_identity_prints_as_it_is_read() -> None:
    identity = Identity(ClusterName("blue"), Role.LOG, NodeName("log-0"))
    assert parse_identity(str(identity)) == identity
    certificate = {"subjectAltName": (("DNS", "a"), ("URI", str(identity)), ("URI", "other://x"))}
    assert identity_of_certificate(certificate) == identity


@pytest.mark.parametrize(
    "uri",
    ["", "seawall://", "seawall://blue/log", "seawall://blue/king/n", "seawall://b/log/n/x",
     "seawall://BLUE/log/n", "seawall://blue/log/", "seawall://blue/log/n?x", "http://blue/log/n"],
)  # fmt: skip
def test_what_is_not_an_identity_is_refused(uri: str) -> None:
    with pytest.raises(IdentityError, match="must be seawall://"):
        parse_identity(uri)


def test_missing_files_are_named(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.crt")
    with pytest.raises(IdentityError, match=r"absent\.crt"):
        server_context(TlsFiles(ca_file=absent, certificate_file=absent, key_file=absent))
