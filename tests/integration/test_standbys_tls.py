"""A stock standby streams over TLS, and proves itself by certificate or by password.

Servers that were built without TLS are skipped. What else may happen at the door is in
tests/unit/log_service/test_replication_admission.py.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fixtures.servers import Fleet, require_tls
from integration.standby_world import Branch, insert_and_wait, running_branch, value
from unit.fabric.certificates import Authority
from unit.log_service.replication_world import GROUP

from fabric.addresses import TcpAddress, parse_address
from fabric.tls import TlsFiles, server_context
from log_service.replication_admission import Admission
from log_service.replication_server import ReplicationServer
from pgwire.channel_binding import tls_server_end_point
from pgwire.scram import ScramVerifier

pytestmark = pytest.mark.postgres

PASSWORD = "it's secret"  # noqa: S105  # of this test alone


@pytest.fixture
def branch(fleet: Fleet) -> Iterator[Branch]:
    require_tls(fleet)
    with running_branch(fleet) as branch:
        yield branch


@contextmanager
def listening_with_tls(branch: Branch, files: TlsFiles) -> Iterator[int]:
    """Serve the branch on a second server, over TCP; yield the port."""
    context = server_context(files)
    context.verify_mode = ssl.CERT_OPTIONAL  # the password comes without a certificate
    certificate = x509.load_pem_x509_certificate(Path(files.certificate_file).read_bytes())
    admission = Admission(
        verifiers={GROUP: ScramVerifier.make(PASSWORD, os.urandom)},
        mock_secret=os.urandom(16),
        binding_data=tls_server_end_point(certificate.public_bytes(Encoding.DER)),
    )
    server = ReplicationServer(source_of={GROUP: branch.node.source}.get, admission=admission)
    ports: list[int] = []

    async def listen() -> None:
        address = await server.listen(parse_address("tcp://127.0.0.1:0"), context)
        assert isinstance(address, TcpAddress)
        ports.append(address.port)

    branch.node.await_(listen())
    try:
        yield ports[0]
    finally:
        branch.node.await_(server.close())


@pytest.mark.parametrize("proof", ["certificate", "password"])
def test_standby_streams_over_tls(branch: Branch, proof: str) -> None:
    authority = Authority.create(branch.fleet.directory / "tls")
    ours, theirs = (authority.issue(f"seawall://demo/{who}") for who in ("log/l1", "compute/c1"))
    Path(theirs.key_file).chmod(0o600)
    branch.fleet.identity.give_tree(authority.directory)
    quoted = PASSWORD.replace("'", r"\'")
    proofs = {
        "certificate": f"sslcert={theirs.certificate_file} sslkey={theirs.key_file}",
        "password": f"password='{quoted}' channel_binding=require",
    }
    with listening_with_tls(branch, ours) as port:
        conninfo = (
            f"host=127.0.0.1 port={port} user={GROUP} application_name=s1 "
            f"sslmode=verify-ca sslrootcert={ours.ca_file} {proofs[proof]}"
        )
        standby = branch.standby("s1", primary_conninfo=conninfo)
        insert_and_wait(branch, branch.primary, 20_000, standby)
        said = str(value(standby, "select conninfo from pg_stat_wal_receiver"))
        assert f"port={port}" in said
