"""Contexts of servers from certificates in memory: OpenSSL takes files alone."""

import ssl
import tempfile
from pathlib import Path

from fabric.certificates import Pem
from fabric.tls import TlsFiles, server_context


def plain_server_context(pem: Pem) -> ssl.SSLContext:
    """Return a context that asks clients for no certificate: those of the API have a token."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        files = _written(Path(directory), pem, b"")
        context.load_cert_chain(files.certificate_file, files.key_file)
    return context


def node_context(pem: Pem, authority: bytes) -> ssl.SSLContext:
    """Return the context that a node has whose Secret this is."""
    with tempfile.TemporaryDirectory() as directory:
        return server_context(_written(Path(directory), pem, authority))


def _written(directory: Path, pem: Pem, authority: bytes) -> TlsFiles:
    contents = {"ca.crt": authority, "tls.crt": pem.certificate, "tls.key": pem.key}
    for name, content in contents.items():
        path = directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
    ca_file, certificate_file, key_file = (str(directory / name) for name in contents)
    return TlsFiles(ca_file=ca_file, certificate_file=certificate_file, key_file=key_file)
