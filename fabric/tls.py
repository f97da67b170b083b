"""Mutual TLS: contexts, and the identity that a certificate proves.

Components know each other by a URI in the certificate, `seawall://cluster/role/node`, not by host
name: pods move, identities do not. Only TLS 1.3 is spoken, both sides show a certificate, and both
must come from the CA given here; the public authorities of the machine count for nothing.

Who may call what is decided in `rpc_server.py`; certificates are made by `certificates.py`.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .ids import ClusterName, NodeName, Role

SCHEME: Final = "seawall://"


class IdentityError(Exception):
    """A certificate, though signed by our CA, does not say who its owner is, or it is not us."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who owns a certificate."""

    cluster: ClusterName
    role: Role
    node: NodeName

    def __str__(self) -> str:
        return f"{SCHEME}{self.cluster}/{self.role}/{self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files, as a Secret is mounted: our CA, our certificate, its key."""

    ca_file: str
    certificate_file: str
    key_file: str


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What a client needs: its context, and who the server has to be."""

    context: ssl.SSLContext
    cluster: ClusterName
    server_role: Role

    def check_server(self, identity: Identity | None) -> None:
        """Refuse a server of another cluster or with another role, whoever signed for it."""
        if identity is None:
            raise IdentityError("the server did not prove its identity: it must use TLS")
        if (identity.cluster, identity.role) != (self.cluster, self.server_role):
            raise IdentityError(
                f"the server is {identity}, but a {self.server_role} node of cluster "
                f"{self.cluster} was expected"
            )


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context that demands a certificate of our CA from every client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Nobody resumes sessions here, and a ticket in flight turns a quick close into a reset.
    context.num_tickets = 0
    return _mutual(context, files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context that trusts our CA alone and shows our certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the URI is checked instead: ClientTls.check_server
    return _mutual(context, files)


def identity_of_certificate(certificate: Mapping[str, Any] | None) -> Identity:
    """Read the identity from what `SSLSocket.getpeercert` returns."""
    names = certificate.get("subjectAltName", ()) if certificate else ()
    uris = [value for kind, value in names if kind == "URI" and value.startswith(SCHEME)]
    if len(uris) != 1:
        raise IdentityError(
            f"the certificate has {len(uris)} URIs {SCHEME}cluster/role/node, one is required: "
            "issue it again"
        )
    return parse_identity(uris[0])


def parse_identity(uri: str) -> Identity:
    """Read `seawall://cluster/role/node`."""
    parts = uri.removeprefix(SCHEME).split("/")
    try:
        cluster, role, node = parts
        return Identity(ClusterName(cluster), Role(role), NodeName(node))
    except ValueError as error:
        raise IdentityError(f"identity {uri[:200]!r} must be {SCHEME}cluster/role/node") from error


def _mutual(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=files.ca_file)
        context.load_cert_chain(files.certificate_file, files.key_file)
    except OSError as error:  # ssl.SSLError is one; neither says which file it was
        raise IdentityError(
            f"cannot load TLS files {files.ca_file}, {files.certificate_file}, {files.key_file}: "
            f"{error}"
        ) from error
    return context
