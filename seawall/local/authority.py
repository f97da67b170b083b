"""The certificate authority of a local cluster: its own, made with it, trusted by nobody else.

Every node has a certificate with its identity, `seawall://cluster/role/node` (see fabric/tls.py);
the owner of the cluster has one as an administrator. Certificates are renewed at a start when half
of their time is over; the CA lives as long as the cluster.
"""

import datetime
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fabric.ids import ClusterName, NodeName, Role
from fabric.tls import Identity, TlsFiles

from .cluster_file import ClusterError, replace_file
from .layout import Layout

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS: Final = 3650 * 2
NODE_DAYS: Final = 730
RENEW_AFTER_S: Final = NODE_DAYS * 86_400 // 2
BACKDATED: Final = datetime.timedelta(hours=1)  # clocks are set back now and then
ADMIN: Final = NodeName("owner")


def make_authority(layout: Layout, cluster: ClusterName) -> None:
    """Make the CA unless there is one."""
    layout.authority.mkdir(mode=0o755, exist_ok=True)
    if layout.ca_file.exists():
        return
    from cryptography import x509  # noqa: PLC0415  # 0.1 s that only the first start needs
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  # as above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  # as above

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Seawall CA of {cluster}")])
    public = key.public_key()
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(AUTHORITY_DAYS)
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The certificate last: where it is, the key is, too.
    replace_file(layout.ca_key_file, _pem_of_key(key), mode=0o600)
    replace_file(layout.ca_file, _pem(certificate), mode=0o644)


def needs_certificate(certificate: Path, key: Path, *, now_s: float) -> bool:
    """Whether there is none, or it has lived half of its life."""
    try:
        return not key.exists() or now_s - certificate.stat().st_mtime >= RENEW_AFTER_S
    except FileNotFoundError:
        return True


def issue(layout: Layout, identity: Identity, certificate: Path, key: Path) -> None:
    """Make a key, and the certificate that says whose it is."""
    from cryptography import x509  # noqa: PLC0415  # 0.1 s that only the first start needs
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415  # as above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  # as above

    try:
        ca = x509.load_pem_x509_certificate(layout.ca_file.read_bytes())
        ca_key = serialization.load_pem_private_key(layout.ca_key_file.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"the certificate authority in {layout.authority} cannot be used ({error}): bring its "
            "files back from a backup"
        ) from error
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey), "we have made it"
    new_key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _builder(NODE_DAYS)
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, identity.node)]))
        .issuer_name(ca.subject)
        .public_key(new_key.public_key())
        .add_extension(_names(identity), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(_purposes(), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    replace_file(key, _pem_of_key(new_key), mode=0o600)
    replace_file(certificate, _pem(made), mode=0o644)


def admin_files(layout: Layout) -> TlsFiles:
    """Return what the owner of the cluster calls its nodes with."""
    return TlsFiles(
        ca_file=str(layout.ca_file),
        certificate_file=str(layout.authority / "owner.crt"),
        key_file=str(layout.authority / "owner.key"),
    )


def days_left(certificate: Path, *, now: datetime.datetime) -> int:
    """Return for how many days a certificate is still good; ClusterError if it cannot be read."""
    from cryptography import x509  # noqa: PLC0415  # 0.1 s that only `doctor` needs

    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise ClusterError(f"{certificate} cannot be read: {error}") from error
    return (found.not_valid_after_utc - now).days


def admin_identity(cluster: ClusterName) -> Identity:
    """Return who the owner of the cluster is to its nodes."""
    return Identity(cluster, Role.ADMIN, ADMIN)


def _builder(days: int) -> "x509.CertificateBuilder":
    from cryptography import x509  # noqa: PLC0415  # see above

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .serial_number(int.from_bytes(os.urandom(16), "big") >> 1)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _names(identity: Identity) -> "x509.SubjectAlternativeName":
    from cryptography import x509  # noqa: PLC0415  # see above

    return x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(str(identity)),
            x509.DNSName("localhost"),  # for libpq, which may verify host names
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
    )


def _purposes() -> "x509.ExtendedKeyUsage":
    from cryptography import x509  # noqa: PLC0415  # see above
    from cryptography.x509 import oid  # noqa: PLC0415  # see above

    return x509.ExtendedKeyUsage(
        [oid.ExtendedKeyUsageOID.SERVER_AUTH, oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    )


def _usage(*, signs_certificates: bool) -> "x509.KeyUsage":
    from cryptography import x509  # noqa: PLC0415  # see above

    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates,
        crl_sign=signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(certificate: "x509.Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415  # see above

    return certificate.public_bytes(Encoding.PEM)


def _pem_of_key(key: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # see above

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
