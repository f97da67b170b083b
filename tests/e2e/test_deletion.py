"""A cluster that is deleted and keeps its data, and the clusters of its name that come after it.

In scope: that Kubernetes' own garbage collector leaves what is to stay and takes what is to go, and
that what was kept serves again. Other ways to an end are in tests/unit/operator/test_deletion.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from e2e.operator_world import VERSION, Cluster, image, new_space, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.kubernetes import Kubernetes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

SMALL: dict[str, Any] = {
    "logNodes": {"count": 1}, "storageNodes": {"count": 1}, "computes": 1,
    "gateway": {"replicas": 1},
}  # fmt: skip
KEPT = {
    "PersistentVolumeClaim/pg-log-1", "PersistentVolumeClaim/pg-storage-1", "Secret/pg-ca",
    "Secret/pg-internal", "Secret/pg-superuser",
}  # fmt: skip
KINDS = "pods,pvc,services,secrets,configmaps,deployments,pdb,networkpolicies,serviceaccounts"
OTHER = VERSION + 1 if VERSION < 18 else VERSION - 1
ROWS = "select string_agg(n::text, ' ' order by n) from kept"
DATABASE = "select system_identifier::text from pg_control_system()"


@pytest.fixture(scope="module")
def cluster(operator: Kubernetes) -> Iterator[Cluster]:
    with new_space(operator, "deletion") as space:
        cluster = Cluster(operator, space, "pg")
        cluster.apply(**SMALL, deletionPolicy="Retain")
        cluster.settle()
        yield cluster


def left(cluster: Cluster) -> dict[str, str]:
    """Return all that has the cluster's label, with its version."""
    selector = f"seawall.dev/cluster={cluster.name}"
    items = json.loads(cluster.kubectl("get", KINDS, "-l", selector, "-o", "json"))["items"]
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
        for one in items
    }


def delete(cluster: Cluster, *, until_left: set[str]) -> None:
    """Delete the cluster, and wait until nothing else is left of it."""
    cluster.kubectl("delete", "swpg", cluster.name)
    until(lambda: set(left(cluster)) == until_left, f"nothing but {sorted(until_left)}")


def test_retained_data_outlives_its_cluster_and_is_the_next_ones(cluster: Cluster) -> None:
    cluster.ask("create table kept as select generate_series(1, 5) as n")
    rows, database, password = cluster.ask(ROWS), cluster.ask(DATABASE), cluster.password()
    delete(cluster, until_left=KEPT)
    assert cluster.password() == password

    cluster.apply(**SMALL)
    cluster.settle()
    assert (cluster.ask(ROWS), cluster.ask(DATABASE)) == (rows, database)
    assert cluster.password() == password
    cluster.apply(**SMALL, deletionPolicy="Retain")
    cluster.settle()


def test_cluster_of_another_version_is_refused_what_was_kept(cluster: Cluster) -> None:
    rows = cluster.ask(ROWS)
    delete(cluster, until_left=KEPT)
    before = left(cluster)
    # Its image is the wrong one even so: it must never be started.
    cluster.apply(**SMALL | {"version": OTHER}, images={"compute": image("compute")})
    until(lambda: cluster.status().get("phase") == "Refused", "the operator to refuse it")
    ready = next(one for one in cluster.status()["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Refused")
    assert f"spec.version is {OTHER}" in ready["message"]
    assert f"has data of version {VERSION}" in ready["message"]
    assert left(cluster) == before
    delete(cluster, until_left=KEPT)
    assert left(cluster) == before

    cluster.apply(**SMALL)
    cluster.settle()
    assert cluster.ask(ROWS) == rows


def test_taken_over_data_goes_with_a_cluster_that_does_not_retain_it(cluster: Cluster) -> None:
    delete(cluster, until_left=set())
    events = json.loads(cluster.kubectl("get", "events", "-o", "json"))["items"]
    founded = sum(one["count"] for one in events if one["reason"] == "Founded")
    assert founded == 1, "in all their lives"
