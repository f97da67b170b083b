"""The settings of a storage node, as its TOML file and the environment give them."""

from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from fabric.ids import ClusterName, NodeName
from fabric.logs import LogSettings
from fabric.metrics import MetricsSettings
from fabric.tls import TlsFiles
from object_store.cloud import ObjectStoreOptions

from .redo_plan import IDLE_STOP_S
from .retention import RetentionSettings

_Positive = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Everything that a node has to know before it starts."""

    name: NodeName
    """Of this node; it never changes, and no other node of the cluster has it."""

    cluster: ClusterName
    """Whose branches are kept here. Nodes and computes of other clusters are refused."""

    data_dir: str
    """The page store, and the names of the branches."""

    run_dir: str
    """Of redo engines: a cache that may be deleted while the node is down. A short path, because
    sockets are in it."""

    rpc_listen: str
    """Where pages are served: tcp://host:port. Without TLS loopback only. Port 0: any."""

    log_nodes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Where WAL comes from: tcp://host:port of some log nodes; they know the others."""

    storage_nodes: tuple[str, ...] = ()
    """tcp://host:port of the other storage nodes: asked for what is damaged or missing here, after
    those that a branch was adopted from. It may be the same list for all of them."""

    pg_bin: str | None = None
    """The directory of PostgreSQL's programs, of the major of the branches. None: the newest."""

    pg_version: int | None = None
    """Or the major version of an installed server."""

    object_store: str | None = None
    """file:///directory, s3://bucket/prefix, gs://, az://. None: no snapshots are made."""

    store: ObjectStoreOptions = field(default_factory=ObjectStoreOptions)
    """How to reach it, and with which credentials."""

    tls: TlsFiles | None = None

    retention: RetentionSettings = field(default_factory=RetentionSettings)

    engine_shared_buffers: str = "128MB"
    """Of each redo engine. Pages that do not fit are written and read again, in memory."""

    engine_idle_stop_s: _Positive = IDLE_STOP_S

    snapshot_every_s: _Positive = 300.0
    """How long the newest cut may be newer than the newest snapshot in the object store."""

    logs: LogSettings = field(default_factory=LogSettings)

    metrics: MetricsSettings | None = None
