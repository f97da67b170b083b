"""The settings of a gateway, as its TOML file and the environment give them."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from fabric.addresses import TcpAddress, parse_address
from fabric.ids import BranchName, ClusterName, NodeName
from fabric.logs import LogSettings
from fabric.metrics import MetricsSettings
from fabric.settings import secret
from fabric.tls import TlsFiles

from .reading import ReadMode, parse_read_mode

GATEWAY_ROLE: Final = "seawall_gateway"
WORKERS_MAX: Final = 64

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Ms = Annotated[int, msgspec.Meta(ge=1)]


class PoolMode(StrEnum):
    """How long a session keeps a link."""

    SESSION = "session"
    TRANSACTION = "transaction"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTlsFiles:
    """What clients are shown, and what they may have to show: PEM files."""

    certificate_file: str
    key_file: str
    client_ca_file: str | None = None
    """Certificates of clients are checked against it, if they show one."""
    require_client_certificate: bool = False
    """Whether the password is not enough: a certificate with the user's name as CN is due, too."""
    require: bool = False
    """Whether clients without TLS are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls:
    """How links are encrypted: always, once this is given."""

    ca_file: str
    """Who has signed the certificates of the computes' servers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is refused, and what waits no longer."""

    clients: _Count = 10_000
    """Connections of clients, of all workers together."""
    clients_per_user: _Count = 10_000
    clients_per_database: _Count = 10_000
    pool_links: _Count = 100
    """Links of one pool, of all workers together."""
    links: _Count = 90
    """Links to one compute, of all workers together: less than its max_connections, which is 100
    by default, because the gateway itself and superusers come there, too."""
    login_ms: _Ms = 15_000
    """From a client's connection to the end of its login, unless it is we who take so long."""
    queue_ms: _Ms = 30_000
    """For how long a client waits for a link, whatever the reason: a failover, a full pool."""
    wake_ms: _Ms = 60_000
    """For how long a client waits for the compute of a branch that sleeps."""
    idle_link_ms: _Ms = 600_000
    """After how long a link that nobody uses is closed."""
    idle_client_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    """After how long a client that is idle outside a transaction is closed; 0: never."""
    read_wait_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 20
    """For how long a read waits for a replica to come up to its floor, before the primary does."""
    batch_bytes: _Count = 4 * 1024 * 1024
    """Of a batch that is held until it is known where it goes."""
    message_bytes: _Count = 64 * 1024 * 1024
    """Of one message of a client that has to be looked at as a whole."""
    statements: _Count = 5_000
    """Prepared statements of one session."""
    settings: _Count = 500
    """Variables that one session has set."""
    shutdown_ms: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    """For how long sessions may finish their transactions when the gateway stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Everything that a gateway has to know before it starts."""

    name: NodeName
    cluster: ClusterName
    branch: BranchName = BranchName("main")  # noqa: RUF009  # an immutable value

    listen: str
    """Where clients connect: tcp://host:port."""

    run_dir: str
    """Sockets between the workers; a short path."""

    log_nodes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Who knows the topology: tcp://host:port of some log nodes; they know the others."""

    tls: TlsFiles | None = None
    """Our certificate as a gateway, for calls to log nodes."""

    client_tls: ClientTlsFiles | None = None
    upstream_tls: UpstreamTls | None = None

    role_password: str = secret(is_required=True)
    """Of role seawall_gateway, which reads verifiers and positions."""

    admin_password: str | None = secret()
    """Of user `seawall_admin` in database `seawall`; None: nobody can read it."""

    workers: Annotated[int, msgspec.Meta(ge=1, le=WORKERS_MAX)] = 1
    """Processes that share the port."""

    pool_mode: PoolMode = PoolMode.SESSION
    pool_modes: dict[str, PoolMode] = field(default_factory=dict)
    """Other modes: by database, or by `user@database`."""

    read: str = "primary"
    """What `seawall.read` is when nobody sets it: primary, auto, or replica(max_lag)."""

    wake_command: tuple[str, ...] = ()
    """What is run, without a shell, when a client comes and no compute is there."""

    limits: Limits = field(default_factory=Limits)
    logs: LogSettings = field(default_factory=LogSettings)

    metrics: MetricsSettings | None = None
    """Where Prometheus finds the figures of all workers; None: no endpoint."""

    def __post_init__(self) -> None:
        address = self.listen_address
        if not address.port:
            raise ValueError(f"listen {self.listen} has no port")
        parse_read_mode(self.read)

    @property
    def listen_address(self) -> TcpAddress:
        """Where clients connect."""
        address = parse_address(self.listen)
        if not isinstance(address, TcpAddress):
            raise ValueError(f"listen {self.listen} must be tcp://host:port")  # noqa: TRY004  # load
        return address

    @property
    def read_mode(self) -> ReadMode:
        """What `seawall.read` is when nobody sets it."""
        return parse_read_mode(self.read)

    def pool_mode_of(self, user: str, database: str) -> PoolMode:
        """Return how long a session of this user in this database keeps a link."""
        modes = self.pool_modes
        return modes.get(f"{user}@{database}") or modes.get(database) or self.pool_mode
