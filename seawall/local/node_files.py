"""What the nodes of a local cluster are told: their settings, certificates, directories.

Settings are made anew at every start, of cluster.json alone: nobody has to mend a file by hand.
"""

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fabric.ids import NodeName, Role
from fabric.tls import Identity as TlsIdentity
from fabric.toml_text import toml_text
from sqlnode.privileges import Identity
from sqlnode.server_copy import default_cache_dir

from . import authority
from .cluster_file import ClusterFile, replace_file
from .layout import Layout, NodeLayout
from .ports import HOST

PASSWORD_BYTES: Final = 24
LOG_SEGMENT_BYTES: Final = 16 * 1024 * 1024  # three of them are preallocated a node
LOG_KEEP_BYTES: Final = 64 * 1024 * 1024
SHARED_BUFFERS: Final = "128MB"
ENGINE_SHARED_BUFFERS: Final = "64MB"
SUPERUSER: Final = "postgres"
GATEWAY_ADMIN: Final = "seawall_admin"
GATEWAY_DATABASE: Final = "seawall"  # what a gateway says of itself


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of node: what is run, and how it says that it is ready."""

    role: Role
    module: str
    ready_event: str


LOG: Final = Kind(Role.LOG, "log_service", "log node ready")
STORAGE: Final = Kind(Role.STORAGE, "storage", "storage node ready")
COMPUTE: Final = Kind(Role.COMPUTE, "sqlnode.compute", "compute agent ready")
GATEWAY: Final = Kind(Role.GATEWAY, "gateway", "gateway ready")
_KINDS: Final = {"log": LOG, "storage": STORAGE, "compute": COMPUTE, "gateway": GATEWAY}


def kind_of(name: str) -> Kind:
    """Return the kind of a node by its name."""
    return _KINDS[name.partition("-")[0]]


def names_of(cluster: ClusterFile) -> tuple[str, ...]:
    """Return all nodes that a cluster wants: those first that others need."""
    return (
        *cluster.log,
        *cluster.storage,
        *cluster.compute_names(),
        *cluster.gateway_names(),
    )


def all_names(cluster: ClusterFile) -> tuple[str, ...]:
    """Return every node that there may be, also those that are not wanted any more."""
    return (*cluster.log, *cluster.storage, *cluster.computes, *cluster.gateways)


def ports_of(cluster: ClusterFile, name: str) -> tuple[int, ...]:
    """Return where a node listens."""
    if name in cluster.log:
        return (cluster.log[name].rpc, cluster.log[name].pg)
    for ports in (cluster.storage, cluster.computes, cluster.gateways):
        if name in ports:
            return (ports[name],)
    raise KeyError(name)


def listening(cluster: ClusterFile, names: Iterator[str]) -> Iterator[tuple[str, int]]:
    """Return each port of some nodes with the node's name."""
    return ((name, port) for name in names for port in ports_of(cluster, name))


def run_dir(layout: Layout, cluster: ClusterFile, name: str) -> Path:
    """Return where a node has its sockets and caches."""
    if cluster.run_root is not None:
        return Path(cluster.run_root) / name
    return layout.node(name).run


# --- Settings: pure -------------------------------------------------------------------------------


def settings_of(layout: Layout, cluster: ClusterFile, name: str) -> dict[str, object]:
    """Return the settings of a node, for its TOML file."""
    node = layout.node(name)
    common = {
        "name": name,
        "cluster": cluster.cluster,
        "tls": {
            "ca_file": str(layout.ca_file),
            "certificate_file": str(node.certificate),
            "key_file": str(node.key),
        },
    }
    if name in cluster.log:
        return common | _log_settings(layout, cluster, name)
    if name in cluster.storage:
        return common | _storage_settings(layout, cluster, name)
    if name in cluster.gateways:
        return common | _gateway_settings(layout, cluster, name)
    return common | _compute_settings(layout, cluster, name)


def _log_settings(layout: Layout, cluster: ClusterFile, name: str) -> dict[str, object]:
    ports = cluster.log[name]
    return {
        "data_dir": str(layout.node(name).data),
        "rpc_listen": f"tcp://{HOST}:{ports.rpc}",
        "pg_listen": f"tcp://{HOST}:{ports.pg}",
        "object_store": layout.objects.as_uri(),
        "standby_password_file": str(layout.standby_password),
        "group": {"segment_bytes": LOG_SEGMENT_BYTES, "keep_bytes": LOG_KEEP_BYTES},
    }


def _storage_settings(layout: Layout, cluster: ClusterFile, name: str) -> dict[str, object]:
    return {
        "data_dir": str(layout.node(name).data),
        "run_dir": str(run_dir(layout, cluster, name)),
        "rpc_listen": f"tcp://{HOST}:{cluster.storage[name]}",
        "log_nodes": log_addresses(cluster),
        "storage_nodes": storage_addresses(cluster),
        "pg_bin": cluster.pg_bin,
        "object_store": layout.objects.as_uri(),
        "engine_shared_buffers": ENGINE_SHARED_BUFFERS,
    }


def _compute_settings(layout: Layout, cluster: ClusterFile, name: str) -> dict[str, object]:
    return {
        "branch": cluster.branch,
        "run_dir": str(run_dir(layout, cluster, name)),
        "pg_listen": f"tcp://{HOST}:{cluster.computes[name]}",
        "log_nodes": log_addresses(cluster),
        "wal_servers": [f"{HOST}:{ports.pg}" for ports in cluster.log.values()],
        "storage_nodes": storage_addresses(cluster),
        "pg_bin": cluster.pg_bin,
        "standby_password_file": str(layout.standby_password),
        "shared_buffers": SHARED_BUFFERS,
    }


def _gateway_settings(layout: Layout, cluster: ClusterFile, name: str) -> dict[str, object]:
    return {
        "branch": cluster.branch,
        "listen": f"tcp://{HOST}:{cluster.gateways[name]}",
        "run_dir": str(run_dir(layout, cluster, name)),
        "log_nodes": log_addresses(cluster),
        "role_password_file": str(layout.gateway_password),
        "admin_password_file": str(layout.gateway_admin_password),
    }


def log_addresses(cluster: ClusterFile) -> list[str]:
    """Return where the log nodes take calls."""
    return [f"tcp://{HOST}:{ports.rpc}" for ports in cluster.log.values()]


def storage_addresses(cluster: ClusterFile) -> list[str]:
    """Return where the storage nodes take calls."""
    return [f"tcp://{HOST}:{port}" for port in cluster.storage.values()]


def pgpass_text(cluster: ClusterFile, password: str, *, admin_password: str | None = None) -> str:
    """Return a password file of libpq: lines for each compute and each gateway."""
    ports = [*cluster.computes.values(), *cluster.gateways.values()]
    lines = [f"{HOST}:{port}:*:{SUPERUSER}:{password}\n" for port in ports]
    if admin_password is not None:
        lines += [
            f"{HOST}:{port}:{GATEWAY_DATABASE}:{GATEWAY_ADMIN}:{admin_password}\n"
            for port in cluster.gateways.values()
        ]
    return "".join(lines)


# --- On the disk ----------------------------------------------------------------------------------


def prepare(layout: Layout, cluster: ClusterFile, *, identity: Identity) -> None:
    """Write all that the nodes need, as the owner of the cluster; harmless to repeat."""
    authority.make_authority(layout, cluster.cluster)
    owner = authority.admin_files(layout)
    _certify(
        layout,
        authority.admin_identity(cluster.cluster),
        Path(owner.certificate_file),
        Path(owner.key_file),
    )
    _prepare_secrets(layout, cluster, identity)
    identity.make_directory(layout.objects)
    layout.nodes.mkdir(mode=0o755, exist_ok=True)
    if cluster.run_root is not None:
        identity.make_directory(Path(cluster.run_root))
    for name in names_of(cluster):
        prepare_node(layout, cluster, name, identity=identity)


def prepare_node(layout: Layout, cluster: ClusterFile, name: str, *, identity: Identity) -> None:
    """Write the settings and the certificate of one node, and make its directories."""
    node = layout.node(name)
    kind = kind_of(name)
    _make_passable(node.top)
    tls = TlsIdentity(cluster.cluster, kind.role, NodeName(name))
    if _certify(layout, tls, node.certificate, node.key):
        identity.give(node.certificate)
        identity.give(node.key)
    text = toml_text(settings_of(layout, cluster, name))
    if not node.config.exists() or node.config.read_text(encoding="utf-8") != text:
        replace_file(node.config, text.encode(), mode=0o600)
        identity.give(node.config)
    identity.make_directory(run_dir(layout, cluster, name))
    if kind in {COMPUTE, GATEWAY}:
        return
    identity.make_directory(node.data)
    if kind is STORAGE:
        _share_templates(node, identity)


def _make_passable(directory: Path) -> None:
    """Make a directory of the owner's that the user of the nodes passes through, and cannot change:
    as root we write into it, and a link there would lead us anywhere.
    """
    mode = 0o711 if os.geteuid() == 0 else 0o700
    directory.mkdir(mode=mode, exist_ok=True)
    directory.chmod(mode)


def _share_templates(node: NodeLayout, identity: Identity) -> None:
    """Have a storage node look for templates where all clusters of this user have theirs.

    A user without a home that can be written to gets templates for each node.
    """
    cache = template_cache(identity)
    try:
        identity.make_directory(cache)
    except OSError:
        return
    link = node.data / "templates"
    if not link.exists() and not link.is_symlink():
        link.symlink_to(cache, target_is_directory=True)


def template_cache(identity: Identity) -> Path:
    """Return where templates of new clusters are kept: initdb takes a second."""
    return default_cache_dir(identity).parent / "templates"


def _certify(layout: Layout, identity: TlsIdentity, certificate: Path, key: Path) -> bool:
    """Issue a certificate if one is due; whether it was."""
    is_due = authority.needs_certificate(certificate, key, now_s=time.time())
    if is_due:
        authority.issue(layout, identity, certificate, key)
    return is_due


def _prepare_secrets(layout: Layout, cluster: ClusterFile, identity: Identity) -> None:
    # Others may pass through, because a node reads its secret; each file is private.
    layout.secrets.mkdir(mode=0o711, exist_ok=True)
    for path in (
        layout.postgres_password,
        layout.standby_password,
        layout.gateway_password,
        layout.gateway_admin_password,
    ):
        if not path.exists():
            replace_file(path, secrets.token_urlsafe(PASSWORD_BYTES).encode() + b"\n", mode=0o600)
    for path in (layout.standby_password, layout.gateway_password, layout.gateway_admin_password):
        identity.give(path)
    write_pgpass(layout, cluster)


def write_pgpass(layout: Layout, cluster: ClusterFile) -> None:
    """Write libpq's password file."""
    admin_password = password_in(layout.gateway_admin_password)
    text = pgpass_text(cluster, postgres_password(layout), admin_password=admin_password)
    replace_file(layout.pgpass, text.encode(), mode=0o600)


def postgres_password(layout: Layout) -> str:
    """Return the password of role postgres."""
    return password_in(layout.postgres_password)


def password_in(path: Path) -> str:
    """Return what a file of a secret has."""
    return path.read_text(encoding="utf-8").strip()
