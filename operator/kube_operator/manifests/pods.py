"""Pods, and volumes of those that keep data.

A pod is told all at its start, and replaced when any of it changes: `REVISION` is a digest of what
it was made of, settings and certificates included.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from kube_operator.names import (
    CLIENT_CA_DIR,
    CONFIG_DIR,
    CONFIG_FILE,
    DATA_DIR,
    DATA_VERSION,
    METRICS_PORT,
    NODE_PROGRAM,
    POSTGRES_PORT,
    REVISION,
    RPC_PORT,
    RUN_DIR,
    SECRETS_DIR,
    SERVER_TLS_DIR,
    TLS_DIR,
    WAL_PORT,
    Component,
    Names,
)
from kube_operator.spec import AntiAffinity, ClusterSpec, Resources, Scheduling, Volume

from .configuration import CREDENTIALS_DIR, GATEWAY_SHUTDOWN_S, LEARNED, settings_of

USER_ID: Final = 10001  # of the images
# A gateway that is to end takes clients for so long still: every node of Kubernetes has to hear
# first that its Service leads elsewhere.
GATEWAY_CLOSES_S: Final = 5
GRACE_S: Final = {
    Component.LOG: 10,
    Component.STORAGE: 30,
    Component.COMPUTE: 30,  # a shutdown checkpoint; `drainSeconds` come on top
    Component.GATEWAY: GATEWAY_CLOSES_S + GATEWAY_SHUTDOWN_S + 5,
}
# After so long on a node that has gone a pod is given up, where that costs no data.
GONE_S: Final = 10
REVISION_CHARACTERS: Final = 16

_MODULES: Final = {
    Component.LOG: "log_service",
    Component.STORAGE: "storage",
    Component.COMPUTE: "sqlnode.compute",
    Component.GATEWAY: "gateway",
}
_PORTS: Final = {
    Component.LOG: {"rpc": RPC_PORT, "wal": WAL_PORT},
    Component.STORAGE: {"rpc": RPC_PORT},
    Component.COMPUTE: {"postgres": POSTGRES_PORT},
    Component.GATEWAY: {"postgres": POSTGRES_PORT},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What is run, once it is clear: of the specification, or the operator's own."""

    seawall: str
    compute: str

    def of(self, component: Component) -> str:
        """Return what a kind of node runs: whoever needs a PostgreSQL has one in its image."""
        has_postgres = component in {Component.STORAGE, Component.COMPUTE}
        return self.compute if has_postgres else self.seawall


def node_pod(
    names: Names, spec: ClusterSpec, images: Images, component: Component, node: str
) -> dict[str, Any]:
    """Return the pod of a log node, a storage node or a compute, without its revision."""
    pod_spec = pod_spec_of(names, spec, images, component, tls_secret=names.tls_secret(node))
    pod_spec |= {"hostname": node, "subdomain": names.of(component)}
    if component is not Component.COMPUTE:
        claim = {"name": "data", "persistentVolumeClaim": {"claimName": node}}
        pod_spec["volumes"].append(claim)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": node,
            "namespace": names.namespace,
            "labels": names.labels(component, node),
            "annotations": {},
        },
        "spec": pod_spec,
    }


def volume_claim(
    names: Names, component: Component, node: str, volume: Volume, *, version: int
) -> dict[str, Any]:
    """Return the claim for a node's volume, for data of a major version of PostgreSQL."""
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": volume.size}},
    }
    if volume.storage_class_name is not None:
        claim["storageClassName"] = volume.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": node,
            "namespace": names.namespace,
            "labels": names.labels(component, node),
            "annotations": {DATA_VERSION: str(version)},
        },
        "spec": claim,
    }


def pod_spec_of(
    names: Names, spec: ClusterSpec, images: Images, component: Component, *, tls_secret: str
) -> dict[str, Any]:
    """Return the specification that all pods of a kind have."""
    scheduling = spec.scheduling
    made: dict[str, Any] = {
        "serviceAccountName": names.cluster,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # variables of other people's Services are no settings of ours
        "terminationGracePeriodSeconds": _grace_s(spec, component),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(names, spec, images, component)],
        "volumes": _volumes(names, spec, component, tls_secret),
        "topologySpreadConstraints": _spread(names, component, scheduling),
        "tolerations": [*scheduling.tolerations, *_tolerations(component)],
    }
    if component is not Component.GATEWAY:
        made["affinity"] = _affinity(names, component, scheduling.anti_affinity)
    if scheduling.node_selector:
        made["nodeSelector"] = dict(scheduling.node_selector)
    if scheduling.priority_class_name is not None:
        made["priorityClassName"] = scheduling.priority_class_name
    if spec.images.pull_secrets:
        made["imagePullSecrets"] = [{"name": name} for name in spec.images.pull_secrets]
    return made


def _grace_s(spec: ClusterSpec, component: Component) -> int:
    is_compute = component is Component.COMPUTE
    return GRACE_S[component] + (spec.compute.drain_seconds if is_compute else 0)


def _container(
    names: Names, spec: ClusterSpec, images: Images, component: Component
) -> dict[str, Any]:
    ports = [{"name": name, "containerPort": n} for name, n in _PORTS[component].items()]
    container: dict[str, Any] = {
        "name": str(component),
        "image": images.of(component),
        "imagePullPolicy": spec.images.pull_policy,
        "command": [NODE_PROGRAM, _MODULES[component], "--config", CONFIG_FILE],
        "env": _environment(names, component),
        "ports": [*ports, {"name": "metrics", "containerPort": METRICS_PORT}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(spec, component),
        # Slow starts are the readiness probe's business: this one looks whether the loop turns.
        "livenessProbe": _probe(_alive(component), period_s=10, failures=6),
        "readinessProbe": _probe("/readyz", period_s=2, failures=2),
        "startupProbe": _probe(_alive(component), period_s=1, failures=120),
    }
    if component is Component.GATEWAY:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": GATEWAY_CLOSES_S}}}
    wanted = _resources(spec, component)
    made = {"requests": dict(wanted.requests), "limits": dict(wanted.limits)}
    if any(made.values()):
        container["resources"] = {name: value for name, value in made.items() if value}
    return container


def _resources(spec: ClusterSpec, component: Component) -> Resources:
    return {
        Component.LOG: spec.log_nodes.resources,
        Component.STORAGE: spec.storage_nodes.resources,
        Component.COMPUTE: spec.compute.resources,
        Component.GATEWAY: spec.gateway.resources,
    }[component]


def _environment(names: Names, component: Component) -> list[dict[str, Any]]:
    host = f"$(SEAWALL_NAME).{names.of(component)}.{names.namespace}.svc"
    found: list[dict[str, Any]] = [
        {"name": "SEAWALL_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]
    if component is Component.LOG:
        found += [
            {"name": "SEAWALL_RPC_ADVERTISE", "value": f"tcp://{host}:{RPC_PORT}"},
            {"name": "SEAWALL_PG_ADVERTISE", "value": f"tcp://{host}:{WAL_PORT}"},
        ]
    if component is Component.COMPUTE:
        found += [
            {"name": "SEAWALL_PG_ADVERTISE", "value": f"{host}:{POSTGRES_PORT}"},
            {"name": "SEAWALL_INGEST_ADDRESS", "value": f"tcp://{host}:{POSTGRES_PORT}"},
        ]
    return found


def _alive(component: Component) -> str:
    """Return what a component answers as long as its loop turns. A storage node's health is also
    about its branches, and one that is stuck is not helped by a restart.
    """
    return "/metrics" if component is Component.STORAGE else "/healthz"


def _probe(path: str, *, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "metrics"},
        "periodSeconds": period_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _volumes(
    names: Names, spec: ClusterSpec, component: Component, tls_secret: str
) -> list[dict[str, Any]]:
    run: dict[str, Any] = {}
    if component is Component.COMPUTE:
        run["sizeLimit"] = spec.compute.cache_size
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": names.of(component)}},
        _secret_volume("tls", tls_secret),
        {"name": "run", "emptyDir": run},
        {"name": "tmp", "emptyDir": {}},
    ]
    if component is not Component.STORAGE:
        volumes.append(_secret_volume("secrets", names.internal_secret))
    credentials = _credentials(spec)
    if component in {Component.LOG, Component.STORAGE} and credentials is not None:
        volumes.append(_secret_volume("object-store", credentials))
    if component is Component.GATEWAY:
        if spec.tls.server_secret_name is not None:
            volumes.append(_secret_volume("server-tls", spec.tls.server_secret_name))
        if spec.tls.client_ca_secret_name is not None:
            volumes.append(_secret_volume("client-ca", spec.tls.client_ca_secret_name))
    return volumes


def _credentials(spec: ClusterSpec) -> str | None:
    return None if spec.object_store is None else spec.object_store.credentials_secret_name


def _secret_volume(name: str, secret: str) -> dict[str, Any]:
    return {"name": name, "secret": {"secretName": secret, "defaultMode": 0o440}}


def _mounts(spec: ClusterSpec, component: Component) -> list[dict[str, Any]]:
    mounts = [("config", CONFIG_DIR, True), ("tls", TLS_DIR, True)]
    mounts += [("run", RUN_DIR, False), ("tmp", "/tmp", False)]  # noqa: S108  # the container's own
    if component is not Component.STORAGE:
        mounts.append(("secrets", SECRETS_DIR, True))
    if component in {Component.LOG, Component.STORAGE}:
        mounts.append(("data", DATA_DIR, False))
        if _credentials(spec) is not None:
            mounts.append(("object-store", CREDENTIALS_DIR, True))
    if component is Component.GATEWAY:
        if spec.tls.server_secret_name is not None:
            mounts.append(("server-tls", SERVER_TLS_DIR, True))
        if spec.tls.client_ca_secret_name is not None:
            mounts.append(("client-ca", CLIENT_CA_DIR, True))
    return [
        {"name": name, "mountPath": path} | ({"readOnly": True} if is_read_only else {})
        for name, path, is_read_only in mounts
    ]


def _spread(names: Names, component: Component, scheduling: Scheduling) -> list[dict[str, Any]]:
    """Spread over zones; gateways over nodes, too, each revision for itself: if new ones had to
    stay away from old ones, none could be rolled out where there are as many as nodes.
    """
    zones = _constraint(names, component, scheduling.topology_key, is_strict=False)
    if component is not Component.GATEWAY:
        return [zones]
    is_strict = scheduling.anti_affinity is AntiAffinity.REQUIRED
    nodes = _constraint(names, component, "kubernetes.io/hostname", is_strict=is_strict)
    return [one | {"matchLabelKeys": ["pod-template-hash"]} for one in (nodes, zones)]


def _constraint(names: Names, component: Component, key: str, *, is_strict: bool) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "DoNotSchedule" if is_strict else "ScheduleAnyway",
        "labelSelector": {"matchLabels": names.selector(component)},
    }


def _affinity(names: Names, component: Component, strictness: AntiAffinity) -> dict[str, Any]:
    term = {
        "labelSelector": {"matchLabels": names.selector(component)},
        "topologyKey": "kubernetes.io/hostname",
    }
    if strictness is AntiAffinity.REQUIRED:
        return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    preferred = {"weight": 100, "podAffinityTerm": term}
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}


def _tolerations(component: Component) -> list[dict[str, Any]]:
    """Give up pods without data soon when their Kubernetes node has gone: others can be made."""
    if component in {Component.LOG, Component.STORAGE}:
        return []
    return [
        {
            "key": f"node.kubernetes.io/{condition}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": GONE_S,
        }
        for condition in ("not-ready", "unreachable")
    ]


# --- Revisions ------------------------------------------------------------------------------------


def with_revision(
    pod: dict[str, Any], names: Names, spec: ClusterSpec, component: Component, certificate: str
) -> dict[str, Any]:
    """Return the pod with the digest of all that it is made of."""
    settings = settings_of(names, spec, component)
    lasting = {name: value for name, value in settings.items() if name not in LEARNED}
    parts = [pod["spec"], lasting, certificate]
    digest = hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()
    annotations = pod["metadata"]["annotations"] | {REVISION: digest[:REVISION_CHARACTERS]}
    return {**pod, "metadata": {**pod["metadata"], "annotations": annotations}}


def revision_of(pod: dict[str, Any]) -> str:
    """Return a pod's digest; empty if it has none."""
    found: str = pod.get("metadata", {}).get("annotations", {}).get(REVISION, "")
    return found
