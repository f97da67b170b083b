"""The gateways: a Deployment, because they have no names and keep nothing."""

from typing import Any

from kube_operator.names import SERVING, SERVING_LABEL, Component, Names
from kube_operator.spec import ClusterSpec

from .pods import Images, pod_spec_of, with_revision


def gateway_node(names: Names) -> str:
    """Return the name in the certificate that all gateways share."""
    return names.of(Component.GATEWAY)


def gateway_deployment(
    names: Names, spec: ClusterSpec, images: Images, *, certificate: str
) -> dict[str, Any]:
    """Return the Deployment. A new gateway is ready before an old one goes: for that one more, the
    rule of `serverConnectionsMax` keeps connections. One that ends has given its own back by the
    time, but for transactions that are still open.
    """
    component = Component.GATEWAY
    pod: dict[str, Any] = {
        "metadata": {
            "labels": names.labels(component) | {SERVING_LABEL: SERVING},
            "annotations": {},
        },
        "spec": pod_spec_of(
            names, spec, images, component, tls_secret=names.tls_secret(gateway_node(names))
        ),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names.of(component),
            "namespace": names.namespace,
            "labels": names.labels(component),
        },
        "spec": {
            "replicas": spec.gateway.replicas,
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": names.selector(component)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": with_revision(pod, names, spec, component, certificate),
        },
    }
