"""Secrets: certificates, passwords, and what a primary carries out so that these count.

What is random here is made once and kept; only a step of the authority (authority.py), and another
password of the superuser, change a Secret that is there. The file for a primary has verifiers
alone. No password is ever in a log, an event or a status.
"""

import base64
import functools
import os
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from fabric.certificates import Pem, issue, make_authority, validity
from fabric.ids import ClusterName, NodeName, Role
from fabric.tls import Identity
from gateway.users import role_sql
from kube_operator.names import EXPIRES, POSTGRES_PORT, SIGNED_BY, Component, Names
from pgwire.scram import ScramVerifier

from .authority import AUTHORITY_DAYS, NODE_DAYS, authority_in, identity_of
from .moments import rfc3339

PASSWORD_BYTES: Final = 24
PASSWORD_CHARACTERS_MAX: Final = 1_000  # as PostgreSQL has it, about
LOOKS_KEPT: Final = 500  # one for each cluster
SUPERUSER: Final = "postgres"
DATABASE: Final = "postgres"
ROLES: Final = {
    Component.LOG: Role.LOG,
    Component.STORAGE: Role.STORAGE,
    Component.COMPUTE: Role.COMPUTE,
    Component.GATEWAY: Role.GATEWAY,
}
_SUPERUSER_SQL: Final = re.compile(rf"alter role {SUPERUSER} password '([^']+)';")


def authority_secret(names: Names) -> dict[str, Any]:
    """Return a new authority for the cluster."""
    return _tls_secret(names, names.authority_secret, None, another_authority(names))


def another_authority(names: Names) -> Pem:
    """Return an authority that nobody trusts yet."""
    title = f"Seawall CA of {names.namespace}/{names.cluster}"[:64]
    return make_authority(title, days=AUTHORITY_DAYS)


def node_certificate(
    names: Names, authority: dict[str, Any], component: Component, node: str
) -> dict[str, Any]:
    """Return the Secret with a new certificate for a node, signed by a Secret's authority."""
    identity = Identity(ClusterName(names.cluster), ROLES[component], NodeName(node))
    made = issue(
        authority_of(authority["data"]),
        identity,
        days=NODE_DAYS,
        hosts=_hosts(names, component, node),
    )
    secret = _tls_secret(names, names.tls_secret(node), component, made)
    secret["metadata"]["annotations"][SIGNED_BY] = identity_of(authority["data"]["tls.crt"])
    secret["data"]["ca.crt"] = authority_in(authority).trusted
    return secret


def operator_certificate(names: Names, authority: dict[str, Any], node: str) -> tuple[Pem, bytes]:
    """Return what the operator calls the nodes of a cluster with, and whom it trusts there."""
    identity = Identity(ClusterName(names.cluster), Role.OPERATOR, NodeName(node))
    made = issue(authority_of(authority["data"]), identity, days=NODE_DAYS)
    return made, base64.b64decode(authority_in(authority).trusted)


def authority_of(data: Mapping[str, str]) -> Pem:
    """Read the Secret of the authority; ValueError if it is damaged."""
    try:
        return Pem(decoded(data, "tls.crt"), decoded(data, "tls.key"))
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]}") from None


def superuser_secret(names: Names) -> dict[str, Any]:
    """Return what applications connect with at first, in the forms that they like."""
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    values = {
        "username": SUPERUSER,
        "password": password,
        "host": _gateway_host(names),
        "port": str(POSTGRES_PORT),
        "dbname": DATABASE,
        **_with_password(names, password),
    }
    return _secret(names, names.superuser_secret, "kubernetes.io/basic-auth", values)


def _gateway_host(names: Names) -> str:
    return f"{names.gateway_service}.{names.namespace}.svc"


def _with_password(names: Names, password: str) -> dict[str, str]:
    """Return the forms that have the password in them, each with its own escapes."""
    host, login = _gateway_host(names), f"{SUPERUSER}:{quote(password, safe='')}"
    in_pgpass = password.replace("\\", "\\\\").replace(":", "\\:")
    return {
        "uri": f"postgresql://{login}@{host}:{POSTGRES_PORT}/{DATABASE}",
        "pgpass": f"{host}:{POSTGRES_PORT}:*:{SUPERUSER}:{in_pgpass}\n",
    }


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


def is_taken(superuser: dict[str, Any], internal: dict[str, Any]) -> bool:
    """Whether the database takes the password that the superuser's Secret has.

    True also for what is no password, and for a file of statements that is not ours.
    """
    password = _password_in(superuser)
    verifier = _verifier_in(internal)
    return password is None or verifier is None or _fits(password, verifier)


def taken(
    names: Names, superuser: dict[str, Any], internal: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the changes of both Secrets after which it does; only if it `is_taken` not yet."""
    password, verifier = _password_in(superuser), _verifier_in(internal)
    assert password is not None, "who has no password is not asked"
    assert verifier is not None, "nor who has no verifier"
    made = ScramVerifier.make(password, os.urandom)
    sql = decoded(internal["data"], "primary.sql").decode()
    sql = sql.replace(verifier.format(), made.format(), 1)
    forms = _with_password(names, password)
    return (
        {"data": {name: _encoded(value.encode()) for name, value in forms.items()}},
        {"data": {"primary.sql": _encoded(sql.encode())}},
    )


def _password_in(superuser: dict[str, Any]) -> str | None:
    """Return what somebody may have written there; None: it is no password."""
    try:
        password = decoded(superuser.get("data") or {}, "password").decode()
    except (KeyError, ValueError):
        return None
    is_one = 0 < len(password) <= PASSWORD_CHARACTERS_MAX and "\0" not in password
    return password if is_one else None


def _verifier_in(internal: dict[str, Any]) -> ScramVerifier | None:
    try:
        sql = decoded(internal.get("data") or {}, "primary.sql").decode()
        found = _SUPERUSER_SQL.match(sql)
        return None if found is None else ScramVerifier.parse(found[1])
    except (KeyError, ValueError):
        return None


@functools.lru_cache(maxsize=LOOKS_KEPT)  # 3 ms, in each look
def _fits(password: str, verifier: ScramVerifier) -> bool:
    salt, iterations = verifier.salt, verifier.iterations
    return ScramVerifier.make(password, lambda _: salt, iterations=iterations) == verifier


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
    values = {"tls.crt": made.certificate.decode(), "tls.key": made.key.decode()}
    secret = _secret(names, name, "kubernetes.io/tls", values)
    secret["metadata"]["labels"] = names.labels(component)
    secret["metadata"]["annotations"] = {EXPIRES: rfc3339(renewal_of(made.certificate))}
    return secret


def renewal_of(certificate: bytes) -> datetime:
    """Return when a certificate is to be renewed: when half of its time is over."""
    not_before, not_after = validity(certificate)
    return not_before + (not_after - not_before) / 2


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
