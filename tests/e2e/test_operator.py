"""A cluster on a real Kubernetes: made, used, changed and broken, as its users would.

One cluster lives through all tests, in a namespace in which only restricted pods may run; each test
leaves it whole. In scope: what only a Kubernetes can show. What the operator decides in which case
is in tests/unit/operator/test_plan.py; how long anything takes, in bench.py.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from e2e.client_pod import client_pod
from e2e.operator_world import SYSTEM, Cluster, image, new_space, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.kubernetes import Kubernetes
    from e2e.rig import Rig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

SPACE = "db"
TRIES_MAX = 5


@pytest.fixture(scope="module")
def cluster(operator: Kubernetes) -> Iterator[Cluster]:
    with new_space(operator, SPACE):
        cluster = Cluster(operator, SPACE, "pg")
        cluster.apply()
        cluster.settle()
        yield cluster


def small_node(cluster: Cluster) -> str:
    """Return the Kubernetes node with fewer members of the log: the other ones are a majority."""
    nodes = Counter(pod["spec"]["nodeName"] for pod in cluster.pods("log").values())
    return min(("node-1", "node-2"), key=lambda node: nodes[node])


def compute_on(cluster: Cluster, node: str) -> str:
    """Return a compute on a Kubernetes node."""
    return next(
        name for name, pod in cluster.pods("compute").items() if pod["spec"]["nodeName"] == node
    )


def make_primary(cluster: Cluster, name: str) -> None:
    """Have a compute be the primary: whoever else is, goes."""
    while cluster.primary() != name:
        cluster.kubectl("delete", "pod", cluster.primary())
        cluster.settle()


@contextlib.contextmanager
def lost(rig: Rig, node: str) -> Iterator[None]:
    """Lose a Kubernetes node, and bring it back in the end."""
    rig.node(node).lose()
    try:
        yield
    finally:
        rig.node(node).return_()


@contextlib.contextmanager
def without_api(rig: Rig) -> Iterator[None]:
    """Stop the API server, and with it the operator."""
    rig.control.stop_api()
    try:
        yield
    finally:
        rig.control.start_api()


def test_it_answers_reads_and_writes_where_its_services_say(cluster: Cluster) -> None:
    assert cluster.ask("select pg_is_in_recovery()") is False
    assert cluster.ask("select pg_is_in_recovery()", "-primary") is False
    assert cluster.ask("select pg_is_in_recovery()", "-replicas") is True
    assert cluster.status()["conditions"][0]["status"] == "True"


def test_psql_in_a_pod_reaches_it_by_name(cluster: Cluster) -> None:
    with client_pod(cluster, "client", 'psql "$URI" -Atc "select 6*7"') as pod:
        until(lambda: cluster.kubectl("logs", pod).strip() == "42", "an answer to psql")


def test_settled_cluster_costs_no_write(cluster: Cluster) -> None:
    for _ in range(TRIES_MAX):
        cluster.settle()
        epoch, before = cluster.status()["epoch"], cluster.versions()
        for _ in range(3):  # as often as the operator looks at a settled cluster, and more
            cluster.ask("select pg_sleep(5)")
        after = cluster.versions()
        if cluster.status()["epoch"] == epoch:  # else it was not settled
            assert after == before
            return
    pytest.fail("there is one failover after the other by themselves: is the machine overloaded?")


def test_primary_whose_pod_is_deleted_is_succeeded(cluster: Cluster) -> None:
    before = cluster.primary()
    with cluster.writing() as writer:
        cluster.kubectl("delete", "pod", before, "--wait=false")
        until(lambda: cluster.primary() not in {"", before}, "a primary")
    assert writer.connections == 1, "its connection to the gateway stayed"
    cluster.settle()


@pytest.mark.parametrize("component", ["log", "storage", "gateway"])
def test_pods_of_every_kind_come_back_one_by_one(cluster: Cluster, component: str) -> None:
    with cluster.writing():
        for name in cluster.pods(component):
            cluster.kubectl("delete", "pod", name)
            cluster.settle()


def test_log_node_that_loses_its_disk_becomes_another_member(cluster: Cluster) -> None:
    with cluster.writing():
        cluster.kubectl("delete", "pvc", "pg-log-2", "--wait=false")
        cluster.kubectl("delete", "pod", "pg-log-2")
        until(lambda: "RemovingMember" in cluster.kubectl("get", "events"), "a change of members")
        cluster.settle()
    assert cluster.status()["readyLogNodes"] == 3


def test_storage_node_that_loses_its_disk_is_filled_again(cluster: Cluster) -> None:
    with cluster.writing():
        cluster.kubectl("delete", "pvc", "pg-storage-1", "--wait=false")
        cluster.kubectl("delete", "pod", "pg-storage-1")
        until(
            lambda: "Filling" in cluster.kubectl("get", "events"), "a storage node that is filled"
        )
        cluster.settle()


def test_settings_are_changed_pod_by_pod_while_it_is_written(cluster: Cluster) -> None:
    before = {name: pod["metadata"]["uid"] for name, pod in cluster.pods("compute").items()}
    with cluster.writing() as writer:
        cluster.apply(settings={"work_mem": "7777kB"})
        cluster.settle()
        assert cluster.ask("show work_mem") == "7777kB"
        assert cluster.ask("show work_mem", "-replicas") == "7777kB"
    after = {pod["metadata"]["uid"] for pod in cluster.pods("compute").values()}
    assert not after & set(before.values())
    assert writer.connections == 1


def test_another_image_is_rolled_out_everywhere(cluster: Cluster) -> None:
    # The same layers under other names: what is new is that they are others.
    names = {"seawall": image("operator"), "compute": image("storage")}
    with cluster.writing():
        cluster.apply(images=names)
        cluster.settle()
    for component in ("log", "storage", "compute", "gateway"):
        wanted = names["seawall" if component in {"log", "gateway"} else "compute"]
        images = {pod["spec"]["containers"][0]["image"] for pod in cluster.pods(component).values()}
        assert images == {wanted}


def test_lost_node_is_survived_long_before_kubernetes_notices(cluster: Cluster, rig: Rig) -> None:
    node = small_node(cluster)
    cluster.settle()
    make_primary(cluster, compute_on(cluster, node))
    before = cluster.primary()
    with cluster.writing() as writer, lost(rig, node):
        writer.wait_for_more()
        assert rig.node(node).ready(rig.api), "Kubernetes has not noticed"
    until(lambda: cluster.primary() not in {"", before}, "a primary")
    cluster.settle()


def test_failover_needs_neither_the_operator_nor_the_api(cluster: Cluster, rig: Rig) -> None:
    node = small_node(cluster)
    make_primary(cluster, compute_on(cluster, node))
    with cluster.writing() as writer, without_api(rig), lost(rig, node):
        writer.wait_for_more()
    cluster.settle()


def test_drained_node_leaves_a_database_that_works(cluster: Cluster, rig: Rig) -> None:
    node = small_node(cluster)
    with cluster.writing():
        try:
            rig.kubectl(
                "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"
            )
        finally:
            rig.kubectl("uncordon", node)
        cluster.settle()


def test_operator_that_dies_again_and_again_still_makes_a_cluster(cluster: Cluster) -> None:
    other = Cluster(cluster.kubernetes, SPACE, "other")
    other.apply(logNodes={"count": 1}, storageNodes={"count": 1}, computes=1)

    def is_whole() -> bool:
        # In order, so that the Lease is given back: who is killed holds it for half a minute.
        operators = ("pods", "-l", "app.kubernetes.io/name=seawall-operator", "--wait=false")
        cluster.kubernetes.kubectl("-n", SYSTEM, "delete", *operators)
        cluster.ask("select pg_sleep(5)")  # as far as it comes in that time
        return other.is_settled()

    until(is_whole, "a cluster in spite of all")
    other.settle()
    assert other.ask("select 1") == 1
    other.kubectl("delete", "swpg", "other")


def test_cluster_that_is_deleted_leaves_nothing_and_can_be_made_again(cluster: Cluster) -> None:
    cluster.kubectl("delete", "swpg", "pg")
    kinds = "pods,pvc,services,secrets,configmaps,deployments,pdb,networkpolicies"
    selector = "seawall.dev/cluster=pg"
    until(
        lambda: (
            not json.loads(cluster.kubectl("get", kinds, "-l", selector, "-o", "json"))["items"]
        ),
        "nothing of it",
    )
    cluster.apply()
    cluster.settle()
    assert cluster.ask("select to_regclass('written') is null") is True, "it is a new one"
