"""Secrets: certificates, passwords, and what a primary carries out so that these count.

What is random here is made once and kept; manifests of existing Secrets are never made again. The
file for a primary has verifiers alone. No password is ever in a log, an event or a status.
"""

import base64
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fabric.certificates import Pem, issue, make_authority, validity
from fabric.ids import ClusterName, NodeName, Role
from fabric.tls import Identity
from gateway.users import role_sql
from kube_operator.names import EXPIRES, POSTGRES_PORT, Component, Names
from pgwire.scram import ScramVerifier

AUTHORITY_DAYS: Final = 3650
NODE_DAYS: Final = 365
PASSWORD_BYTES: Final = 24
SUPERUSER: Final = "postgres"
DATABASE: Final = "postgres"
ROLES: Final = {
    Component.LOG: Role.LOG,
    Component.STORAGE: Role.STORAGE,
    Component.COMPUTE: Role.COMPUTE,
    Component.GATEWAY: Role.GATEWAY,
}


def authority_secret(names: Names) -> dict[str, Any]:
    """Return a new authority for the cluster."""
    made = make_authority(
        f"Seawall CA of {names.namespace}/{names.cluster}"[:64],
        days=AUTHORITY_DAYS,
    )
    return _tls_secret(names, names.authority_secret, None, made)


def node_certificate(
    names: Names, authority: Mapping[str, str], component: Component, node: str
) -> dict[str, Any]:
    """Return the Secret with a new certificate for a node."""
    ca = authority_of(authority)
    identity = Identity(ClusterName(names.cluster), ROLES[component], NodeName(node))
    made = issue(ca, identity, days=NODE_DAYS, hosts=_hosts(names, component, node))
    secret = _tls_secret(names, names.tls_secret(node), component, made)
    secret["data"]["ca.crt"] = _encoded(ca.certificate)
    return secret


def operator_certificate(
    names: Names, authority: Mapping[str, str], node: str
) -> tuple[Pem, bytes]:
    """Return what the operator calls the nodes of a cluster with, and whom it trusts there."""
    ca = authority_of(authority)
    identity = Identity(ClusterName(names.cluster), Role.OPERATOR, NodeName(node))
    return issue(ca, identity, days=NODE_DAYS), ca.certificate


def authority_of(data: Mapping[str, str]) -> Pem:
    """Read the Secret of the authority; ValueError if it is damaged."""
    try:
        return Pem(decoded(data, "tls.crt"), decoded(data, "tls.key"))
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]}") from None


def superuser_secret(names: Names) -> dict[str, Any]:
    """Return what applications connect with at first, in the forms that they like."""
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    host = f"{names.gateway_service}.{names.namespace}.svc"
    uri = f"postgresql://{SUPERUSER}:{password}@{host}:{POSTGRES_PORT}/{DATABASE}"
    values = {
        "username": SUPERUSER,
        "password": password,
        "host": host,
        "port": str(POSTGRES_PORT),
        "dbname": DATABASE,
        "uri": uri,
        "pgpass": f"{host}:{POSTGRES_PORT}:*:{SUPERUSER}:{password}\n",
    }
    return _secret(names, names.superuser_secret, "kubernetes.io/basic-auth", values)


def internal_secret(names: Names, superuser_password: str) -> dict[str, Any]:
    """Return what nodes need besides certificates, made for a superuser's password."""
    passwords = {
        name: secrets.token_urlsafe(PASSWORD_BYTES)
        for name in ("standby-password", "gateway-password", "gateway-admin-password")
    }
    verifier = ScramVerifier.make(superuser_password, os.urandom)
    gateway = ScramVerifier.make(passwords["gateway-password"], os.urandom)
    primary_sql = f"alter role {SUPERUSER} password '{verifier.format()}';\n{role_sql(gateway)}"
    return _secret(
        names, names.internal_secret, "Opaque", {**passwords, "primary.sql": primary_sql}
    )


def decoded(data: Mapping[str, str], name: str) -> bytes:
    """Return an entry of a Secret's data; KeyError, ValueError."""
    return base64.b64decode(data[name], validate=True)


def _hosts(names: Names, component: Component, node: str) -> list[str]:
    """Return all names by which SQL clients may reach a node."""
    if component is Component.GATEWAY:
        services = [names.gateway_service]
    elif component is Component.COMPUTE:
        services = [names.primary_service, names.replicas_service]
    else:
        services = []
    found = [] if component is Component.GATEWAY else [names.host(component, node)]
    for service in services:
        found += [
            service,
            f"{service}.{names.namespace}",
            f"{service}.{names.namespace}.svc",
            f"{service}.{names.namespace}.svc.cluster.local",
        ]
    return [*found, "localhost"]


def _tls_secret(names: Names, name: str, component: Component | None, made: Pem) -> dict[str, Any]:
    not_before, not_after = validity(made.certificate)
    renew = not_before + (not_after - not_before) / 2
    values = {"tls.crt": made.certificate.decode(), "tls.key": made.key.decode()}
    secret = _secret(names, name, "kubernetes.io/tls", values)
    secret["metadata"]["labels"] = names.labels(component)
    secret["metadata"]["annotations"] = {EXPIRES: rfc3339(renew)}
    return secret


def _secret(names: Names, name: str, kind: str, values: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": kind,
        "metadata": {"name": name, "namespace": names.namespace, "labels": names.labels()},
        "data": {key: _encoded(value.encode()) for key, value in values.items()},
    }


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def rfc3339(moment: datetime) -> str:
    """Return a moment as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
