"""The settings of a compute's agent, as its TOML file and the environment give them."""

from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from fabric.addresses import TcpAddress, host_is_loopback, parse_address
from fabric.ids import BranchName, ClusterName, NodeName
from fabric.logs import LogSettings
from fabric.metrics import MetricsSettings
from fabric.settings import secret
from fabric.tls import TlsFiles
from sqlnode.postgres_settings import FIXED_NAMES, PostgresSettings

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Bytes = Annotated[int, msgspec.Meta(ge=1)]

CACHE_BYTES_MIN = 16 * 1024 * 1024  # what cannot be dropped of a new cluster is less


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """The certificate that SQL clients are shown, and its key: PEM files."""

    certificate_file: str
    key_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Everything that an agent has to know before it starts."""

    name: NodeName
    """Of this compute; no other compute of the cluster has it."""

    cluster: ClusterName

    branch: BranchName = BranchName("main")  # noqa: RUF009  # an immutable value

    run_dir: str
    """The data directory and sockets: a cache that may be deleted while the agent is down. A short
    path."""

    pg_listen: str
    """Where SQL clients connect: tcp://host:port. Without `server_tls` loopback only."""

    pg_advertise: str | None = None
    """host:port where clients reach that, if not there."""

    ingest_address: str | None = None
    """Where the log's leader reaches our PostgreSQL: tcp://host:port. None: by a Unix socket, for
    log nodes on this machine. TCP needs `tls` and `server_tls`."""

    log_nodes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Who gives orders: tcp://host:port of some log nodes; they know the others."""

    wal_servers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Where WAL comes from: host:port of the log nodes' `pg_listen`."""

    storage_nodes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Where pages come from: tcp://host:port of all storage nodes."""

    pg_bin: str | None = None
    """The directory of PostgreSQL's programs, of the branch's major. None: the newest."""

    pg_version: int | None = None
    """Or the major version of an installed server."""

    tls: TlsFiles | None = None
    """Our certificate as a compute: for calls, and to read WAL."""

    server_tls: ServerTls | None = None

    standby_password: str | None = secret()
    """With which we read WAL, if the log nodes ask for one."""

    primary_sql_file: str | None = None
    """Statements that a primary carries out as the superuser in database postgres when it has
    become one, and when the file has changed: roles and their verifiers. Harmless to repeat."""

    shared_buffers: str = "128MB"

    cache_bytes_max: Annotated[int, msgspec.Meta(ge=CACHE_BYTES_MIN)] | None = None
    """What its data files may take on disk: above it, blocks are dropped that storage has, too. WAL
    and temporary files come on top. None: half of the file system."""

    settings: dict[str, str] = field(default_factory=dict)
    """More of postgresql.conf. What is changed by ALTER SYSTEM on the primary comes after these."""

    can_lead: bool = True
    """Whether it may become the primary."""

    checkpoint_bytes: _Bytes = 16 * 1024 * 1024
    """WAL between two checkpoints: what the next compute has to replay at most."""

    checkpoint_s: _Positive = 10.0
    """How old the oldest WAL behind the last checkpoint may be."""

    drain_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 0
    """For how long a replica that is told to end lets statements go on; no new ones come."""

    report_ms: Annotated[int, msgspec.Meta(ge=10, le=500)] = 200

    logs: LogSettings = field(default_factory=LogSettings)

    metrics: MetricsSettings | None = None
    """Where Prometheus and probes ask. None: nowhere."""

    def __post_init__(self) -> None:
        address = self.listen_address
        if self.server_tls is None and not host_is_loopback(address.host):
            raise ValueError(f"pg_listen {self.pg_listen} is not loopback: give server_tls, too")
        if self.ingest_address is not None and (self.tls is None or self.server_tls is None):
            raise ValueError("ingest_address needs tls and server_tls: WAL never goes in the clear")
        for server in self.wal_servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"wal_servers has {server!r}, which must be host:port")
        PostgresSettings(extra={k: v for k, v in self.settings.items() if k not in FIXED_NAMES})
        if "wal_level" in self.settings and self.settings["wal_level"] not in WAL_LEVELS:
            raise ValueError("settings.wal_level must be replica or logical")
        for name in self.settings:
            if name in FIXED_NAMES - {"wal_level"}:
                raise ValueError(f"settings.{name} is Seawall's own: remove it")

    @property
    def listen_address(self) -> TcpAddress:
        """Where postgres listens."""
        address = parse_address(self.pg_listen)
        if not isinstance(address, TcpAddress) or not address.port:
            raise ValueError(f"pg_listen {self.pg_listen} must be tcp://host:port, with a port")
        return address

    @property
    def client_address(self) -> str:
        """host:port for clients."""
        address = self.listen_address
        return self.pg_advertise or f"{address.host}:{address.port}"


WAL_LEVELS = ("replica", "logical")
