"""Certificates of one cluster: its own authority, and what it signs. Pure, but for the clock.

Every node has a certificate with its identity, `seawall://cluster/role/node` (see tls.py); one that
is shown to SQL clients has host names besides. Who keeps the keys, and when they are renewed, is up
to the caller: a directory of the owner's, or a Secret of Kubernetes.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from .tls import Identity

BACKDATED: Final = datetime.timedelta(hours=1)  # clocks are set back now and then


class AuthorityError(ValueError):
    """What should be the authority's certificate and key is none."""


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate and its key, as PEM files have them."""

    certificate: bytes
    key: bytes = field(repr=False)


def make_authority(title: str, *, days: int) -> Pem:
    """Make an authority that is trusted by nobody yet."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, title)])
    public = key.public_key()
    certificate = (
        _builder(days)
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate, key)


def issue(
    authority: Pem, identity: Identity, *, days: int, hosts: Sequence[str] = ("localhost",)
) -> Pem:
    """Make a key, and the certificate that says whose it is; `hosts` are names and addresses."""
    try:
        ca = x509.load_pem_x509_certificate(authority.certificate)
        ca_key = serialization.load_pem_private_key(authority.key, None)
    except ValueError as error:
        raise AuthorityError(
            f"the authority's certificate or key cannot be read: {error}"
        ) from error
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise AuthorityError("the authority's key is none of an elliptic curve")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(days)
        .subject_name(_subject(identity))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .add_extension(_names(identity, hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(_purposes(), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return _pem(certificate, key)


def validity(certificate: bytes) -> tuple[datetime.datetime, datetime.datetime]:
    """Return from when to when a certificate (the first of a PEM file) is good; ValueError."""
    found = x509.load_pem_x509_certificate(certificate)
    return found.not_valid_before_utc, found.not_valid_after_utc


def _builder(days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .serial_number(int.from_bytes(os.urandom(16), "big") >> 1)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _subject(identity: Identity) -> x509.Name:
    """Return the role and the node: PostgreSQL looks at a subject, never at a URI."""
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, identity.role),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, identity.node),
        ]
    )


def _names(identity: Identity, hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
    for host in hosts:  # for libpq, which may verify host names
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _purposes() -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(
        [oid.ExtendedKeyUsageOID.SERVER_AUTH, oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates,
        crl_sign=signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pem:
    return Pem(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
