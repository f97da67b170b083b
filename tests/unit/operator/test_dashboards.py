"""Dashboards and alerts ask for metrics that there are, and alerts have a chapter in the runbook.

In scope: each metric by its name, against what the components' own collectors give; the files as
they are committed; Grafana's basics. Out of scope: whether PromQL parses, what graphs look like.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn
from gateway import metrics as gateway_metrics
from kube_operator.monitoring.__main__ import generated
from kube_operator.monitoring.alerts import GROUPS, RUNBOOK
from kube_operator.monitoring.dashboards import dashboard
from kube_operator.monitoring.panels import DASHBOARDS
from kube_operator.operator_metrics import PREFIX as OPERATOR_PREFIX
from kube_operator.operator_metrics import OperatorMetrics
from log_service import node_metrics as log_metrics
from log_service.compute_methods import ComputeState
from sqlnode.broker import Broker, BrokerCounters
from sqlnode.broker_metrics import BrokerCollector
from sqlnode.compute import metrics as compute_metrics
from sqlnode.pagefault import block_map
from storage import node_metrics as storage_metrics
from storage.handlers import PageCounters

if TYPE_CHECKING:
    from storage.rocks_store import RocksStore

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "charts" / "seawall" / "monitoring"
HOW = "in operator/: python -P -m kube_operator.monitoring ../charts/seawall/monitoring"
BRANCH = BranchName("main")
# Of Prometheus itself, and of every kubelet.
FOREIGN = {"up", "kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "summary": ("_sum", "_count"),
    "histogram": ("_bucket", "_sum", "_count"),
}
ALERTS = [alert for alerts in GROUPS.values() for alert in alerts]
EXPRESSIONS = {
    f"{name}: {target['legendFormat']}": target["expr"]
    for name in DASHBOARDS
    for panel in dashboard(name)["panels"]
    for target in panel["targets"]
} | {alert.name: alert.expression for alert in ALERTS}


# --- what components have -------------------------------------------------------------------------


def log_collector() -> Collector:
    follower = log_metrics.FollowerFigures(NodeName("log-2"), 0, is_active=True)
    branch = log_metrics.BranchFigures(
        branch=BRANCH, has_leader=True, term=1, epoch=Epoch(1), members=3, voters=3,
        start_position_bytes=Lsn(0), committed_position_bytes=Lsn(0), flushed_position_bytes=0,
        disk_full=False, standbys=0, is_resting=False,
        leading=log_metrics.LeaderFigures(followers=(follower,)),
    )  # fmt: skip
    figures = log_metrics.NodeFigures(branches=1, resting=0, disk_failed=False, shown=[branch])
    return log_metrics.NodeCollector(lambda: figures)


def storage_collector() -> Collector:
    store = SimpleNamespace(damage=SimpleNamespace(count=0), size_bytes=lambda: 0)
    return storage_metrics.NodeCollector({}, cast("RocksStore", store), PageCounters())


def broker() -> Broker:
    names = block_map._library.pagefault_counter_names().decode().split()
    blocks = SimpleNamespace(
        counters=lambda: dict.fromkeys(names, 0), slots=list, slots_used=lambda: 0
    )
    return cast("Broker", SimpleNamespace(block_map=blocks, counters=BrokerCounters()))


def compute_collector() -> Collector:
    figures = compute_metrics.ComputeFigures(
        state=ComputeState.PRIMARY, is_ready=True, epoch=Epoch(1), lives=1, lease_ms=1,
        log_unreachable=False, storage_unreachable=False, received=Lsn(1), replayed=Lsn(1),
        cut=Lsn(1), cache_bytes=1, cache_bytes_max=1, broker=None,
    )  # fmt: skip
    return compute_metrics.ComputeCollector(lambda: figures)


def gateway_collector() -> Collector:
    stats = [(name, 0) for name in ("clients", *gateway_metrics.COUNTERS)]
    view = SimpleNamespace(primary=None, replicas=(), epoch=0)
    worker = SimpleNamespace(
        index=0,
        colleagues=SimpleNamespace(indexes=[0]),
        tables=SimpleNamespace(rows=lambda name: stats if name == "stats" else []),
        pools=SimpleNamespace(view=view),
    )
    metrics = SimpleNamespace(_others={}, _worker=worker)

    class Gateway(Collector):
        def collect(self) -> Iterator[Metric]:
            return gateway_metrics.Metrics.collect(cast("gateway_metrics.Metrics", metrics))

    return Gateway()


def operator_names() -> set[str]:
    """Some gauges are made where what they show is."""
    source = (ROOT / "operator" / "kube_operator" / "runtime.py").read_text()
    gauges = re.findall(r"\bgauge\(\s*\"(\w+)\"", source)
    return {f"{OPERATOR_PREFIX}_{name}" for name in gauges}


def names_of(families: Iterator[Metric]) -> set[str]:
    return {family.name + end for family in families for end in SUFFIXES[family.type]}


def all_names() -> set[str]:
    collectors = [
        log_collector(), storage_collector(), BrokerCollector(broker()), compute_collector(),
        gateway_collector(),
    ]  # fmt: skip
    names = operator_names() | names_of(iter(OperatorMetrics().registry.collect()))
    for collector in collectors:
        names |= names_of(iter(collector.collect()))
    return names


NAMES = all_names() | FOREIGN


def metrics_in(expression: str) -> set[str]:
    """Every metric of a query: what is followed by labels, a range, or stands alone."""
    bare = re.sub(r'"[^"]*"|\b(?:by|on|group_left) \([^)]*\)|\{[^}]*\}|\[[^\]]*\]', "", expression)
    words = set(re.findall(r"\b[a-z_][a-z_0-9]*\b(?!\s*\()", bare))
    return words - {"or", "and", "unless", "bool", "by", "on"}


# --- claims ---------------------------------------------------------------------------------------


def test_committed_files_are_what_the_code_says() -> None:
    committed = {
        path.relative_to(MONITORING).as_posix(): path.read_text()
        for path in MONITORING.rglob("*")
        if path.is_file()
    }
    assert committed == generated(), HOW


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_metric_is_one_that_a_component_has(where: str) -> None:
    asked = metrics_in(EXPRESSIONS[where])
    assert asked
    assert asked <= NAMES


@pytest.mark.parametrize("prefix", ["log", "storage", "compute", "broker", "pagefault", "gateway"])
def test_every_component_is_asked(prefix: str) -> None:
    assert any(name.startswith(f"seawall_{prefix}_") for name in NAMES)
    assert any(f"seawall_{prefix}_" in expression for expression in EXPRESSIONS.values())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_is_one_that_grafana_imports(name: str) -> None:
    made: dict[str, Any] = json.loads(json.dumps(dashboard(name)))
    assert made["uid"] == f"seawall-{name}"
    assert made["schemaVersion"] >= 36
    chosen = {one["name"] for one in made["templating"]["list"]}
    places = set()
    for panel in made["panels"]:
        grid = panel["gridPos"]
        places.add((grid["x"], grid["y"]))
        assert grid["x"] + grid["w"] <= 24
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= chosen
            assert not re.search('[@~](?!")', target["expr"].replace("=~", ""))
    assert len(places) == len({panel["id"] for panel in made["panels"]}) == len(made["panels"])


def test_queries_of_clusters_are_about_the_chosen_one() -> None:
    for name in DASHBOARDS:
        for panel in dashboard(name)["panels"]:
            for target in panel["targets"]:
                selectors = target["expr"].count('cluster="$cluster"')
                assert selectors == (0 if name == "operator" else len(re.findall(
                    r"\b(?:seawall_\w+|up)\b", target["expr"])))  # fmt: skip


def test_alerts_have_names_of_their_own_and_say_how_bad_it_is() -> None:
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert re.fullmatch(r"Seawall[A-Za-z]+", alert.name)
        assert alert.severity in {"critical", "warning"}
        assert re.fullmatch(r"\d+[smh]", alert.lasts)
        assert alert.summary.endswith(".")


def test_every_alert_has_a_chapter_in_the_runbook_and_every_chapter_an_alert() -> None:
    chapters = re.findall(r"^### (Seawall\w+)$", (ROOT / RUNBOOK).read_text(), re.MULTILINE)
    assert sorted(chapters) == sorted(alert.name for alert in ALERTS)
    for alert in ALERTS:
        assert f"{RUNBOOK}#{alert.anchor}" in generated()["alerts.yaml"]


def test_metric_that_nobody_has_would_be_found() -> None:
    asked = metrics_in('sum by (pod) (rate(seawall_log_nothing{a="b"}[5m])) > 0 and on (x) up == 1')
    assert asked == {"seawall_log_nothing", "up"}
    assert not asked <= NAMES
