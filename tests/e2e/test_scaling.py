"""The number of computes, changed by people and by Kubernetes' autoscaler, while clients write.

In scope: the scale subresource as others use it, and that whoever writes notices nothing. Out of
scope: what a load does, since there are no metrics here: an autoscaler acts on its limits without.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from e2e.operator_world import Cluster, new_space, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.kubernetes import Kubernetes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

API = "seawall.dev/v1alpha1"


@pytest.fixture(scope="module")
def cluster(operator: Kubernetes) -> Iterator[Cluster]:
    with new_space(operator, "scaling") as space:
        cluster = Cluster(operator, space, "pg")
        cluster.apply()
        cluster.settle()
        yield cluster


def scale_to(cluster: Cluster, count: int) -> None:
    """Ask for so many computes, and wait until there are."""
    cluster.kubectl("scale", "swpg/pg", f"--replicas={count}")
    cluster.settle()
    assert len(cluster.pods("compute")) == count


def autoscale(cluster: Cluster, least: int, most: int) -> None:
    """Have an autoscaler keep the number of computes within limits."""
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "pg"},
        "spec": {
            "scaleTargetRef": {"apiVersion": API, "kind": "PostgresCluster", "name": "pg"},
            "minReplicas": least,
            "maxReplicas": most,
        },
    }
    cluster.kubectl("apply", "-f", "-", given=json.dumps(autoscaler))


def await_computes(cluster: Cluster, count: int) -> None:
    """Wait until somebody has asked for so many computes, and they are there."""
    until(lambda: cluster.get()["spec"]["computes"] == count, f"{count} computes to be asked for")
    cluster.settle()
    assert len(cluster.pods("compute")) == count


def scale_of(cluster: Cluster) -> dict[str, Any]:
    """Return the scale subresource."""
    path = f"/apis/{API}/namespaces/{cluster.namespace}/postgresclusters/{cluster.name}/scale"
    found: dict[str, Any] = json.loads(cluster.kubectl("get", "--raw", path))
    return found


def test_scale_subresource_counts_and_selects_the_computes(cluster: Cluster) -> None:
    scale = scale_of(cluster)
    assert scale["spec"]["replicas"] == scale["status"]["replicas"] == 2
    found = json.loads(
        cluster.kubectl("get", "pods", "-l", scale["status"]["selector"], "-o", "json")
    )
    names = {pod["metadata"]["name"] for pod in found["items"]}
    assert names == set(cluster.pods("compute"))


def test_replicas_come_and_go_and_the_primary_stays(cluster: Cluster) -> None:
    scale_to(cluster, 1)
    primary = cluster.primary()
    with cluster.writing() as writer:
        scale_to(cluster, 3)
        assert cluster.ask("select pg_is_in_recovery()", "-replicas") is True
        scale_to(cluster, 1)
        writer.wait_for_more()
    assert (cluster.primary(), writer.connections, writer.errors) == (primary, 1, [])


def test_new_replicas_have_what_was_written_before_they_came(cluster: Cluster) -> None:
    scale_to(cluster, 1)
    with cluster.writing():
        scale_to(cluster, 2)
    written = cluster.ask("select count(*) from written")
    until(
        lambda: cluster.ask("select count(*) from written", "-replicas") == written,
        "a replica that has everything",
    )


def test_autoscaler_raises_and_lowers_the_number_of_computes(cluster: Cluster) -> None:
    scale_to(cluster, 2)
    with cluster.writing() as writer:
        try:
            autoscale(cluster, 3, 4)
            await_computes(cluster, 3)
            cluster.apply()  # a manifest that leaves the number open, as with an autoscaler it must
            cluster.settle()
            assert len(cluster.pods("compute")) == 3
            autoscale(cluster, 1, 2)
            await_computes(cluster, 2)
        finally:
            cluster.kubectl("delete", "hpa", "pg", "--ignore-not-found")
    assert writer.connections == 1


def test_people_take_over_from_the_autoscaler(cluster: Cluster) -> None:
    autoscale(cluster, 3, 3)
    await_computes(cluster, 3)
    cluster.kubectl("delete", "hpa", "pg")
    scale_to(cluster, 1)
    scale_to(cluster, 2)
