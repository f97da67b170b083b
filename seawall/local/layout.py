"""Where everything of a local cluster is: one directory, and one for sockets if its path is long.

    cluster.json                what the cluster is, and what its owner wants of it
    lock                        held by the supervisor, whose process id is in it
    supervisor.log
    authority/                  the CA and its key, and the owner's own certificate
    secrets/                    one secret a file; `pgpass` is for libpq
    objects/                    the object store: archived WAL, snapshots
    nodes/NAME/                 node.toml, node.log, certificate and key, data/, run/

Run directories have Unix sockets, whose paths are short by law. Below a directory with a long path
they are in one of /var/tmp, whose name cluster.json remembers.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fabric.addresses import UNIX_PATH_BYTES_MAX
from sqlnode.privileges import Identity

SYSTEM_STATE_DIR: Final = Path("/var/lib/seawall/clusters")
RUN_PARENT: Final = Path("/var/tmp")  # noqa: S108  # a private directory is made in it; caches are large
# What a node puts below its run directory, at most: a branch, a number, a socket of postgres.
SOCKET_TAIL_BYTES_MAX: Final = 48
NODE_NAME_BYTES_MAX: Final = 12

CLUSTER_FILE: Final = "cluster.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one cluster."""

    top: Path

    @property
    def cluster_file(self) -> Path:
        """What the cluster is."""
        return self.top / CLUSTER_FILE

    @property
    def lock(self) -> Path:
        """Held by the supervisor."""
        return self.top / "lock"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor did, when it runs in the background."""
        return self.top / "supervisor.log"

    @property
    def authority(self) -> Path:
        """The CA."""
        return self.top / "authority"

    @property
    def ca_file(self) -> Path:
        """The CA's certificate, which everybody needs."""
        return self.authority / "ca.crt"

    @property
    def ca_key_file(self) -> Path:
        """The CA's key."""
        return self.authority / "ca.key"

    @property
    def secrets(self) -> Path:
        """Passwords."""
        return self.top / "secrets"

    @property
    def postgres_password(self) -> Path:
        """The password of role postgres."""
        return self.secrets / "postgres_password"

    @property
    def standby_password(self) -> Path:
        """What a compute shows to a log node to read WAL."""
        return self.secrets / "standby_password"

    @property
    def gateway_password(self) -> Path:
        """What a gateway shows to a compute to read users and positions."""
        return self.secrets / "gateway_password"

    @property
    def gateway_admin_password(self) -> Path:
        """The password of user seawall_admin, who may read what a gateway says of itself."""
        return self.secrets / "gateway_admin_password"

    @property
    def pgpass(self) -> Path:
        """The password of role postgres for libpq and asyncpg."""
        return self.secrets / "pgpass"

    @property
    def objects(self) -> Path:
        """The object store."""
        return self.top / "objects"

    @property
    def nodes(self) -> Path:
        """A directory for each node."""
        return self.top / "nodes"

    def node(self, name: str) -> "NodeLayout":
        """Return the paths of a node."""
        return NodeLayout(self.nodes / name)

    def needs_run_root(self) -> bool:
        """Whether the paths of sockets would be too long below this directory."""
        run = os.fsencode(self.nodes / ("x" * NODE_NAME_BYTES_MAX) / "run")
        return len(run) + SOCKET_TAIL_BYTES_MAX > UNIX_PATH_BYTES_MAX


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """The paths of one node."""

    top: Path

    @property
    def config(self) -> Path:
        """Its settings."""
        return self.top / "node.toml"

    @property
    def log(self) -> Path:
        """Its log."""
        return self.top / "node.log"

    @property
    def lock(self) -> Path:
        """Held by the node's process, whose id is in it."""
        return self.top / "process"

    @property
    def said(self) -> Path:
        """What it has printed: that it is ready."""
        return self.top / "ready.json"

    @property
    def certificate(self) -> Path:
        """Its certificate."""
        return self.top / "node.crt"

    @property
    def key(self) -> Path:
        """The key of that."""
        return self.top / "node.key"

    @property
    def data(self) -> Path:
        """What must not be lost: of log nodes and storage nodes."""
        return self.top / "data"

    @property
    def run(self) -> Path:
        """What may be lost: caches and sockets."""
        return self.top / "run"


def default_directory(environ: Mapping[str, str], *, home: Path, is_root: bool) -> Path:
    """Return where the cluster is that is not named: with all that belongs to its owner.

    Root's home is closed to the user that PostgreSQL runs as.
    """
    if is_root:
        return SYSTEM_STATE_DIR / "default"
    state = environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state.startswith("/") else home / ".local/state") / "seawall/default"


def run_root_for(top: Path, identity: Identity) -> Path:
    """Return a directory with a short path for the run directories of a cluster."""
    digest = hashlib.sha256(f"{top}\0{identity.uid}".encode()).hexdigest()[:10]
    return RUN_PARENT / f"seawall-{digest}"
