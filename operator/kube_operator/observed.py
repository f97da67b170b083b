"""All that a plan looks at: one cluster at one moment. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .cluster_status import ClusterStatus
from .database import DatabaseView
from .kube_port import POD, SECRET, VOLUME_CLAIM, Json, Kind
from .manifests.authority import Authority, authority_in
from .manifests.pods import Images
from .names import COMPONENT_LABEL, IDENTITY, Component, Names
from .ownership import NO_OWNER, owner_of
from .quantities import is_same_quantity
from .spec import ClusterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A cluster, as it should be and as it is."""

    names: Names
    uid: str
    generation: int
    spec: ClusterSpec
    status: ClusterStatus
    """What was said of it last."""
    images: Images
    objects: Mapping[Kind, Mapping[str, Json]]
    """All that carry the cluster's label, by kind and name."""
    database: DatabaseView
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Of the cluster."""
    finalizers: tuple[str, ...] = ()
    """Of the cluster."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def of(self, kind: Kind) -> Mapping[str, Json]:
        """Return the objects of a kind, by name."""
        return self.objects.get(kind, {})

    def pods(self, component: Component) -> dict[str, Json]:
        """Return the pods of a kind of node, by name, in the order of their numbers."""
        return self.nodes(POD, component)

    def nodes(self, kind: Kind, component: Component) -> dict[str, Json]:
        """Return the objects that belong to a kind of node, in the order of their numbers."""
        found = {
            name: thing
            for name, thing in self.of(kind).items()
            if thing["metadata"].get("labels", {}).get(COMPONENT_LABEL) == component
        }
        return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))

    @property
    def identity(self) -> str:
        """The database's number, if one was ever made: as was said last, or as volumes have it."""
        if self.status.system_identifier:
            return self.status.system_identifier
        claims = [
            one for one in self.of(VOLUME_CLAIM).values() if owner_of(one) in {NO_OWNER, self.uid}
        ]
        found = [(one["metadata"].get("annotations") or {}).get(IDENTITY) for one in claims]
        return next((one for one in found if one), "")

    @property
    def authority(self) -> Authority | None:
        """Who signs and is trusted; None: there is nobody yet."""
        secret = self.of(SECRET).get(self.names.authority_secret)
        return None if secret is None else authority_in(secret)

    def certificate(self, node: str) -> str | None:
        """Return what a node's certificate is at the moment; None: there is none."""
        secret = self.of(SECRET).get(self.names.tls_secret(node))
        if secret is None:
            return None
        data = secret.get("data") or {}
        return str(data.get("tls.crt", "")) + str(data.get("ca.crt", ""))


def is_ending(thing: Json) -> bool:
    """Whether it is being deleted."""
    return "deletionTimestamp" in thing["metadata"]


def has_ended(pod: Json) -> bool:
    """Whether all that ran in it has ended for good: evicted, or its node went down in order."""
    return pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}


def is_ready(pod: Json) -> bool:
    """Whether it says that it does its work."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return not is_ending(pod) and any(
        one["type"] == "Ready" and one["status"] == "True" for one in conditions
    )


def address_of(pod: Json) -> str:
    """Return the pod's address; empty: it has none yet."""
    found: str = pod.get("status", {}).get("podIP") or ""
    return found


def differs(wanted: object, found: object, *, key: str = "") -> bool:
    """Whether what is there lacks anything of what is wanted; what it has besides does not count.

    The API server adds defaults, drops what is empty, and writes quantities its own way.
    """
    if isinstance(wanted, Mapping):
        there = found if isinstance(found, Mapping) else {}
        is_amount = key in {"requests", "limits"}
        return any(
            _quantity_differs(value, there.get(name))
            if is_amount
            else differs(value, there.get(name), key=name)
            for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        there_list = found if isinstance(found, list) else []
        if len(wanted) != len(there_list):
            return True
        return any(differs(one, other) for one, other in zip(wanted, there_list, strict=True))
    return bool(wanted != found) and not (not wanted and found is None)


def _quantity_differs(wanted: object, found: object) -> bool:
    return not is_same_quantity(str(wanted), str(found))
