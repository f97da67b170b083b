"""What a user writes in a `PostgresCluster`, as types: the CRD's schema is generated from them.

Every field has its documentation here, and every limit; `crd.py` adds the rules that look at two
fields at once. What the API server accepts, `decode_spec` accepts; it fills in the defaults again,
so that an object of an older CRD reads as one of today's.
"""

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec

GROUP: Final = "seawall.dev"
VERSION: Final = "v1alpha1"
KIND: Final = "PostgresCluster"
PLURAL: Final = "postgresclusters"

NAME_CHARACTERS_MAX: Final = 40  # `<name>-compute-<number>` is a host name, of 63 at most
MAJOR_MIN: Final = 15
MAJOR_MAX: Final = 18
COMPUTES_MAX: Final = 64
LOG_NODES_MAX: Final = 5
STORAGE_NODES_MAX: Final = 9
GATEWAYS_MAX: Final = 32


Name = Annotated[str, msgspec.Meta(max_length=253)]
Image = Annotated[str, msgspec.Meta(max_length=500)]

Quantity = Annotated[
    str,
    msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]{1,3})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$", max_length=20),
]
"""As Kubernetes has them: 500m, 2, 4Gi."""

PostgresSize = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]*(kB|MB|GB|TB)$", max_length=20)]
"""As PostgreSQL has them: 128MB."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of the specification: immutable, in camel case on the wire."""


class Resources(_Part, frozen=True):
    """What a container asks for, and may use at most."""

    requests: Annotated[
        dict[str, Quantity], msgspec.Meta(description="What the scheduler reserves.", max_length=10)
    ] = {}
    limits: Annotated[
        dict[str, Quantity], msgspec.Meta(description="What it may use at most.", max_length=10)
    ] = {}


class Volume(_Part, frozen=True):
    """The volume of a node that keeps data."""

    size: Annotated[
        Quantity, msgspec.Meta(description="How large it is. It can grow, never shrink.")
    ] = "10Gi"
    storage_class_name: Annotated[
        Name | None,
        msgspec.Meta(description="Whose volumes these are; none: the default class of Kubernetes."),
    ] = None


class AntiAffinity(StrEnum):
    """How strictly pods of one kind keep apart."""

    PREFERRED = "preferred"
    REQUIRED = "required"


class Scheduling(_Part, frozen=True):
    """Where pods may run."""

    node_selector: Annotated[
        dict[str, str],
        msgspec.Meta(description="Labels that a Kubernetes node must have.", max_length=32),
    ] = {}
    tolerations: Annotated[
        list[dict[str, Any]],
        msgspec.Meta(description="Taints that pods tolerate, as in a pod.", max_length=32),
    ] = []
    anti_affinity: Annotated[
        AntiAffinity,
        msgspec.Meta(
            description="Whether pods of one kind must or should run on different Kubernetes nodes."
        ),
    ] = AntiAffinity.PREFERRED
    topology_key: Annotated[
        Name,
        msgspec.Meta(
            description="The label of Kubernetes nodes over whose values pods spread besides."
        ),
    ] = "topology.kubernetes.io/zone"
    priority_class_name: Annotated[
        Name | None, msgspec.Meta(description="The priority of the pods.")
    ] = None


class LogNodes(_Part, frozen=True):
    """The nodes that keep the log, each with a volume of its own."""

    count: Annotated[
        int,
        msgspec.Meta(
            description="How many: 1, 3 or 5. A majority must live for a commit.",
            ge=1,
            le=LOG_NODES_MAX,
        ),
    ] = 3
    volume: Annotated[Volume, msgspec.Meta(description="Of each node.")] = Volume()
    resources: Annotated[Resources, msgspec.Meta(description="Of each node.")] = Resources()


class StorageNodes(_Part, frozen=True):
    """The nodes that make pages of the log and serve them, each with a volume of its own."""

    count: Annotated[
        int,
        msgspec.Meta(
            description="How many; each has all pages, so that one can be lost without notice.",
            ge=1,
            le=STORAGE_NODES_MAX,
        ),
    ] = 2
    volume: Annotated[Volume, msgspec.Meta(description="Of each node.")] = Volume()
    resources: Annotated[Resources, msgspec.Meta(description="Of each node.")] = Resources()
    engine_shared_buffers: Annotated[
        PostgresSize, msgspec.Meta(description="The shared_buffers of the redo engine.")
    ] = "128MB"
    snapshot_every_seconds: Annotated[
        int, msgspec.Meta(description="How often pages go to the object store.", ge=10, le=86_400)
    ] = 300


class Compute(_Part, frozen=True):
    """What each compute is like. A compute has no volume: what is on its disk is a cache."""

    resources: Annotated[Resources, msgspec.Meta(description="Of each compute.")] = Resources()
    shared_buffers: Annotated[
        PostgresSize, msgspec.Meta(description="PostgreSQL's shared_buffers.")
    ] = "128MB"
    cache_size: Annotated[
        Quantity,
        msgspec.Meta(
            description="What a compute may take of its local disk: half for pages, which are a "
            "cache, half for WAL and temporary files."
        ),
    ] = "10Gi"
    drain_seconds: Annotated[
        int,
        msgspec.Meta(
            description="For how long statements may go on on a replica that is taken away. New "
            "ones go elsewhere meanwhile.",
            ge=0,
            le=3_600,
        ),
    ] = 30


class PoolMode(StrEnum):
    """How long a client's session keeps its connection to a server."""

    SESSION = "session"
    TRANSACTION = "transaction"


class Gateway(_Part, frozen=True):
    """The gateways: one address for reads and writes that survives a failover."""

    replicas: Annotated[
        int, msgspec.Meta(description="How many; 0: none.", ge=0, le=GATEWAYS_MAX)
    ] = 2
    workers: Annotated[
        int, msgspec.Meta(description="Processes of each, which share its port.", ge=1, le=64)
    ] = 1
    read: Annotated[
        str,
        msgspec.Meta(
            description="Where reads go when nobody sets seawall.read: primary, auto, or "
            "replica(max_lag), as in replica(5s).",
            pattern=r"^(primary|auto|replica(\([0-9]+(us|ms|s|min|h|d)?\))?)$",
            max_length=40,
        ),
    ] = "primary"
    pool_mode: Annotated[
        PoolMode,
        msgspec.Meta(description="Whether a session or a transaction holds a server connection."),
    ] = PoolMode.SESSION
    clients_max: Annotated[
        int, msgspec.Meta(description="Connections of clients to one gateway.", ge=1, le=100_000)
    ] = 10_000
    server_connections_max: Annotated[
        int,
        msgspec.Meta(
            description="Connections of one gateway to one compute: all gateways together, and "
            "one more while they are replaced, stay below max_connections.",
            ge=1,
            le=10_000,
        ),
    ] = 30
    resources: Annotated[Resources, msgspec.Meta(description="Of each gateway.")] = Resources()


class ServiceType(StrEnum):
    """How a Service is reached."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class ServiceTemplate(_Part, frozen=True):
    """What the Services for clients are like."""

    type: Annotated[
        ServiceType, msgspec.Meta(description="Of the Services of gateways, primary, replicas.")
    ] = ServiceType.CLUSTER_IP
    annotations: Annotated[
        dict[str, str], msgspec.Meta(description="Annotations of these Services.", max_length=32)
    ] = {}


class ObjectStore(_Part, frozen=True):
    """Where WAL and snapshots of pages are kept."""

    url: Annotated[
        str,
        msgspec.Meta(
            description="s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.",
            pattern=r"^(s3|gs|az)://[^ ]+$",
            max_length=500,
        ),
    ]
    credentials_secret_name: Annotated[
        Name | None,
        msgspec.Meta(
            description="The Secret with the credentials; none: those of the pods' service account."
        ),
    ] = None
    region: Annotated[Name | None, msgspec.Meta(description="The region of an S3 bucket.")] = None
    endpoint: Annotated[
        Image | None,
        msgspec.Meta(description="Where the store is, if it is not the cloud's own: https://..."),
    ] = None
    allow_http: Annotated[
        bool,
        msgspec.Meta(description="Whether the endpoint may be http://: objects go unprotected."),
    ] = False


class Retention(_Part, frozen=True):
    """How far back one can go."""

    window: Annotated[
        str,
        msgspec.Meta(
            description="A number of hours (h) or days (d), as in 7d.", pattern=r"^[1-9][0-9]*[hd]$"
        ),
    ] = "7d"


class Images(_Part, frozen=True):
    """What containers run."""

    seawall: Annotated[
        Image | None,
        msgspec.Meta(description="Of log nodes and gateways; none: the operator's own version."),
    ] = None
    compute: Annotated[
        Image | None,
        msgspec.Meta(
            description="Of computes and storage nodes, with PostgreSQL; none: one for `version`."
        ),
    ] = None
    pull_policy: Annotated[
        str,
        msgspec.Meta(
            description="Always, IfNotPresent or Never.", pattern=r"^(Always|IfNotPresent|Never)$"
        ),
    ] = "IfNotPresent"
    pull_secrets: Annotated[
        list[str], msgspec.Meta(description="Names of Secrets for the registry.", max_length=16)
    ] = []


class Tls(_Part, frozen=True):
    """The certificates. Components always talk by mutual TLS; this is about whose CA it is."""

    server_secret_name: Annotated[
        Name | None,
        msgspec.Meta(
            description="A Secret (tls.crt, tls.key) that clients are shown; none: one of the "
            "cluster's CA."
        ),
    ] = None
    client_ca_secret_name: Annotated[
        Name | None,
        msgspec.Meta(
            description="A Secret (ca.crt) that certificates of clients are checked against."
        ),
    ] = None
    require: Annotated[
        bool, msgspec.Meta(description="Whether gateways refuse clients without TLS.")
    ] = False


class DeletionPolicy(StrEnum):
    """What becomes of the data when a cluster is deleted."""

    DELETE = "Delete"
    RETAIN = "Retain"


class ClusterSpec(_Part, frozen=True):
    """A PostgreSQL cluster: computes without data over a log and storage that have it."""

    version: Annotated[
        int, msgspec.Meta(description="PostgreSQL's major version.", ge=MAJOR_MIN, le=MAJOR_MAX)
    ]
    computes: Annotated[
        int,
        msgspec.Meta(
            description="PostgreSQL servers: one primary, the others replicas. `kubectl scale` and "
            "autoscalers change this.",
            ge=1,
            le=COMPUTES_MAX,
        ),
    ] = 2
    images: Annotated[Images, msgspec.Meta(description="What containers run.")] = Images()
    compute: Annotated[Compute, msgspec.Meta(description="What each compute is like.")] = Compute()
    log_nodes: Annotated[LogNodes, msgspec.Meta(description="The nodes that keep the log.")] = (
        LogNodes()
    )
    storage_nodes: Annotated[
        StorageNodes, msgspec.Meta(description="The nodes that make and serve pages.")
    ] = StorageNodes()
    gateway: Annotated[
        Gateway, msgspec.Meta(description="One address that survives a failover.")
    ] = Gateway()
    settings: Annotated[
        dict[str, str],
        msgspec.Meta(
            description="Of postgresql.conf. Names that are Seawall's own are refused.",
            max_length=200,
        ),
    ] = {}
    object_store: Annotated[
        ObjectStore | None,
        msgspec.Meta(description="Where WAL and snapshots are kept; none: nowhere."),
    ] = None
    retention: Annotated[Retention, msgspec.Meta(description="How far back one can go.")] = (
        Retention()
    )
    scheduling: Annotated[Scheduling, msgspec.Meta(description="Where pods may run.")] = (
        Scheduling()
    )
    service: Annotated[
        ServiceTemplate, msgspec.Meta(description="What the Services for clients are like.")
    ] = ServiceTemplate()
    tls: Annotated[Tls, msgspec.Meta(description="The certificates that clients see.")] = Tls()
    network_policies: Annotated[
        bool, msgspec.Meta(description="Whether pods are closed to all but the ports they serve.")
    ] = True
    deletion_policy: Annotated[
        DeletionPolicy,
        msgspec.Meta(
            description="What becomes of the volumes, the CA and the passwords when the cluster "
            "is deleted. Retain keeps them, and a cluster of the same name takes them over."
        ),
    ] = DeletionPolicy.DELETE
    paused: Annotated[
        bool,
        msgspec.Meta(
            description="Whether the operator leaves everything as it is. The database goes on, "
            "and fails over."
        ),
    ] = False


_QUANTITIES: Final = frozenset({"requests", "limits", "size", "cacheSize"})


def _as_text(value: Any, *, is_quantity: bool = False) -> Any:
    """Write `cpu: 1` as the text that Kubernetes takes it for."""
    if isinstance(value, dict):
        return {
            name: _as_text(one, is_quantity=is_quantity or name in _QUANTITIES)
            for name, one in value.items()
        }
    is_number = is_quantity and isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else value


class SpecError(ValueError):
    """A specification that cannot be read: the sentence names the field."""


def decode_spec(value: Any) -> ClusterSpec:
    """Read the `spec` of an object; SpecError with the field's name."""
    try:
        return msgspec.convert(_as_text(value), ClusterSpec)
    except msgspec.ValidationError as error:
        raise SpecError(str(error).replace("$.", "spec.").replace("`$`", "`spec`")) from error
