"""What `kubectl seawall status` prints, of what Kubernetes says: lines for people, JSON for
programs. Pure.

    summaries(clusters, pods, now) ──► [Summary] ──► text() | json_text()
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from kube_operator.cluster_status import ARCHIVING, DEGRADED, PROGRESSING, READY
from kube_operator.kube_port import CLUSTER_LABEL, Json
from kube_operator.names import COMPONENT_LABEL, ROLE_LABEL, SERVING_LABEL, SILENT, Component

_ORDER: Final = (Component.COMPUTE, Component.LOG, Component.STORAGE, Component.GATEWAY)
MISSING: Final = "missing"
DASH: Final = "-"


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a cluster: a pod, or what should be one."""

    name: str
    component: str
    role: str
    state: str
    """Ready, or what it is instead."""
    is_ready: bool
    kubernetes_node: str = ""
    age_s: int | None = None
    restarts: int = 0


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that is not as it should be."""

    type: str
    status: str
    reason: str
    message: str
    age_s: int | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster."""

    name: str
    namespace: str
    version: int | None
    phase: str
    is_ready: bool
    primary: str
    epoch: int
    nodes: list[Node]
    remarks: list[Remark]


def summaries(clusters: Sequence[Json], pods: Sequence[Json], now: datetime) -> list[Summary]:
    """Return what there is to say of each cluster."""
    return [_summary(cluster, pods, now) for cluster in clusters]


def _summary(cluster: Json, pods: Sequence[Json], now: datetime) -> Summary:
    metadata, status = cluster["metadata"], cluster.get("status") or {}
    own = [
        pod
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get(CLUSTER_LABEL) == metadata["name"]
        and pod["metadata"].get("namespace") == metadata.get("namespace")
    ]
    conditions = status.get("conditions") or []
    return Summary(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        version=cluster["spec"].get("version"),
        phase=status.get("phase") or "not looked at yet",
        is_ready=any(one["type"] == READY and one["status"] == "True" for one in conditions),
        primary=status.get("primary", ""),
        epoch=status.get("epoch", 0),
        nodes=list(_nodes(cluster, own, now)),
        remarks=[
            Remark(
                type=one["type"],
                status=one["status"],
                reason=one.get("reason", ""),
                message=one.get("message", ""),
                age_s=_age_s(one.get("lastTransitionTime"), now),
            )
            for one in conditions
            if not _is_as_it_should_be(one, cluster["spec"])
        ],
    )


def _is_as_it_should_be(condition: Json, spec: Json) -> bool:
    holds: bool = condition["status"] == "True"
    match condition["type"]:
        case "Ready":
            return holds
        case "ContinuousArchiving":
            return holds or not spec.get("objectStore")
        case "Progressing" | "Degraded":
            return not holds
        case _:
            return True  # of a later operator: who knows


def _nodes(cluster: Json, pods: Sequence[Json], now: datetime) -> Iterator[Node]:
    status = cluster.get("status") or {}
    for component in _ORDER:
        found = [
            _node(pod, component, status, now)
            for pod in pods
            if pod["metadata"]["labels"].get(COMPONENT_LABEL) == component
        ]
        there = {one.name for one in found}
        found += [
            Node(name=name, component=component, role=DASH, state=MISSING, is_ready=False)
            for name in _numbered(cluster, component)
            if name not in there
        ]
        yield from sorted(found, key=lambda one: (len(one.name), one.name))


def _numbered(cluster: Json, component: Component) -> list[str]:
    """Return the nodes that have a volume: which ones there should be is certain."""
    field = {Component.LOG: "logNodes", Component.STORAGE: "storageNodes"}.get(component)
    count = 0 if field is None else (cluster["spec"].get(field) or {}).get("count", 0)
    return [f"{cluster['metadata']['name']}-{component}-{n}" for n in range(1, count + 1)]


def _node(pod: Json, component: Component, status: Json, now: datetime) -> Node:
    metadata = pod["metadata"]
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    state = _state(pod)
    return Node(
        name=metadata["name"],
        component=component,
        role=_role(metadata, component, status),
        state=state,
        is_ready=state == "ready",
        kubernetes_node=pod["spec"].get("nodeName", ""),
        age_s=_age_s(metadata.get("creationTimestamp"), now),
        restarts=sum(one.get("restartCount", 0) for one in containers),
    )


def _role(metadata: Json, component: Component, status: Json) -> str:
    labels: Mapping[str, str] = metadata["labels"]
    match component:
        case Component.COMPUTE:
            return labels.get(ROLE_LABEL, DASH)
        case Component.LOG:
            leader = status.get("logLeader")
            return DASH if not leader else "leader" if metadata["name"] == leader else "follower"
        case Component.GATEWAY:
            return "passed by" if labels.get(SERVING_LABEL) == SILENT else "serving"
        case Component.STORAGE:
            return DASH


def _state(pod: Json) -> str:
    """Return `ready`, or why it is not: what a container waits for says more than the phase."""
    if "deletionTimestamp" in pod["metadata"]:
        return "ending"
    status = pod.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") == "True":
        return "ready"
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return str(waiting["reason"])
    if conditions.get("PodScheduled", {}).get("status") == "False":
        return str(conditions["PodScheduled"].get("reason") or "Unschedulable")
    phase = status.get("phase", "Unknown")
    return "not ready" if phase == "Running" else str(status.get("reason") or phase)


def _age_s(since: str | None, now: datetime) -> int | None:
    try:
        moment = datetime.fromisoformat(since or "")
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int((now - moment).total_seconds()))


# --- Printing -------------------------------------------------------------------------------------


def json_text(found: Summary | list[Summary]) -> str:
    """Return everything, for programs."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def text(found: Sequence[Summary]) -> str:
    """Return lines for people, clusters apart by an empty one."""
    return "\n\n".join(_text(one) for one in found)


def _text(one: Summary) -> str:
    version = "" if one.version is None else f", PostgreSQL {one.version}"
    primary = f"primary {one.primary}" if one.primary else "NO PRIMARY"
    head = (
        f"cluster {one.namespace}/{one.name}{version}: {one.phase}; {primary} (epoch {one.epoch})"
    )
    header = ("NODE", "ROLE", "STATE", "ON", "AGE", "RESTARTS")
    rows = [header, *(_row(node) for node in one.nodes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    remarks = [_remark(remark) for remark in one.remarks]
    return "\n".join([head, "", *lines, *([""] if remarks else []), *remarks])


def _row(node: Node) -> tuple[str, ...]:
    restarts = DASH if node.state == MISSING else str(node.restarts)
    where = node.kubernetes_node or DASH
    return (node.name, node.role, node.state, where, age(node.age_s), restarts)


def _remark(one: Remark) -> str:
    since = "" if one.age_s is None else f" for {age(one.age_s)}"
    return f"{_MEANINGS.get(one.type, one.type)}{since}: {one.message}"


_MEANINGS: Final[Mapping[str, Any]] = {
    READY: "not ready",
    PROGRESSING: "progressing",
    DEGRADED: "degraded",
    ARCHIVING: "not archiving",
}


def age(seconds: int | None) -> str:
    """Return an age in two parts at most, as in 3d4h."""
    if seconds is None:
        return DASH
    parts = ((seconds // 86_400, "d"), (seconds // 3_600 % 24, "h"), (seconds // 60 % 60, "m"))
    shown = [f"{count}{unit}" for count, unit in (*parts, (seconds % 60, "s"))]
    first = next((n for n, part in enumerate(shown) if not part.startswith("0")), len(shown) - 1)
    return "".join(part for part in shown[first : first + 2] if not part.startswith("0")) or "0s"
