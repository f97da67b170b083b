"""Which pods a rollout takes that are not ready: what is wrong with them may be what was changed.

In scope: that Kubernetes' word is not taken for a compute that works. The order of a rollout in
which all is well is in test_plan.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from unit.operator.model_cluster import ModelCluster

from kube_operator import actions
from kube_operator.kube_port import POD
from kube_operator.names import Component
from kube_operator.plan_rollout import plan_rollout
from log_service.compute_methods import ComputeState

if TYPE_CHECKING:
    from kube_operator.observed import Observed


def changed(**spec: object) -> ModelCluster:
    """A cluster whose computes are all to be replaced."""
    cluster = ModelCluster(1, **spec)
    cluster.settle()
    cluster.raw["settings"] = {"work_mem": "8MB"}
    return cluster


def not_ready(cluster: ModelCluster, *names: str) -> None:
    """Have Kubernetes say of computes that they are not ready."""
    for name in names:
        for condition in cluster.objects[POD][name]["status"]["conditions"]:
            condition["status"] = "False"


def starting(seen: Observed, *names: str) -> Observed:
    """Have computes say of themselves that they come up."""
    computes = tuple(
        msgspec.structs.replace(one, state=ComputeState.STARTING) if one.name in names else one
        for one in seen.database.computes
    )
    return replace(seen, database=replace(seen.database, computes=computes))


def removed(seen: Observed) -> str | None:
    action = plan_rollout(seen).action
    return action.name if isinstance(action, actions.Remove) else None


def test_primary_that_kubernetes_sees_late_stays() -> None:
    cluster = changed(computes=2)
    assert cluster.primary is not None
    not_ready(cluster, cluster.primary)
    assert removed(cluster.observed()) is None


def test_replica_that_is_not_ready_goes_while_the_primary_works() -> None:
    cluster = changed(computes=2)
    (replica,) = set(cluster.observed().pods(Component.COMPUTE)) - {cluster.primary}
    not_ready(cluster, replica)
    assert removed(starting(cluster.observed(), replica)) == replica


def test_while_nobody_works_one_goes_and_the_others_wait_for_its_successor() -> None:
    cluster = changed(computes=2)
    names = sorted(cluster.observed().pods(Component.COMPUTE))
    not_ready(cluster, *names)
    first = removed(starting(cluster.observed(), *names))
    assert first in names, "what is wrong may be what was changed"
    cluster.kill_pod(first)
    cluster.step()  # makes its successor, which is not there yet
    assert removed(starting(cluster.observed(), *names)) is None
