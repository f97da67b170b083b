"""A certificate for TLS on loopback: self-signed, of an elliptic curve as new ones are."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .credentials import HOST

DAY: Final = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files; whoever connects trusts the certificate itself."""

    certificate_file: Path
    key_file: Path

    def client_context(self) -> ssl.SSLContext:
        """What a client checks: that it is this certificate, and the host."""
        return ssl.create_default_context(cafile=str(self.certificate_file))


def make_certificate(directory: Path) -> Certificate:
    """Make one that is valid today; its key is private."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    made = Certificate(directory / "server.crt", directory / "server.key")
    pem = serialization.Encoding.PEM
    made.certificate_file.write_bytes(certificate.public_bytes(pem))
    made.key_file.touch(mode=0o600)
    made.key_file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made
