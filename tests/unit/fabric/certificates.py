"""Throw-away certificates for the mTLS tests, in the form the product expects them."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fabric.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that lives in a temporary directory."""

    directory: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Make a key and a self-signed certificate in a new directory."""
        directory.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder("authority", key.public_key(), issuer="authority")
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        certificate = builder.sign(key, hashes.SHA256())
        (directory / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(directory, key, certificate)

    def issue(self, *uris: str) -> TlsFiles:
        """Issue a certificate with these URIs; return its files."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder("leaf", key.public_key(), issuer="authority")
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names = names or [x509.DNSName("localhost")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        certificate = builder.sign(self.key, hashes.SHA256())
        stem = self.directory / f"{certificate.serial_number:x}"
        pem = serialization.Encoding.PEM
        stem.with_suffix(".crt").write_bytes(certificate.public_bytes(pem))
        stem.with_suffix(".key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return TlsFiles(
            ca_file=str(self.directory / "ca.crt"),
            certificate_file=str(stem.with_suffix(".crt")),
            key_file=str(stem.with_suffix(".key")),
        )


def _builder(
    subject: str, key: ec.EllipticCurvePublicKey, *, issuer: str
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
