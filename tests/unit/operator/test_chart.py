"""The Helm chart: what it renders is valid, restricted, and gives no right that nobody needs.

In scope: several sets of values, rendered by helm, checked offline against the schemas of
Kubernetes 1.30 to 1.34; roles, security contexts, images, monitoring. Out of scope: an installation
(tests/e2e).

Needs helm: SEAWALL_HELM or the search path says where. What is true of the chart's files alone is
tested without it.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from fabric.settings import load
from kube_operator.kube_port import CLUSTER, EVENT, LEASE, NODE, OWNED, Kind
from kube_operator.manifests.policies import network_policies
from kube_operator.names import Names
from kube_operator.settings import OperatorSettings
from kube_operator.spec import MAJOR_MAX, MAJOR_MIN, ClusterSpec

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "seawall"
HELM = os.environ.get("SEAWALL_HELM") or shutil.which("helm")
VERSIONS = ("1.30", "1.31", "1.32", "1.33", "1.34")
FOREIGN = {"PodMonitor", "PrometheusRule"}  # kinds of the Prometheus operator
HELM_S = 60

Json = dict[str, Any]

VARIANTS: dict[str, Json] = {
    "defaults": {},
    "namespaces": {"watchNamespaces": ["shop"], "rbac": {"nodes": False}},
    "monitored": {
        "metrics": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "rules": {"enabled": True, "runbookUrl": "https://docs.example.com/operations"},
            "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Databases"}},
        },
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}]},
    },
    "everything": {
        "fullnameOverride": "db-operator",
        "replicas": 3,
        "watchNamespaces": ["shop"],
        "imageRegistry": "registry.example.com:5000/mirror",
        "image": {"digest": "sha256:" + "0" * 64, "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "clusterImages": {
            "seawall": {"tag": "0.2.0"},
            "compute": {"majors": [17, 18], "overrides": {"17": "example.com/postgis:17"}},
        },
        "serviceAccount": {"name": "db", "annotations": {"a": "b"}},
        "extraEnv": [{"name": "A", "value": "b"}],
        "podLabels": {"team": "data"},
        "podAnnotations": {"a": "b"},
        "runAsUser": None,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {},
            }
        ],
        "priorityClassName": "high",
    },
    "little": {
        "replicas": 1,
        "rbac": {"create": False},
        "serviceAccount": {"create": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    },
}

needs_helm = pytest.mark.skipif(
    HELM is None, reason="no helm: install it, or name it in SEAWALL_HELM"
)


def helm(*arguments: str, values: Json | None = None) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run(
        [HELM, *arguments, "--values", "-"],
        input=json.dumps(values or {}), capture_output=True, text=True, timeout=HELM_S, check=False,
    )  # fmt: skip


def template(values: Json, version: str = "1.30") -> subprocess.CompletedProcess[str]:
    place = ("--namespace", "seawall-system", "--kube-version", f"{version}.0", "--include-crds")
    return helm("template", "sw", str(CHART), *place, values=values)


@functools.cache
def rendered(variant: str, version: str = "1.30") -> list[Json]:
    done = template(VARIANTS[variant], version)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


def of_kind(variant: str, *kinds: str) -> list[Json]:
    return [one for one in rendered(variant) if one["kind"] in kinds]


def rules_of(variant: str) -> Iterator[Json]:
    for role in of_kind(variant, "Role", "ClusterRole"):
        yield from role["rules"]


def operator_rules(variant: str) -> list[Json]:
    """The rules of the operator, without those for people."""
    return [
        rule
        for role in of_kind(variant, "Role", "ClusterRole")
        if not role["metadata"]["name"].endswith(("-view", "-edit"))
        for rule in role["rules"]
    ]


def verbs_for(rules: list[Json], kind: Kind, subresource: str = "") -> set[str]:
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    return {
        verb
        for rule in rules
        if kind.group in rule["apiGroups"] and resource in rule["resources"]
        for verb in rule["verbs"]
    }


def container(variant: str) -> Json:
    (deployment,) = of_kind(variant, "Deployment")
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def settings(variant: str) -> OperatorSettings:
    """What the operator reads; it refuses variables that it does not know."""
    fields = {"metadata.name": "operator-1", "metadata.namespace": "seawall-system"}
    told = {
        one["name"]: one["value"]
        if "value" in one
        else fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in container(variant)["env"]
    }
    return load(OperatorSettings, None, told, "SEAWALL_OPERATOR")


# --- what helm says -------------------------------------------------------------------------------


@needs_helm
@pytest.mark.parametrize("variant", VARIANTS)
def test_lint_finds_nothing(variant: str) -> None:
    done = helm("lint", "--strict", str(CHART), values=VARIANTS[variant])
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_in(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checker = pytest.importorskip("kubernetes_validate", reason="the test group is not installed")
    # It reads the schemas of a version, megabytes, again for each object.
    read_once = functools.cache(checker.utils.schema_contents)
    monkeypatch.setattr(checker.utils, "schema_contents", read_once)
    seen = set()
    for variant in VARIANTS:
        for manifest in rendered(variant, version):
            text = json.dumps(manifest, sort_keys=True)
            if manifest["kind"] not in FOREIGN and text not in seen:
                seen.add(text)
                checker.validate(manifest, version, strict=True)


@needs_helm
@pytest.mark.parametrize(
    "values",
    [
        {"replica": 2},
        {"replicas": "2"},
        {"image": {"name": "x"}},
        {"image": {"repository": "seawall/operator:0.1.0"}},
        {"watchNamespaces": "shop"},
        {"watchNamespaces": ["Shop"]},
        {"watchNamespaces": ["shop", "billing"]},
        {"logLevel": "trace"},
        {"clusterImages": {"compute": {"majors": [14]}}},
        {"clusterImages": {"compute": {"overrides": {"9": "postgres:9"}}}},
        {"metrics": {"podMonitor": {"enabled": "yes"}}},
        {"runAsUser": 0},
        {"resources": {"limits": {"memory": "1 GB"}}},
    ],
)
def test_wrong_value_is_refused(values: Json) -> None:
    done = template(values)
    assert done.returncode != 0
    assert "schema" in done.stderr


@needs_helm
def test_kubernetes_before_1_30_is_refused() -> None:
    done = template({}, "1.29")
    assert done.returncode != 0
    assert "1.30" in done.stderr


# --- rights ---------------------------------------------------------------------------------------


@needs_helm
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_role_has_a_wildcard(variant: str) -> None:
    for rule in rules_of(variant):
        for values in rule.values():
            assert "*" not in values


@needs_helm
@pytest.mark.parametrize("variant", ["defaults", "namespaces"])
def test_operator_may_do_what_it_does(variant: str) -> None:
    rules = operator_rules(variant)
    for kind in OWNED:
        assert verbs_for(rules, kind) == {"get", "list", "watch", "create", "patch", "delete"}, kind
    assert verbs_for(rules, CLUSTER) == {"get", "list", "watch", "patch"}
    assert verbs_for(rules, CLUSTER, "status") == {"get", "patch"}
    assert verbs_for(rules, EVENT) == {"create", "patch"}
    assert verbs_for(rules, LEASE) == {"get", "create", "update"}
    assert verbs_for(rules, NODE) == ({"get", "list", "watch"} if variant == "defaults" else set())


@needs_helm
@pytest.mark.parametrize("variant", VARIANTS)
def test_operator_may_do_no_more(variant: str) -> None:
    known = {kind.plural for kind in (*OWNED, CLUSTER, EVENT, LEASE, NODE)}
    known |= {"postgresclusters/status", "postgresclusters/finalizers", "endpointslices"}
    for rule in operator_rules(variant):
        assert set(rule["resources"]) <= known
        assert not set(rule["verbs"]) & {"escalate", "bind", "impersonate", "deletecollection"}


@needs_helm
def test_with_namespaces_no_right_reaches_beyond_them() -> None:
    roles = of_kind("namespaces", "Role")
    assert {role["metadata"]["namespace"] for role in roles} == {
        "shop", "seawall-system",
    }  # fmt: skip
    own = [role for role in roles if role["metadata"]["namespace"] == "seawall-system"]
    assert [rule["resources"] for role in own for rule in role["rules"]] == [["leases"]]
    assert of_kind("namespaces", "ClusterRoleBinding") == []
    assert settings("namespaces").runtime.namespace == "shop"


@needs_helm
@pytest.mark.parametrize("variant", VARIANTS)
def test_bindings_are_of_roles_and_accounts_that_there_are(variant: str) -> None:
    roles = {
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in of_kind(variant, "Role", "ClusterRole")
    }
    (deployment,) = of_kind(variant, "Deployment")
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    made = [one["metadata"]["name"] for one in of_kind(variant, "ServiceAccount")]
    assert made == ([account] if variant != "little" else [])
    for binding in of_kind(variant, "RoleBinding", "ClusterRoleBinding"):
        role = binding["roleRef"]
        assert (role["kind"], binding["metadata"].get("namespace"), role["name"]) in roles
        assert [one["name"] for one in binding["subjects"]] == [account]


# --- pods -----------------------------------------------------------------------------------------


@needs_helm
@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_are_restricted(variant: str) -> None:
    (deployment,) = of_kind(variant, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"].get("runAsUser", 10001) > 0
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert [list(volume) for volume in pod["volumes"]] == [["name", "emptyDir"]]
    assert container(variant)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@needs_helm
def test_two_operators_keep_apart_and_one_stays_in_a_drain() -> None:
    (deployment,) = of_kind("defaults", "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert "podAntiAffinity" in deployment["spec"]["template"]["spec"]["affinity"]
    (budget,) = of_kind("defaults", "PodDisruptionBudget")
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]


@needs_helm
@pytest.mark.parametrize("variant", ["defaults", "monitored", "everything"])
def test_selectors_find_the_operator(variant: str) -> None:
    (deployment,) = of_kind(variant, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    (policy,) = of_kind(variant, "NetworkPolicy")
    (budget,) = of_kind(variant, "PodDisruptionBudget")
    for selector in (deployment["spec"]["selector"], policy["spec"]["podSelector"],
                     budget["spec"]["selector"]):  # fmt: skip
        assert selector["matchLabels"].items() <= labels


@needs_helm
@pytest.mark.parametrize("variant", VARIANTS)
def test_policies_of_clusters_let_the_operator_in(variant: str) -> None:
    (deployment,) = of_kind(variant, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    peers = [
        peer["podSelector"]["matchLabels"].items()
        for policy in network_policies(Names("orders", "shop"))
        for rule in policy["spec"]["ingress"]
        for peer in rule.get("from", ())
        if "namespaceSelector" in peer
    ]
    assert peers
    assert all(peer <= labels for peer in peers)


@needs_helm
def test_images_have_the_version_of_the_chart() -> None:
    told = settings("defaults")
    assert container("defaults")["image"] == "seawall/operator:0.1.0"
    for major in range(MAJOR_MIN, MAJOR_MAX + 1):
        images = told.images_for(ClusterSpec(version=major))
        assert images.seawall == "seawall/log:0.1.0"
        assert images.compute == f"seawall/compute:0.1.0-pg{major}"


@needs_helm
def test_images_come_from_where_the_values_say() -> None:
    registry = "registry.example.com:5000/mirror"
    told = settings("everything")
    digest = "sha256:" + "0" * 64
    assert container("everything")["image"] == f"{registry}/seawall/operator@{digest}"
    assert told.image_seawall == f"{registry}/seawall/log:0.2.0"
    assert told.image_compute == {
        "17": "example.com/postgis:17",
        "18": f"{registry}/seawall/compute:0.1.0-pg18",
    }


@needs_helm
@pytest.mark.parametrize("variant", VARIANTS)
def test_operator_understands_what_the_chart_tells_it(variant: str) -> None:
    told = settings(variant)
    (deployment,) = of_kind(variant, "Deployment")
    assert told.identity == "operator-1"
    assert told.runtime.lease_namespace == "seawall-system"
    assert told.runtime.lease_name == deployment["metadata"]["name"]
    assert told.runtime.watch_nodes == (variant != "namespaces")
    assert told.runtime.elect
    assert told.metrics.host == "0.0.0.0"  # noqa: S104  # a pod's; its policy says who comes
    assert [told.metrics.port] == [port["containerPort"] for port in container(variant)["ports"]]


# --- monitoring -----------------------------------------------------------------------------------


@needs_helm
def test_alerts_are_rendered_as_they_are_but_for_the_address_of_the_runbook() -> None:
    (rule,) = of_kind("monitored", "PrometheusRule")
    committed = yaml.safe_load((CHART / "monitoring" / "alerts.yaml").read_text())
    text = json.dumps(committed).replace(
        "docs/operations.md", "https://docs.example.com/operations"
    )
    assert rule["spec"] == json.loads(text)


@needs_helm
def test_dashboards_are_rendered_as_they_are() -> None:
    files = sorted((CHART / "monitoring" / "dashboards").glob("*.json"))
    maps = of_kind("monitored", "ConfigMap")
    assert len(maps) == len(files)
    for path in files:
        (text,) = (one["data"][f"seawall-{path.name}"] for one in maps
                   if f"seawall-{path.name}" in one["data"])  # fmt: skip
        assert json.loads(text) == json.loads(path.read_text())
    assert all(one["metadata"]["labels"]["grafana_dashboard"] == "1" for one in maps)


@needs_helm
def test_monitors_give_the_labels_that_alerts_go_by() -> None:
    operators, clusters = of_kind("monitored", "PodMonitor")
    (endpoint,) = clusters["spec"]["podMetricsEndpoints"]
    given = {one["targetLabel"]: one.get("replacement") for one in endpoint["relabelings"]}
    assert given == {"job": "seawall", "cluster": None, "component": None}
    assert clusters["spec"]["namespaceSelector"] == {"any": True}
    assert operators["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"


@needs_helm
def test_nothing_of_the_prometheus_operator_without_being_asked() -> None:
    assert of_kind("defaults", *FOREIGN, "ConfigMap") == []


# --- the files alone ------------------------------------------------------------------------------


def test_version_is_that_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]


def test_every_value_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    assert len(lines) > 100
    for number, line in enumerate(lines):
        key = re.match(r" *(\w+):", line)
        if key is not None and key[1] not in {"requests", "limits", "cpu", "memory"}:
            assert lines[number - 1].lstrip().startswith("# "), line


def test_schema_knows_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert _keys(values, schema) == []


def _keys(values: Json, schema: Json, path: str = "") -> list[str]:
    """What only one of the two has, where the schema is strict."""
    if schema.get("additionalProperties") is not False or "properties" not in schema:
        return []
    known = schema["properties"].keys() - {"global"}  # a parent chart's
    odd = [f"{path}.{name}" for name in known ^ values.keys()]
    for name in known & values.keys():
        if isinstance(values[name], dict):
            odd += _keys(values[name], schema["properties"][name], f"{path}.{name}")
    return odd
