"""The Secret with a cluster's authority, and how it comes to have another one. Pure.

    step         tls.crt  next.crt  previous.crt     who signs   who is trusted
    SETTLED      A                                   A           A
    INTRODUCED   A        B                          A           A, B
    SUCCEEDED    B                  A                B           B, A
    SETTLED      B                                   B           B

A step changes the Secret at once, and what is in it is all that is known of how far a rotation is.
Invariant: whoever signs is trusted, and keys are there of those alone who sign, now or next: the
key of an authority is forgotten when it signs no more.

When a step may follow is decided in plan_rotation.py.
"""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from fabric.certificates import Pem
from kube_operator.names import EXPIRES, SINCE

from .moments import moment_of, rfc3339

ID_CHARACTERS: Final = 16

# An authority is good for ten years and succeeded after five; a certificate for one year and
# renewed after half. Both leave half of their time for whatever holds a change up: a cluster that
# is paused, or degraded; and no certificate outlives its authority. Nothing would be saved by more
# time: a renewal is a rollout like others.
AUTHORITY_DAYS: Final = 3650
NODE_DAYS: Final = 365
# So long a new authority is known before it signs, unless somebody has asked for haste: clients
# that verify a gateway by a copy of `ca.crt` have the time to get the new copy.
KNOWN_BEFORE: Final = timedelta(days=30)


class Step(StrEnum):
    """How far a rotation is."""

    SETTLED = "settled"
    INTRODUCED = "introduced"
    SUCCEEDED = "succeeded"


@dataclass(frozen=True, slots=True)
class Authority:
    """What a Secret says, without its keys."""

    step: Step
    signer: str
    """Who signs now, as `SIGNED_BY` has it."""
    trusted: str
    """All that are trusted: what `ca.crt` of every node is, in base64."""
    renew: datetime | None
    """When another one is due; None: this one is somebody else's, who knows when."""
    since: datetime | None
    """When this step was."""


def authority_in(secret: dict[str, Any]) -> Authority:
    """Read the Secret."""
    data = secret.get("data") or {}
    annotations = secret["metadata"].get("annotations") or {}
    if "next.crt" in data:
        step, other = Step.INTRODUCED, data["next.crt"]
    elif "previous.crt" in data:
        step, other = Step.SUCCEEDED, data["previous.crt"]
    else:
        step, other = Step.SETTLED, ""
    signer = data.get("tls.crt", "")
    return Authority(
        step=step,
        signer=identity_of(signer),
        trusted=_both(signer, other),
        renew=moment_of(annotations.get(EXPIRES)),
        since=moment_of(annotations.get(SINCE)),
    )


def identity_of(certificate: str) -> str:
    """Return a short name for an authority's certificate, which is in base64."""
    return hashlib.sha256(certificate.encode()).hexdigest()[:ID_CHARACTERS]


def introduced(made: Pem, now: datetime) -> dict[str, Any]:
    """Return the changes that bring another authority, to be trusted and not to sign yet."""
    return {
        "metadata": {"annotations": {SINCE: rfc3339(now)}},
        "data": {"next.crt": _encoded(made.certificate), "next.key": _encoded(made.key)},
    }


def succeeded(secret: dict[str, Any], now: datetime, *, renew: datetime) -> dict[str, Any]:
    """Return the changes by which the other one signs; `renew`: when it is to be succeeded."""
    data = secret["data"]
    return {
        "metadata": {"annotations": {SINCE: rfc3339(now), EXPIRES: rfc3339(renew)}},
        "data": {
            "tls.crt": data["next.crt"],
            "tls.key": data["next.key"],
            "next.crt": None,
            "next.key": None,
            "previous.crt": data["tls.crt"],
        },
    }


def ended(now: datetime) -> dict[str, Any]:
    """Return the changes after which the old one is trusted no more."""
    return {
        "metadata": {"annotations": {SINCE: rfc3339(now)}},
        "data": {"previous.crt": None},
    }


def _both(one: str, other: str) -> str:
    """Return two PEM files as one; what is damaged stays as it is, and is trusted by nobody."""
    if not other:
        return one
    try:
        parts = [base64.b64decode(text, validate=True).strip() for text in (one, other)]
    except ValueError:
        return one
    return _encoded(b"\n".join([*parts, b""]))


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()
