"""The CA of a local cluster: certificates that our own TLS takes, and whom it does not take.

In scope: real handshakes with the contexts of fabric/tls.py, renewal. Out of scope: who may call
what; see tests/unit/fabric/test_rpc_tls.py.
"""

import datetime
import os
import random
import stat
from pathlib import Path

import pytest
from unit.fabric.rpc_world import in_loop

from fabric.addresses import parse_address
from fabric.ids import ClusterName, NodeName, Role
from fabric.rpc import Call, Method, Reply
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import RpcError
from fabric.rpc_server import RpcServer
from fabric.tls import ClientTls, Identity, TlsFiles, client_context, server_context
from log_service.methods import Done, Nothing
from seawall.local.authority import (
    RENEW_AFTER_S,
    admin_files,
    admin_identity,
    days_left,
    issue,
    make_authority,
    needs_certificate,
)
from seawall.local.cluster_file import ClusterError
from seawall.local.layout import Layout

CLUSTER = ClusterName("blue")
WHO = Method("test.who", Nothing, Done)


def made(directory: Path, cluster: ClusterName = CLUSTER) -> Layout:
    layout = Layout(directory)
    directory.mkdir(exist_ok=True)
    make_authority(layout, cluster)
    owner = admin_files(layout)
    issue(layout, admin_identity(cluster), Path(owner.certificate_file), Path(owner.key_file))
    return layout


def node_files(layout: Layout, role: Role, name: str) -> TlsFiles:
    certificate, key = layout.top / f"{name}.crt", layout.top / f"{name}.key"
    issue(layout, Identity(CLUSTER, role, NodeName(name)), certificate, key)
    return TlsFiles(
        ca_file=str(layout.ca_file), certificate_file=str(certificate), key_file=str(key)
    )


async def who_calls(server_files: TlsFiles, client_files: TlsFiles, role: Role) -> list[Identity]:
    callers: list[Identity] = []

    async def who(call: Call, request: Nothing) -> Reply[Done]:
        del request
        assert call.peer.identity is not None
        callers.append(call.peer.identity)
        return Reply(Done())

    server = RpcServer(cluster=CLUSTER)
    server.add(WHO, who, roles={Role.ADMIN})
    address = await server.listen(parse_address("tcp://127.0.0.1:0"), server_context(server_files))
    try:
        tls = ClientTls(client_context(client_files), CLUSTER, role)
        async with RpcClient(address, rng=random.Random(1), tls=tls) as client:
            await client.call(WHO, Nothing(), timeout_ms=2_000)
    finally:
        await server.close()
    return callers


@in_loop
async def test_the_owner_calls_a_node(tmp_path: Path) -> None:
    layout = made(tmp_path / "a")
    callers = await who_calls(node_files(layout, Role.LOG, "log-1"), admin_files(layout), Role.LOG)
    assert callers == [admin_identity(CLUSTER)]


@in_loop
async def test_a_node_with_another_role_is_not_talked_to(tmp_path: Path) -> None:
    layout = made(tmp_path / "a")
    with pytest.raises(RpcError):
        await who_calls(
            node_files(layout, Role.STORAGE, "storage-1"), admin_files(layout), Role.LOG
        )


@in_loop
async def test_a_cluster_of_the_same_name_has_another_ca(tmp_path: Path) -> None:
    ours, theirs = made(tmp_path / "a"), made(tmp_path / "b")
    with pytest.raises(RpcError):
        await who_calls(node_files(ours, Role.LOG, "log-1"), admin_files(theirs), Role.LOG)


def test_the_ca_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    layout = made(tmp_path / "a")
    before = layout.ca_file.read_bytes()
    make_authority(layout, CLUSTER)
    assert layout.ca_file.read_bytes() == before
    assert stat.S_IMODE(layout.ca_key_file.stat().st_mode) == 0o600


def test_a_certificate_is_renewed_after_half_of_its_life(tmp_path: Path) -> None:
    layout = made(tmp_path / "a")
    files = node_files(layout, Role.LOG, "log-1")
    certificate, key = Path(files.certificate_file), Path(files.key_file)
    issued_s = certificate.stat().st_mtime
    assert not needs_certificate(certificate, key, now_s=issued_s + RENEW_AFTER_S - 1)
    assert needs_certificate(certificate, key, now_s=issued_s + RENEW_AFTER_S)
    key.unlink()
    assert needs_certificate(certificate, key, now_s=issued_s)


def test_the_days_that_are_left_are_told(tmp_path: Path) -> None:
    layout = made(tmp_path / "a")
    certificate = Path(node_files(layout, Role.LOG, "log-1").certificate_file)
    now = datetime.datetime.now(datetime.UTC)
    assert days_left(certificate, now=now) == 729
    assert days_left(certificate, now=now + datetime.timedelta(days=800)) < 0


def test_a_ca_without_its_key_says_what_to_do(tmp_path: Path) -> None:
    layout = made(tmp_path / "a")
    os.unlink(layout.ca_key_file)
    with pytest.raises(ClusterError, match="bring its files back"):
        node_files(layout, Role.LOG, "log-1")
