"""Certificates of nodes: made, renewed with time, and made anew for another authority. Pure."""

from collections.abc import Iterator

from .actions import Action, MakeCertificate
from .kube_port import SECRET, Json
from .manifests.moments import moment_of
from .names import EXPIRES, SIGNED_BY, Component
from .observed import Observed


def certificate_of(seen: Observed, component: Component, node: str) -> Iterator[Action]:
    """Say whether a node's certificate has to be made anew."""
    if not is_certified(seen, node):
        yield MakeCertificate(component, node)


def is_certified(seen: Observed, node: str) -> bool:
    """Whether what a node is shown at its start will do: for some time, and for everybody."""
    secret = seen.of(SECRET).get(seen.names.tls_secret(node))
    return secret is not None and _is_current(seen, secret)


def _is_current(seen: Observed, secret: Json) -> bool:
    annotations = secret["metadata"].get("annotations") or {}
    renew = moment_of(annotations.get(EXPIRES))
    if renew is None:
        return True  # somebody else's: cert-manager renews its own
    if seen.now >= renew:
        return False
    authority = seen.authority
    if authority is None or authority.renew is None:
        return True  # if the authority is somebody else's, too, so is its rotation
    trusted = (secret.get("data") or {}).get("ca.crt")
    return bool(annotations.get(SIGNED_BY) == authority.signer and trusted == authority.trusted)
