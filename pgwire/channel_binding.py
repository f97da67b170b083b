"""What ties a SCRAM login to one TLS connection: the hash of the server's certificate (RFC 5929).

`tls-server-end-point` is the certificate's hash by the algorithm of its signature, or by SHA-256
where that is MD5 or SHA-1. Finding the algorithm takes a walk over the outermost parts of the DER;
nothing else in the certificate is looked at, and nothing is verified: TLS has done that.
"""

import hashlib
from enum import Enum
from typing import Final

CERTIFICATE_BYTES_MAX: Final = 64 * 1024  # TLS itself stops at 16 MiB; real ones have 1 to 4 KiB


class ChannelBinding(Enum):
    """Whether a client ties its login to the TLS connection."""

    DISABLED = "disable"
    PREFERRED = "prefer"
    REQUIRED = "require"


_SEQUENCE: Final = 0x30
_OBJECT_ID: Final = 0x06
_FIRST_CHOICE: Final = 0xA0
_LONG_LENGTH: Final = 0x80
_LENGTH_BYTES_MAX: Final = 3

_RSA_PSS: Final = "2a864886f70d01010a"  # names its hash in its parameters
_HASHES: Final = {
    # Signatures: the hash is part of the name.
    "2a864886f70d010104": "sha256",  # RSA with MD5: too weak, replaced
    "2a864886f70d010105": "sha256",  # RSA with SHA-1: too weak, replaced
    "2a864886f70d01010e": "sha224",
    "2a864886f70d01010b": "sha256",
    "2a864886f70d01010c": "sha384",
    "2a864886f70d01010d": "sha512",
    "2a8648ce3d0401": "sha256",  # ECDSA with SHA-1: too weak, replaced
    "2a8648ce3d040301": "sha224",
    "2a8648ce3d040302": "sha256",
    "2a8648ce3d040303": "sha384",
    "2a8648ce3d040304": "sha512",
    # The hashes themselves, as RSA-PSS names them.
    "2b0e03021a": "sha256",  # SHA-1: too weak, replaced
    "608648016503040204": "sha224",
    "608648016503040201": "sha256",
    "608648016503040202": "sha384",
    "608648016503040203": "sha512",
}


def tls_server_end_point(der_certificate: bytes) -> bytes | None:
    """Return the binding data of a server's certificate.

    None: its signature has no hash to speak of (Ed25519), so there is no such binding.
    ValueError: this is no certificate.
    """
    if len(der_certificate) > CERTIFICATE_BYTES_MAX:
        raise ValueError(f"a certificate of more than {CERTIFICATE_BYTES_MAX} bytes is refused")
    whole, _ = _element(der_certificate, _SEQUENCE)
    _signed, rest = _element(whole, _SEQUENCE)
    algorithm, _ = _element(rest, _SEQUENCE)
    name, parameters = _element(algorithm, _OBJECT_ID)
    if name.hex() == _RSA_PSS:
        name = _pss_hash(parameters)
    hash_name = _HASHES.get(name.hex())
    return None if hash_name is None else hashlib.new(hash_name, der_certificate).digest()


def _pss_hash(parameters: bytes) -> bytes:
    """Return the name of the hash in the parameters of RSA-PSS; SHA-1 where none is given."""
    values, _ = _element(parameters, _SEQUENCE)
    if values[:1] != bytes([_FIRST_CHOICE]):
        return bytes.fromhex("2b0e03021a")
    chosen, _ = _element(values, _FIRST_CHOICE)
    algorithm, _ = _element(chosen, _SEQUENCE)
    name, _ = _element(algorithm, _OBJECT_ID)
    return name


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the DER element that `data` begins with, and what follows it."""
    if len(data) < 2 or data[0] != tag:  # noqa: PLR2004  # a tag and a length
        raise ValueError("this is no DER certificate")
    size, start = data[1], 2
    if size >= _LONG_LENGTH:
        length_bytes = size - _LONG_LENGTH
        start += length_bytes
        if not 1 <= length_bytes <= _LENGTH_BYTES_MAX:
            raise ValueError("this is no DER certificate")
        size = int.from_bytes(data[2:start])
    if start + size > len(data):
        raise ValueError("this DER certificate is cut off")
    return data[start : start + size], data[start + size :]
