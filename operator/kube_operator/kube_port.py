"""What the operator asks of a Kubernetes API, as an interface of ten methods over plain JSON.

Objects are the dictionaries that JSON is: the operator reads a few of their fields, and models of
all the others would cost memory and an upgrade with each version of Kubernetes. `lightkube_port.py`
implements it; the tests put a server of their own under it, not another implementation.

Errors, by what the caller must do:

    KubeError
    ├── NotFound      it is not there: be content, or make it
    ├── Conflict      it has changed, or it exists: look again, then decide again
    ├── Gone          the past that was asked for is forgotten: list again
    ├── Refused       the API will never accept this: tell the user what it says
    └── Unavailable   not now: the same again later, not before `retry_after_s`

After `Unavailable` a write may have happened or not. All of ours can be repeated: an apply says the
whole truth, a delete and a replace name what they mean by uid and by resourceVersion.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

FIELD_MANAGER: Final = "seawall-operator"
CLUSTER_LABEL: Final = "seawall.dev/cluster"

Json = dict[str, Any]
"""An object of the API. `Any`, because only the API knows all of its shapes."""


class Key(NamedTuple):
    """Which object of its kind; of a cluster, it is also the key of its work."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects, and where the API keeps them."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As a manifest says it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL's path; without a namespace, of all namespaces."""
        root = f"apis/{self.group}" if self.group else "api"
        inside = f"namespaces/{namespace}" if self.namespaced and namespace else ""
        parts = (root, self.version, inside, self.plural, name, subresource)
        return "/" + "/".join(part for part in parts if part)


CLUSTER: Final = Kind("seawall.dev", "v1alpha1", "postgresclusters", "PostgresCluster")

POD: Final = Kind("", "v1", "pods", "Pod")
VOLUME_CLAIM: Final = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
SERVICE: Final = Kind("", "v1", "services", "Service")
SECRET: Final = Kind("", "v1", "secrets", "Secret")
CONFIG_MAP: Final = Kind("", "v1", "configmaps", "ConfigMap")
SERVICE_ACCOUNT: Final = Kind("", "v1", "serviceaccounts", "ServiceAccount")
DEPLOYMENT: Final = Kind("apps", "v1", "deployments", "Deployment")
DISRUPTION_BUDGET: Final = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICY: Final = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")

NODE: Final = Kind("", "v1", "nodes", "Node", namespaced=False)
EVENT: Final = Kind("", "v1", "events", "Event")
LEASE: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")

OWNED: Final = (
    POD,
    VOLUME_CLAIM,
    SERVICE,
    SECRET,
    CONFIG_MAP,
    SERVICE_ACCOUNT,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
)
"""What clusters are made of: each object carries CLUSTER_LABEL, and wakes its cluster."""


class KubeError(Exception):
    """The API did not do what was asked; the subclass says what to do."""


class NotFound(KubeError):  # noqa: N818  # named after what the API says, as is Conflict
    """It is not there."""


class Conflict(KubeError):  # noqa: N818  # as above
    """It is not, or no longer, what the request says it is; or it exists already."""


class Gone(KubeError):  # noqa: N818  # as above
    """That version is no longer known: list again."""


class Refused(KubeError):  # noqa: N818  # as above
    """It can never succeed as it is: a bad manifest, a missing right, a quota."""


class Unavailable(KubeError):  # noqa: N818  # as above
    """The API cannot be reached, has too much to do, or failed: try again later."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Listing(NamedTuple):
    """All objects that were asked for, as they were at one moment."""

    items: list[Json]
    resource_version: str


class WatchEvent(NamedTuple):
    """What happened to one object: ADDED, MODIFIED, DELETED; or BOOKMARK: nothing, until here."""

    type: str
    object: Json


class KubePort(Protocol):
    """The API. Every call ends within a bounded time, with an answer or with a KubeError."""

    async def list(self, kind: Kind, *, namespace: str = "", selector: str = "") -> Listing:
        """Return all objects of a namespace (or of all) that match a label selector."""
        ...

    def watch(
        self, kind: Kind, *, since: str, lasts_s: int, namespace: str = "", selector: str = ""
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield what happens after `since`. Ends after `lasts_s`, or when the API likes."""
        ...

    async def get(self, kind: Kind, key: Key) -> Json:
        """Return one object."""
        ...

    async def create(self, kind: Kind, manifest: Json) -> Json:
        """Make an object; Conflict if there is one of this name."""
        ...

    async def replace(self, kind: Kind, manifest: Json) -> Json:
        """Replace an object that still has the manifest's resourceVersion; else Conflict."""
        ...

    async def apply(self, kind: Kind, manifest: Json) -> Json:
        """Make it so, by server-side apply: the fields of the manifest are ours, others are not."""
        ...

    async def apply_status(self, kind: Kind, manifest: Json) -> Json:
        """Apply the manifest's `status`."""
        ...

    async def patch(
        self, kind: Kind, key: Key, changes: Json, *, resource_version: str = ""
    ) -> Json:
        """Merge changes (null removes) into an object; Conflict if it has another version."""
        ...

    async def delete(
        self,
        kind: Kind,
        key: Key,
        *,
        uid: str,
        grace_s: int | None = None,
        propagation: str = "Background",
    ) -> Json | None:
        """Delete the object of this uid (Conflict if it is another one).

        Return the object if it lingers (a pod that ends, a finalizer), None if it is gone.
        """
        ...

    async def close(self) -> None:
        """Give back the connections."""
        ...


def key_of(thing: Json) -> Key:
    """Return where an object is."""
    metadata = thing["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def version_of(thing: Json) -> int:
    """Return an object's resourceVersion as a number: the larger one is the later one.

    Kubernetes promises the order within a kind since 1.35; before, it held wherever etcd is behind.
    """
    return int(thing["metadata"]["resourceVersion"])


def cluster_key(thing: Json) -> Key | None:
    """Return the cluster that an object says it is part of."""
    metadata = thing["metadata"]
    name = (metadata.get("labels") or {}).get(CLUSTER_LABEL)
    return Key(metadata.get("namespace", ""), name) if name else None
