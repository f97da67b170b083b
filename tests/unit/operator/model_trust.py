"""Who trusts whom in a cluster in memory: processes that read certificates when they start, and the
gateways of a Deployment, which Kubernetes replaces by itself.

What must never happen is that one of two processes that run does not trust the other: `verify`
looks at all pairs. Certificates are texts: whoever signed one is named in its Secret.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from kube_operator.manifests.authority import NODE_DAYS, authority_in, identity_of
from kube_operator.manifests.pods import revision_of
from kube_operator.names import EXPIRES, SIGNED_BY, Component, Names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kube_operator.kube_port import Json

ENDS = "ends"


class BrokenPromiseError(AssertionError):
    """The plan asked for what must never be asked for."""


def require(holds: bool, promise: str) -> None:
    if not holds:
        raise BrokenPromiseError(promise)


def merge(thing: Json, changes: Json) -> None:
    """Do what a merge patch does."""
    for name, value in changes.items():
        if value is None:
            thing.pop(name, None)
        elif isinstance(value, dict):
            merge(thing.setdefault(name, {}), value)
        else:
            thing[name] = value


@dataclass(frozen=True, slots=True)
class Process:
    """What a process has read at its start."""

    signer: str
    trusted: frozenset[str]
    ends: datetime


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def authority_secret(names: Names, serial: int, now: datetime) -> Json:
    """Return an authority, made now."""
    return {
        "metadata": {
            "name": names.authority_secret,
            "annotations": {EXPIRES: (now + timedelta(days=5 * 365)).isoformat()},
            "labels": names.labels(),
        },
        "data": {"tls.crt": encoded(f"CA-{serial}"), "tls.key": encoded("key")},
    }


def certificate_secret(
    names: Names, node: str, authority: Json, serial: int, now: datetime
) -> Json:
    """Return a node's certificate, made now."""
    found = authority_in(authority)
    return {
        "metadata": {
            "name": names.tls_secret(node),
            "annotations": {
                EXPIRES: (now + timedelta(days=NODE_DAYS) / 2).isoformat(),
                ENDS: (now + timedelta(days=NODE_DAYS)).isoformat(),
                SIGNED_BY: found.signer,
            },
            "labels": names.labels(),
        },
        "data": {"tls.crt": encoded(f"certificate {serial}"), "ca.crt": found.trusted},
    }  # fmt: skip


class Processes:
    """All that run, by the names of their pods."""

    def __init__(self) -> None:
        self.running: dict[str, Process] = {}

    def start(self, pod: str, secret: Json) -> None:
        """A container begins, or begins again."""
        annotations = secret["metadata"]["annotations"]
        self.running[pod] = Process(
            annotations[SIGNED_BY],
            _authorities(secret["data"]["ca.crt"]),
            datetime.fromisoformat(annotations[ENDS]),
        )

    def keep(self, pods: Mapping[str, Json]) -> None:
        """Those whose pods are gone are gone, too."""
        self.running = {name: one for name, one in self.running.items() if name in pods}

    def verify(self, authority: Json, now: datetime) -> None:
        """Any two trust each other; so do they and the operator, which has the authority."""
        found = authority_in(authority)
        operator = Process(found.signer, _authorities(found.trusted), now + timedelta(days=1))
        everybody = [*self.running.values(), operator]
        for one in everybody:
            require(one.ends > now, "who runs has a certificate that is good")
            for other in everybody:
                require(one.signer in other.trusted, "who runs is trusted by all who run")

    def verify_step(self, changes: Json, authority: Json) -> None:
        """Whether a change of the authority's Secret leaves nobody outside."""
        data = authority["data"]
        if changes["data"].get("previous.crt") is not None:  # the next one signs
            new = identity_of(data["next.crt"])
            known = all(new in one.trusted for one in self.running.values())
            require(known, "who signs is trusted by all before")
        if "previous.crt" in changes["data"] and changes["data"]["previous.crt"] is None:
            old = identity_of(data["previous.crt"])
            used = any(old == one.signer for one in self.running.values())
            require(
                not used, "an authority is trusted as long as somebody who runs is signed by it"
            )


def _authorities(trusted: str) -> frozenset[str]:
    lines = base64.b64decode(trusted).decode().split()
    return frozenset(identity_of(encoded(line)) for line in lines)


class GatewayController:
    """What Kubernetes does with a Deployment: pods of its template, one more while it replaces."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def pods(self, pods: Mapping[str, Json]) -> dict[str, Json]:
        """Return the gateways among pods."""
        kind = self._names.of(Component.GATEWAY)
        return {name: pod for name, pod in pods.items() if name.startswith(f"{kind}-")}

    def step(self, deployment: Json | None, pods: dict[str, Json], serial: int) -> bool:
        """Go a step on; whether there was one to go."""
        alive = {
            name: pod
            for name, pod in self.pods(pods).items()
            if "deletionTimestamp" not in pod["metadata"]
        }
        if deployment is None:
            for pod in alive.values():
                pod["metadata"]["deletionTimestamp"] = "now"
            return bool(alive)
        template, count = deployment["spec"]["template"], deployment["spec"]["replicas"]
        old = [n for n, pod in alive.items() if revision_of(pod) != revision_of(template)]
        ready = [n for n, pod in alive.items() if pod["status"].get("podIP")]
        moved = True
        if len(alive) < count + bool(old):
            name = f"{self._names.of(Component.GATEWAY)}-{serial}"
            metadata = {**template["metadata"], "name": name, "uid": f"uid-{serial}"}
            metadata["ownerReferences"] = [{"kind": "ReplicaSet", "controller": True, "uid": "x"}]
            pods[name] = {**template, "metadata": metadata, "status": {}}
        elif len(alive) > count and len(ready) > count:
            pods[(old or list(alive))[0]]["metadata"]["deletionTimestamp"] = "now"
        else:
            moved = False
        if not moved:
            deployment["status"] = {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": len(alive),
                "updatedReplicas": len(alive) - len(old),
                "readyReplicas": len(ready),
            }
        return moved


def secret_of(objects: Mapping[str, Json], names: Names, pod: str) -> Json:
    """Return the Secret that a pod mounts."""
    gateway = names.of(Component.GATEWAY)
    node = gateway if pod.startswith(f"{gateway}-") else pod
    return objects[names.tls_secret(node)]
