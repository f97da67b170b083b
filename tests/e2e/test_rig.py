"""The rig is a Kubernetes that one can rely on, and its faults are the faults of real machines.

In scope: what the tests of the operator and the chart take for granted: storage, names, services,
placement, budgets, and what is seen of a lost node. Out of scope: how long anything takes, and
NetworkPolicy, which nothing here enforces.

A rig that was started by hand is used as it is, and stays; tests before these may have left an
operator in it. That a rig leaves nothing on the host is checked at its end, in conftest.py.
"""

from __future__ import annotations

import http.client
import json
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from e2e.rig import RigError
from e2e.rig.api import ApiError
from e2e.rig.records import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.rig import Rig

# The first start builds Kubernetes.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

Manifest = dict[str, Any]

BUSYBOX = "seawall.dev/e2e/busybox:1"
PATIENCE_S = 180.0  # for what takes seconds; a node counts as lost after 50 s
TOO_MANY_REQUESTS = 429
# An HTTP server that says which pod it is.
SERVE = "mkdir /tmp/www && hostname >/tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"


@pytest.fixture
def space(rig: Rig, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, in which only restricted pods may run."""
    rig.busybox()
    name = request.node.name.replace("test_", "").replace("_", "-")[:50].strip("-")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply(
        rig, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    )
    yield name
    rig.kubectl("delete", "namespace", name, "--wait=false")


def test_both_nodes_are_ready_in_zones_of_their_own(rig: Rig) -> None:
    nodes = get(rig, "nodes")["items"]
    zones = {
        node["metadata"]["name"]: node["metadata"]["labels"]["topology.kubernetes.io/zone"]
        for node in nodes
    }
    assert zones == {"node-1": "a", "node-2": "b"}
    rig.kubectl("wait", "--for=condition=Ready", "node", "--all")


def test_data_on_a_claim_outlives_its_pod(rig: Rig, space: str) -> None:
    write = pod("writer", "echo precious >/data/file && exec sleep 1000", claim="data")
    apply(rig, claim("data"), write, space=space)
    await_ready(rig, space, "pod/writer")
    rig.kubectl("-n", space, "delete", "pod", "writer", "--grace-period=0", "--force")
    apply(rig, pod("reader", "exec sleep 1000", claim="data"), space=space)
    await_ready(rig, space, "pod/reader")
    assert shell(rig, space, "reader", "cat /data/file") == "precious\n"


def test_volume_goes_with_its_claim(rig: Rig, space: str) -> None:
    apply(rig, claim("data"), pod("user", "exec sleep 1000", claim="data"), space=space)
    await_ready(rig, space, "pod/user")
    volume = get(rig, "pvc/data", space=space)["spec"]["volumeName"]
    directories = list(rig.layout.data.glob(f"machines/*/lib/volumes/{volume}"))
    assert len(directories) == 1
    rig.kubectl("-n", space, "delete", "pod", "user", "--grace-period=0", "--force")
    rig.kubectl("-n", space, "delete", "pvc", "data")
    rig.kubectl("wait", "--for=delete", f"pv/{volume}", f"--timeout={PATIENCE_S:.0f}s")
    assert not directories[0].exists()


def test_names_of_services_and_of_their_pods_resolve(rig: Rig, space: str) -> None:
    apply(rig, service("web", headless=True), stateful_set("web", replicas=2), space=space)
    await_rollout(rig, space, "web")
    for name in ("web-0.web", f"web-0.web.{space}.svc.cluster.local"):
        assert shell(rig, space, "web-1", f"wget -qO- http://{name}:8080/") == "web-0\n"
    assert "198.18.64.1" in shell(
        rig, space, "web-0", "nslookup kubernetes.default.svc.cluster.local"
    )


def test_name_that_did_not_exist_resolves_once_it_does(rig: Rig, space: str) -> None:
    apply(rig, pod("client", "exec sleep 1000"), space=space)
    await_ready(rig, space, "pod/client")
    with pytest.raises(RigError):
        shell(rig, space, "client", "nslookup late")
    apply(rig, service("late"), space=space)
    address = get(rig, "service/late", space=space)["spec"]["clusterIP"]
    assert wait_until(
        lambda: address in shell(rig, space, "client", "nslookup late || true"), PATIENCE_S
    )


def test_service_is_reached_from_the_host_and_from_the_other_node(rig: Rig, space: str) -> None:
    apply(rig, service("web"), pod("web-0", SERVE, app="web", node="node-1"), space=space)
    apply(rig, pod("client", "exec sleep 1000", node="node-2"), space=space)
    await_ready(rig, space, "pod/web-0", "pod/client")
    assert shell(rig, space, "client", "wget -qO- http://web:8080/") == "web-0\n"
    address = get(rig, "service/web", space=space)["spec"]["clusterIP"]
    assert wait_until(lambda: fetched(address) == "web-0\n", PATIENCE_S)


def test_pod_reaches_itself_through_its_service(rig: Rig, space: str) -> None:
    apply(rig, service("web"), pod("web-0", SERVE, app="web"), space=space)
    await_ready(rig, space, "pod/web-0")
    assert shell(rig, space, "web-0", "wget -qO- http://web:8080/") == "web-0\n"


def test_anti_affinity_spreads_pods(rig: Rig, space: str) -> None:
    term = {
        "labelSelector": {"matchLabels": {"app": "web"}},
        "topologyKey": "kubernetes.io/hostname",
    }
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    apply(rig, stateful_set("web", replicas=2, affinity=affinity), space=space)
    await_rollout(rig, space, "web")
    pods = get(rig, "pods", space=space)["items"]
    assert {item["spec"]["nodeName"] for item in pods} == {"node-1", "node-2"}


def test_disruption_budget_blocks_an_eviction(rig: Rig, space: str) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }
    apply(rig, budget, pod("web-0", SERVE, app="web"), space=space)
    await_ready(rig, space, "pod/web-0")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "web-0", "namespace": space},
    }
    with pytest.raises(ApiError) as refused:
        rig.api.request("POST", f"/api/v1/namespaces/{space}/pods/web-0/eviction", eviction)
    assert refused.value.status == TOO_MANY_REQUESTS


def test_what_a_pod_prints_is_in_its_log(rig: Rig, space: str) -> None:
    apply(rig, pod("talker", "echo so it is; exec sleep 1000"), space=space)
    await_ready(rig, space, "pod/talker")
    assert wait_until(
        lambda: rig.kubectl("-n", space, "logs", "talker") == "so it is\n", PATIENCE_S
    )


def test_pod_that_is_not_restricted_is_refused(rig: Rig, space: str) -> None:
    bold = pod("bold", "exec sleep 1000")
    bold["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(RigError, match="violates PodSecurity"):
        apply(rig, bold, space=space)


def test_token_of_a_pod_is_its_service_account(rig: Rig, space: str) -> None:
    apply(rig, pod("holder", "exec sleep 1000"), space=space)
    await_ready(rig, space, "pod/holder")
    path = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    token = shell(rig, space, "holder", f"cat {path}")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token},
    }
    who = rig.api.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
    assert who["status"]["user"]["username"] == f"system:serviceaccount:{space}:default"
    shell(rig, space, "holder", "nc -w 5 kubernetes.default.svc.cluster.local 443 </dev/null")


def test_pods_serve_while_the_api_server_is_gone(rig: Rig, space: str) -> None:
    apply(rig, service("web"), pod("web-0", SERVE, app="web"), space=space)
    await_ready(rig, space, "pod/web-0")
    address = get(rig, "service/web", space=space)["spec"]["clusterIP"]
    assert wait_until(lambda: fetched(address) == "web-0\n", PATIENCE_S)
    rig.control.stop_api()
    try:
        with pytest.raises(RigError):
            rig.kubectl("get", "nodes", "--request-timeout=2s")
        assert fetched(address) == "web-0\n"
    finally:
        rig.control.start_api()
    rig.kubectl("get", "nodes")


def test_pods_run_on_while_their_kubelet_is_paused(rig: Rig, space: str) -> None:
    apply(rig, pod("web-0", SERVE, app="web", node="node-1"), space=space)
    await_ready(rig, space, "pod/web-0")
    address = get(rig, "pod/web-0", space=space)["status"]["podIP"]
    rig.node("node-1").pause_kubelet()
    try:
        assert fetched(address) == "web-0\n"
        apply(rig, pod("late", "exec sleep 1000", node="node-1"), space=space)
        assert "phase" in get(rig, "pod/late", space=space)["status"]
        assert get(rig, "pod/late", space=space)["status"]["phase"] == "Pending"
    finally:
        rig.node("node-1").resume_kubelet()
    await_ready(rig, space, "pod/late")


def test_node_that_is_cut_off_runs_on(rig: Rig, space: str) -> None:
    count = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.1; done"
    apply(rig, pod("counter", count, node="node-2"), space=space)
    apply(rig, pod("web-0", SERVE, app="web", node="node-2"), space=space)
    await_ready(rig, space, "pod/counter", "pod/web-0")
    address = get(rig, "pod/web-0", space=space)["status"]["podIP"]
    log = only(rig.node("node-2").machine.files.glob(f"log/pods/{space}_counter_*/main/0.log"))
    rig.node("node-2").cut()
    try:
        assert fetched(address) is None
        size = log.stat().st_size
        assert wait_until(lambda: log.stat().st_size > size, PATIENCE_S)
    finally:
        rig.node("node-2").mend()
    assert wait_until(lambda: fetched(address) == "web-0\n", PATIENCE_S)


def test_lost_node_is_noticed_and_comes_back_with_its_volumes(rig: Rig, space: str) -> None:
    keep = "test -e /data/first || hostname >/data/first; exec sleep 1000"
    apply(
        rig, claim("data"), stateful_set("db", replicas=1, command=keep, claim="data"), space=space
    )
    await_rollout(rig, space, "db")
    name = get(rig, "pod/db-0", space=space)["spec"]["nodeName"]
    node = rig.node(name)
    node.lose()
    try:
        assert await_condition(rig, name, "Unknown")
    finally:
        node.return_()
    assert await_condition(rig, name, "True")
    # The pod object outlived the node (it is tolerated for five minutes): kubelet starts it anew.
    assert wait_until(lambda: restarts(rig, space, "db-0") > 0, PATIENCE_S)
    await_ready(rig, space, "pod/db-0")
    assert shell(rig, space, "db-0", "cat /data/first") == "db-0\n"


def test_helm_works(rig: Rig, space: str, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: small\nversion: 0.1.0\n")
    configuration = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}}
    (tmp_path / "templates" / "all.yaml").write_text(json.dumps(configuration))
    rig.helm("install", "small", str(tmp_path), "--namespace", space)
    get(rig, "configmap/made", space=space)


# --- what the tests are made of -------------------------------------------------------------------


def pod(name: str, command: str, *, app: str = "", claim: str = "", node: str = "") -> Manifest:
    """A restricted pod that runs a shell command."""
    spec = pod_spec(command, claim=claim)
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    metadata = {"name": name, "labels": {"app": app or name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def pod_spec(command: str, *, claim: str = "") -> Manifest:
    """What a restricted pod is: nobody special, a file system of its own that it cannot write."""
    container: Manifest = {
        "name": "main",
        "image": BUSYBOX,
        "command": ["/bin/sh", "-c", command],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  # within the pod
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}]
    if claim:
        container["volumeMounts"].append({"name": "data", "mountPath": "/data"})
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": claim}})
    return {
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }


def stateful_set(
    name: str,
    *,
    replicas: int,
    command: str = SERVE,
    claim: str = "",
    affinity: Manifest | None = None,
) -> Manifest:
    """Pods with names that stay."""
    labels = {"app": name}
    spec = {**pod_spec(command, claim=claim), "affinity": affinity or {}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def service(name: str, *, headless: bool = False) -> Manifest:
    """The way to the pods with this name as their app."""
    spec: Manifest = {"selector": {"app": name}, "ports": [{"port": 8080}]}
    if headless:
        spec["clusterIP"] = "None"
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def claim(name: str) -> Manifest:
    """A claim on storage, of whatever class is the default."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }


def apply(rig: Rig, *manifests: Manifest, space: str = "default") -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
    rig.kubectl("-n", space, "apply", "-f", "-", given=json.dumps(items))


def get(rig: Rig, what: str, *, space: str = "default") -> Manifest:
    found: Manifest = json.loads(rig.kubectl("-n", space, "get", what, "-o", "json"))
    return found


def shell(rig: Rig, space: str, name: str, command: str) -> str:
    return rig.kubectl("-n", space, "exec", name, "--", "sh", "-c", command)


def await_ready(rig: Rig, space: str, *pods: str) -> None:
    timeout = f"--timeout={PATIENCE_S:.0f}s"
    rig.kubectl("-n", space, "wait", "--for=condition=Ready", timeout, *pods)


def await_rollout(rig: Rig, space: str, name: str) -> None:
    timeout = f"--timeout={PATIENCE_S:.0f}s"
    rig.kubectl("-n", space, "rollout", "status", f"statefulset/{name}", timeout)


def await_condition(rig: Rig, node: str, status: str) -> bool:
    """Whether a node's Ready condition gets this status."""

    def has_status() -> bool:
        conditions = get(rig, f"node/{node}")["status"]["conditions"]
        return any(item["type"] == "Ready" and item["status"] == status for item in conditions)

    return wait_until(has_status, PATIENCE_S)


def restarts(rig: Rig, space: str, name: str) -> int:
    statuses = get(rig, f"pod/{name}", space=space)["status"].get("containerStatuses", [])
    return sum(status["restartCount"] for status in statuses)


def fetched(address: str) -> str | None:
    """What the host gets from a pod or a service; None if nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}:8080/", timeout=2) as response:
            return str(response.read().decode())
    except (OSError, http.client.HTTPException):
        return None


def only(paths: Iterator[Path]) -> Path:
    (path,) = paths
    return path
