"""The hash of a certificate is made by the algorithm of its signature, and garbage has none."""

import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pgwire.channel_binding import tls_server_end_point


def certificate(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | hashes.SHA224 | None,
    rsa_padding: padding.PSS | None = None,
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + datetime.timedelta(days=1))
    )
    signed = builder.sign(key, algorithm, rsa_padding=rsa_padding)
    return signed.public_bytes(serialization.Encoding.DER)


RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    "algorithm", [hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]
)
def test_certificate_is_hashed_by_the_algorithm_of_its_signature(
    algorithm: hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512,
) -> None:
    pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
    for der in (
        certificate(EC_KEY, algorithm),
        certificate(RSA_KEY, algorithm),
        certificate(RSA_KEY, algorithm, pss),
    ):
        assert tls_server_end_point(der) == hashlib.new(algorithm.name, der).digest()


@pytest.mark.parametrize("weak", ["2a864886f70d010104", "2a864886f70d010105"])
def test_weak_hash_is_replaced_by_sha_256(weak: str) -> None:
    sha_256_with_rsa = bytes.fromhex("2a864886f70d01010b")
    der = certificate(RSA_KEY, hashes.SHA256()).replace(sha_256_with_rsa, bytes.fromhex(weak))
    assert tls_server_end_point(der) == hashlib.sha256(der).digest()


def test_signature_without_a_hash_has_no_binding() -> None:
    assert tls_server_end_point(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None


@given(cut=st.integers(0, 200), junk=st.binary(max_size=50))
def test_what_is_no_certificate_is_refused(cut: int, junk: bytes) -> None:
    der = certificate(EC_KEY, hashes.SHA256())
    with pytest.raises(ValueError, match="DER"):
        tls_server_end_point(der[: cut % len(der)])
    with pytest.raises(ValueError, match="DER"):
        tls_server_end_point(junk)
    with pytest.raises(ValueError, match="refused"):
        tls_server_end_point(bytes(100_000))
