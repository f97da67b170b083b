"""Who may come to which port, and how many pods may be taken away at once."""

from typing import Any, Final

from kube_operator.names import (
    METRICS_PORT,
    POSTGRES_PORT,
    RPC_PORT,
    WAL_PORT,
    Component,
    Names,
)
from kube_operator.spec import ClusterSpec

# Whose pods come to which ports; None: anybody. The operator comes to where calls are taken.
_Callers = tuple[Component, ...] | None
_NODES: Final = (Component.LOG, Component.STORAGE, Component.COMPUTE, Component.GATEWAY)
_OPERATOR: Final = {"app.kubernetes.io/name": "seawall-operator"}
_PORTS: Final[dict[Component, list[tuple[int, _Callers]]]] = {
    Component.LOG: [(RPC_PORT, _NODES), (WAL_PORT, (Component.STORAGE, Component.COMPUTE))],
    Component.STORAGE: [(RPC_PORT, (Component.STORAGE, Component.COMPUTE))],
    Component.COMPUTE: [(POSTGRES_PORT, None)],
    Component.GATEWAY: [(POSTGRES_PORT, None)],
}


def network_policies(names: Names) -> list[dict[str, Any]]:
    """Return a policy for each kind of node: whatever is not said here is closed."""
    return [_network_policy(names, component) for component in Component]


def _network_policy(names: Names, component: Component) -> dict[str, Any]:
    rules: list[dict[str, Any]] = [{"ports": [_port(METRICS_PORT)]}]
    for number, callers in _PORTS[component]:
        rule: dict[str, Any] = {"ports": [_port(number)]}
        if callers is not None:
            rule["from"] = [{"podSelector": {"matchLabels": names.selector(c)}} for c in callers]
            rule["from"].append(
                {"namespaceSelector": {}, "podSelector": {"matchLabels": dict(_OPERATOR)}}
            )
        rules.append(rule)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(names, component),
        "spec": {
            "podSelector": {"matchLabels": names.selector(component)},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    }


def disruption_budgets(names: Names, spec: ClusterSpec) -> list[dict[str, Any]]:
    """Return what a drain of Kubernetes nodes must leave: all but one of each kind.

    A kind with a single node has none: it could never be drained.
    """
    counts = {
        Component.LOG: spec.log_nodes.count,
        Component.STORAGE: spec.storage_nodes.count,
        Component.COMPUTE: spec.computes,
        Component.GATEWAY: spec.gateway.replicas,
    }
    return [_budget(names, component) for component, count in counts.items() if count > 1]


def _budget(names: Names, component: Component) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(names, component),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": names.selector(component)},
        },
    }


def service_account(names: Names) -> dict[str, Any]:
    """Return whose pods these are. They have no business with the API at all."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": names.cluster,
            "namespace": names.namespace,
            "labels": names.labels(),
        },
        "automountServiceAccountToken": False,
    }


def _metadata(names: Names, component: Component) -> dict[str, Any]:
    return {
        "name": names.of(component),
        "namespace": names.namespace,
        "labels": names.labels(component),
    }


def _port(number: int) -> dict[str, Any]:
    return {"port": number, "protocol": "TCP"}
