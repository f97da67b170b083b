"""The Services of a cluster: names for nodes among themselves, and addresses for clients.

`<name>` is the gateways', `<name>-primary` and `<name>-replicas` go past them. Which compute is
which is said by a label that the operator keeps as the log's leader says.
"""

from typing import Any

from kube_operator.names import (
    POSTGRES_PORT,
    PRIMARY,
    REPLICA,
    ROLE_LABEL,
    RPC_PORT,
    SERVING,
    SERVING_LABEL,
    WAL_PORT,
    Component,
    Names,
)
from kube_operator.spec import ClusterSpec


def services(names: Names, spec: ClusterSpec) -> list[dict[str, Any]]:
    """Return all Services that are wanted."""
    rpc, wal = ("rpc", RPC_PORT), ("wal", WAL_PORT)
    postgres = ("postgres", POSTGRES_PORT)
    found = [
        _headless(names, Component.LOG, [rpc, wal]),
        _headless(names, Component.STORAGE, [rpc]),
        _headless(names, Component.COMPUTE, [postgres]),
        _for_clients(names, spec, names.primary_service, Component.COMPUTE, {ROLE_LABEL: PRIMARY}),
        _for_clients(names, spec, names.replicas_service, Component.COMPUTE, {ROLE_LABEL: REPLICA}),
    ]
    if spec.gateway.replicas:
        serving = {SERVING_LABEL: SERVING}
        found.append(_for_clients(names, spec, names.gateway_service, Component.GATEWAY, serving))
    return found


def _headless(names: Names, component: Component, ports: list[tuple[str, int]]) -> dict[str, Any]:
    """Return what gives each node a name; also before it is ready, or nobody ever would be."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": names.of(component),
            "namespace": names.namespace,
            "labels": names.labels(component),
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.selector(component),
            "ports": [_port(name, number) for name, number in ports],
        },
    }


def _for_clients(
    names: Names, spec: ClusterSpec, name: str, component: Component, which: dict[str, str]
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": names.namespace,
        "labels": names.labels(component),
    }
    if spec.service.annotations:
        metadata["annotations"] = dict(spec.service.annotations)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": str(spec.service.type),
            "selector": names.selector(component) | which,
            "ports": [_port("postgres", POSTGRES_PORT)],
        },
    }


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP"}
