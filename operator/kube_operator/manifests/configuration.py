"""The settings of nodes, as the ConfigMaps of a cluster have them: one for each kind of node.

What differs between the nodes of a kind, its name and where it is reached, comes by environment
variables, which `pods.py` makes of the pod's own fields.
"""

from collections.abc import Mapping
from typing import Any, Final

from fabric.toml_text import toml_text
from kube_operator.names import (
    BRANCH,
    CLIENT_CA_DIR,
    DATA_DIR,
    METRICS_PORT,
    POSTGRES_PORT,
    RPC_PORT,
    RUN_DIR,
    SECRETS_DIR,
    SERVER_TLS_DIR,
    TLS_DIR,
    WAL_PORT,
    Component,
    Names,
)
from kube_operator.quantities import bytes_of
from kube_operator.spec import ClusterSpec

CREDENTIALS_DIR: Final = "/etc/seawall/object-store"
HOUR_S: Final = 3600
GATEWAY_SHUTDOWN_S: Final = 20  # for transactions that are open when a gateway is to end
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # pods; NetworkPolicies say who comes
_UNITS_S: Final = {"h": HOUR_S, "d": 24 * HOUR_S}
CACHE_RESERVE: Final = 2  # of an emptyDir half is for WAL and temporary files


# Acquaintances to begin with: a node learns of the others. So nobody is restarted when there are
# more log nodes, or fewer.
LEARNED: Final = ("log_nodes", "wal_servers")


def config_map(names: Names, spec: ClusterSpec, component: Component) -> dict[str, Any]:
    """Return the ConfigMap with the settings of a kind of node."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.of(component),
            "namespace": names.namespace,
            "labels": names.labels(component),
        },
        "data": {"node.toml": toml_text(settings_of(names, spec, component))},
    }


def settings_of(names: Names, spec: ClusterSpec, component: Component) -> dict[str, object]:
    """Return the settings of a kind of node."""
    common: dict[str, object] = {
        "cluster": names.cluster,
        "tls": {
            "ca_file": f"{TLS_DIR}/ca.crt",
            "certificate_file": f"{TLS_DIR}/tls.crt",
            "key_file": f"{TLS_DIR}/tls.key",
        },
        "metrics": {"host": _EVERYWHERE, "port": METRICS_PORT},
    }
    match component:
        case Component.LOG:
            return common | _log(spec)
        case Component.STORAGE:
            return common | _storage(names, spec)
        case Component.COMPUTE:
            return common | _compute(names, spec)
        case Component.GATEWAY:
            return common | _gateway(names, spec)


def _log(spec: ClusterSpec) -> dict[str, object]:
    return {
        "data_dir": f"{DATA_DIR}/data",
        "rpc_listen": f"tcp://{_EVERYWHERE}:{RPC_PORT}",
        "pg_listen": f"tcp://{_EVERYWHERE}:{WAL_PORT}",
        "standby_password_file": f"{SECRETS_DIR}/standby-password",
        "trusts_local": False,
        **_store(spec),
    }


def _storage(names: Names, spec: ClusterSpec) -> dict[str, object]:
    return {
        "data_dir": f"{DATA_DIR}/data",
        "run_dir": f"{RUN_DIR}/node",
        "rpc_listen": f"tcp://{_EVERYWHERE}:{RPC_PORT}",
        "log_nodes": log_addresses(names, spec),
        "storage_nodes": storage_addresses(names, spec),
        "pg_version": spec.version,
        "engine_shared_buffers": spec.storage_nodes.engine_shared_buffers,
        "snapshot_every_s": spec.storage_nodes.snapshot_every_seconds,
        "retention": {"window_s": window_s(spec.retention.window)},
        **_store(spec),
    }


def _compute(names: Names, spec: ClusterSpec) -> dict[str, object]:
    return {
        "branch": str(BRANCH),
        "run_dir": f"{RUN_DIR}/node",
        "pg_listen": f"tcp://{_EVERYWHERE}:{POSTGRES_PORT}",
        "log_nodes": log_addresses(names, spec),
        "wal_servers": [
            f"{names.host(Component.LOG, node)}:{WAL_PORT}" for node in log_nodes(names, spec)
        ],
        "storage_nodes": storage_addresses(names, spec),
        "pg_version": spec.version,
        "standby_password_file": f"{SECRETS_DIR}/standby-password",
        "primary_sql_file": f"{SECRETS_DIR}/primary.sql",
        "shared_buffers": spec.compute.shared_buffers,
        "drain_ms": spec.compute.drain_seconds * 1000,
        "cache_bytes_max": bytes_of(spec.compute.cache_size) // CACHE_RESERVE,
        "server_tls": {
            "certificate_file": f"{TLS_DIR}/tls.crt",
            "key_file": f"{TLS_DIR}/tls.key",
        },
        "settings": dict(spec.settings),
    }


def _gateway(names: Names, spec: ClusterSpec) -> dict[str, object]:
    gateway = spec.gateway
    shown = SERVER_TLS_DIR if spec.tls.server_secret_name is not None else TLS_DIR
    client_tls: dict[str, object] = {
        "certificate_file": f"{shown}/tls.crt",
        "key_file": f"{shown}/tls.key",
        "require": spec.tls.require,
    }
    if spec.tls.client_ca_secret_name is not None:
        client_tls["client_ca_file"] = f"{CLIENT_CA_DIR}/ca.crt"
    return {
        "branch": str(BRANCH),
        "listen": f"tcp://{_EVERYWHERE}:{POSTGRES_PORT}",
        "run_dir": f"{RUN_DIR}/node",
        "log_nodes": log_addresses(names, spec),
        "role_password_file": f"{SECRETS_DIR}/gateway-password",
        "admin_password_file": f"{SECRETS_DIR}/gateway-admin-password",
        "workers": gateway.workers,
        "read": gateway.read,
        "pool_mode": str(gateway.pool_mode),
        "client_tls": client_tls,
        "upstream_tls": {"ca_file": f"{TLS_DIR}/ca.crt"},
        "limits": {
            "clients": gateway.clients_max,
            "links": gateway.server_connections_max,
            "shutdown_ms": GATEWAY_SHUTDOWN_S * 1000,
        },
    }


def log_nodes(names: Names, spec: ClusterSpec) -> list[str]:
    """Return the log nodes that are wanted."""
    return [names.node(Component.LOG, one) for one in range(1, spec.log_nodes.count + 1)]


def storage_nodes(names: Names, spec: ClusterSpec) -> list[str]:
    """Return the storage nodes that are wanted."""
    return [names.node(Component.STORAGE, one) for one in range(1, spec.storage_nodes.count + 1)]


def log_addresses(names: Names, spec: ClusterSpec) -> list[str]:
    """Return where log nodes take calls."""
    return [rpc_address(names, Component.LOG, node) for node in log_nodes(names, spec)]


def storage_addresses(names: Names, spec: ClusterSpec) -> list[str]:
    """Return where storage nodes take calls."""
    return [rpc_address(names, Component.STORAGE, node) for node in storage_nodes(names, spec)]


def rpc_address(names: Names, component: Component, node: str) -> str:
    """Return where a node takes calls."""
    return f"tcp://{names.host(component, node)}:{RPC_PORT}"


def wal_address(names: Names, node: str) -> str:
    """Return where a log node hands out WAL."""
    return f"tcp://{names.host(Component.LOG, node)}:{WAL_PORT}"


def window_s(text: str) -> int:
    """Return the seconds of 12h or 7d."""
    return int(text[:-1]) * _UNITS_S[text[-1]]


def _store(spec: ClusterSpec) -> Mapping[str, object]:
    store = spec.object_store
    if store is None:
        return {}
    options: dict[str, object] = {"is_plain_http_allowed": store.allow_http}
    if store.region is not None:
        options["region"] = store.region
    if store.endpoint is not None:
        options["endpoint"] = store.endpoint
    if store.credentials_secret_name is not None:
        options["credentials_file"] = f"{CREDENTIALS_DIR}/credentials"
    return {"object_store": store.url, "store": options}
