"""The settings of a log node, as its TOML file and the environment give them."""

from dataclasses import dataclass, field

from fabric.ids import ClusterName, NodeName
from fabric.logs import LogSettings
from fabric.metrics import MetricsSettings
from fabric.settings import secret
from fabric.tls import TlsFiles
from object_store.cloud import ObjectStoreOptions

from .group_settings import GroupSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Everything that a node has to know before it starts."""

    name: NodeName
    """Of this node; it never changes, and no other node of the cluster has it."""

    cluster: ClusterName
    """Whose branches are kept here. Nodes and computes of other clusters are refused."""

    data_dir: str

    rpc_listen: str
    """Calls and Raft's messages: tcp://host:port. Without TLS loopback only. Port 0: any."""

    rpc_advertise: str | None = None
    """Where other nodes reach `rpc_listen`, if not there."""

    pg_listen: str | None = None
    """Where standbys read WAL: tcp://host:port. None: nowhere."""

    pg_advertise: str | None = None

    object_store: str | None = None
    """file:///directory, s3://bucket/prefix, gs://, az://. None: nothing is archived or trimmed."""

    store: ObjectStoreOptions = field(default_factory=ObjectStoreOptions)
    """How to reach it, and with which credentials."""

    tls: TlsFiles | None = None

    peer_addresses: dict[str, str] = field(default_factory=dict)
    """Node name to tcp://host:port, where this node reaches a peer elsewhere than it says."""

    primary_password: str | None = secret()
    """With which ingest logs in to a primary that asks for one."""

    standby_password: str | None = secret()
    """What standbys have to know to read WAL; None: a certificate, or nothing on loopback."""

    trusts_local: bool = True
    """Whether standbys on this machine need no password, if none is set."""

    logs: LogSettings = field(default_factory=LogSettings)

    group: GroupSettings = field(default_factory=GroupSettings)

    metrics: MetricsSettings | None = None
    """Where Prometheus and probes ask. None: nowhere."""
