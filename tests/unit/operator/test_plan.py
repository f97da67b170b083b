"""What the operator decides, against a cluster in memory (model_cluster.py): how a cluster comes to
be, grows and shrinks, is changed pod by pod, and heals; and that nothing is asked for twice.

Not here: Kubernetes itself, and real nodes; tests/e2e has both.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from unit.operator.model_cluster import ModelCluster

from kube_operator import actions
from kube_operator.database import DatabaseView
from kube_operator.kube_port import DEPLOYMENT, POD, SECRET, SERVICE, VOLUME_CLAIM
from kube_operator.manifests.pods import Images, revision_of
from kube_operator.names import (
    PRIMARY,
    REPLICA,
    ROLE_LABEL,
    SERVING,
    SERVING_LABEL,
    SILENT,
    SWITCHOVER,
    SWITCHOVER_RESULT,
    Component,
)
from kube_operator.plan import plan
from kube_operator.plan_nodes import wanted_pod
from kube_operator.plan_objects import plan_gateways

SEEDS = (*range(12), 52, 58, 1156)  # the last three once found something


def settled(**spec: Any) -> ModelCluster:
    cluster = ModelCluster(1, **spec)
    cluster.settle()
    return cluster


def roles(cluster: ModelCluster) -> dict[str, str | None]:
    pods = cluster.observed().pods(Component.COMPUTE)
    return {name: pod["metadata"]["labels"].get(ROLE_LABEL) for name, pod in pods.items()}


def all_are_new(cluster: ModelCluster) -> bool:
    seen = cluster.observed()
    return all(
        revision_of(pod) == revision_of(wanted_pod(seen, component, name) or {})
        for component in (Component.LOG, Component.STORAGE, Component.COMPUTE)
        for name, pod in seen.pods(component).items()
    )


def test_a_new_cluster_comes_to_be() -> None:
    cluster = settled()
    nodes = [name for name in sorted(cluster.objects[POD]) if "-gateway-" not in name]
    assert nodes == [
        "pg-compute-1", "pg-compute-2", "pg-log-1", "pg-log-2", "pg-log-3", "pg-storage-1",
        "pg-storage-2",
    ]  # fmt: skip
    assert sorted(roles(cluster).values(), key=str) == [PRIMARY, REPLICA]
    assert cluster.objects[DEPLOYMENT].keys() == {"pg-gateway"}
    assert {"pg", "pg-primary", "pg-replicas"} <= cluster.objects[SERVICE].keys()
    assert cluster.status.phase == "Running"
    assert {one.type: one.status.value for one in cluster.status.conditions} == {
        "Ready": "True", "Progressing": "False", "Degraded": "False",
        "ContinuousArchiving": "False",
    }  # fmt: skip


def test_a_settled_cluster_is_left_alone() -> None:
    cluster = settled()
    status = cluster.status
    for _ in range(20):
        assert cluster.step().actions == ()
        assert cluster.status == status


def test_nothing_is_founded_before_all_nodes_answer() -> None:
    cluster = ModelCluster(2)
    for _ in range(5):
        made = cluster.step()
        assert actions.Found() not in made.actions
    cluster.live(hurry=True)
    assert actions.Found() in plan(cluster.observed()).actions


def test_a_database_that_is_lost_is_not_made_anew() -> None:
    cluster = settled()
    for node in ("pg-log-1", "pg-log-2", "pg-log-3"):
        cluster.lose_disk(node)
    for _ in range(10):
        cluster.live(hurry=True)
        assert actions.Found() not in cluster.step().actions
    assert cluster.status.phase == "No quorum"


def test_scale_adds_and_removes_replicas_never_the_primary() -> None:
    cluster = settled()
    cluster.raw["computes"] = 4
    cluster.settle()
    assert sorted(roles(cluster).values(), key=str) == [PRIMARY] + [REPLICA] * 3
    cluster.carry_out(actions.SwitchOver("pg-compute-3"))
    cluster.settle()
    cluster.raw["computes"] = 1
    cluster.settle()
    assert roles(cluster) == {"pg-compute-3": PRIMARY}
    assert "pg-compute-4-tls" not in cluster.objects[SECRET]


def test_the_log_grows_and_shrinks_one_by_one() -> None:
    cluster = settled(logNodes={"count": 1})
    before = cluster.objects[POD]["pg-compute-1"]["metadata"]["uid"]
    cluster.raw["logNodes"] = {"count": 3}
    cluster.settle()
    assert cluster.members.keys() == {"pg-log-1", "pg-log-2", "pg-log-3"}
    cluster.carry_out(actions.Transfer("pg-log-3"))
    cluster.raw["logNodes"] = {"count": 1}
    cluster.settle()
    assert cluster.members.keys() == {"pg-log-1"}
    assert sorted(cluster.objects[VOLUME_CLAIM]) == ["pg-log-1", "pg-storage-1", "pg-storage-2"]
    # Nobody else was restarted for it.
    assert cluster.objects[POD]["pg-compute-1"]["metadata"]["uid"] == before


def test_a_log_node_without_its_disk_becomes_another_member() -> None:
    cluster = settled()
    old = cluster.members["pg-log-2"]
    cluster.lose_disk("pg-log-2")
    cluster.settle()
    assert cluster.members.keys() == {"pg-log-1", "pg-log-2", "pg-log-3"}
    assert cluster.members["pg-log-2"] != old


def test_a_storage_node_without_its_disk_is_filled_from_the_other() -> None:
    cluster = settled()
    cluster.lose_disk("pg-storage-1")
    cluster.settle()
    assert all(cluster.observed().database.storage_nodes.values())


def test_new_settings_replace_replicas_then_the_primary_after_a_switchover() -> None:
    cluster = settled(computes=3)
    first = cluster.primary
    order = []
    cluster.raw["settings"] = {"work_mem": "8MB"}
    for _ in range(60):
        made = cluster.step()
        order += [a for a in made.actions if isinstance(a, actions.Remove | actions.SwitchOver)]
        cluster.live(hurry=True)
    assert all_are_new(cluster)
    names = [a.to if isinstance(a, actions.SwitchOver) else a.name for a in order]
    kinds = [type(a).__name__ for a in order]
    assert kinds == ["Remove", "Remove", "SwitchOver", "Remove"]
    assert names[3] == first
    assert first not in names[:3]


def test_a_single_compute_is_replaced_with_another_one_beside_it() -> None:
    cluster = settled(computes=1)
    cluster.raw["settings"] = {"work_mem": "8MB"}
    cluster.settle()
    assert all_are_new(cluster)
    assert roles(cluster) == {"pg-compute-2": PRIMARY}


def test_another_image_replaces_all_the_leader_of_the_log_last() -> None:
    cluster = settled()
    first = cluster.leader
    removed = []
    cluster.images = Images(seawall="seawall/seawall:2", compute="seawall/compute:2-pg17")
    for _ in range(120):
        made = cluster.step()
        removed += [a.name for a in made.actions if isinstance(a, actions.Remove)]
        cluster.live(hurry=True)
    assert all_are_new(cluster)
    logs = [name for name in removed if "-log-" in name]
    assert logs[-1] == first
    assert len(logs) == 3
    assert [name.split("-")[1] for name in removed] == sorted(
        (name.split("-")[1] for name in removed), key=["log", "storage", "compute"].index
    )


def test_a_rollout_waits_while_anything_is_not_well() -> None:
    cluster = settled()
    cluster.kill_pod("pg-storage-2")
    cluster.raw["settings"] = {"work_mem": "8MB"}
    made = cluster.step()
    assert not [a for a in made.actions if isinstance(a, actions.Remove)]
    assert made.rollout.outdated


def test_a_paused_cluster_is_only_marked() -> None:
    cluster = settled()
    cluster.raw |= {"paused": True, "computes": 5}
    cluster.carry_out(actions.SwitchOver("pg-compute-2"))
    made = cluster.step()
    assert {type(one) for one in made.actions} == {actions.Mark}
    assert cluster.status.phase == "Paused"


def test_the_service_goes_past_a_gateway_that_is_silent_if_another_one_is_not() -> None:
    def marks(**answers: bool) -> list[actions.Action]:
        pods = {
            name: {"metadata": {"labels": {SERVING_LABEL: SERVING}}} for name in ("one", "other")
        }
        seen = ModelCluster(1).observed()
        seen = replace(
            seen, objects={**seen.objects, POD: pods}, database=DatabaseView(gateways=answers)
        )
        return list(plan_gateways(seen))

    assert marks(one=True, other=True) == []
    assert marks(one=True, other=False) == [actions.Mark("other", SERVING_LABEL, SILENT)]
    assert marks(one=False, other=False) == [], "it may well be us who reach nobody"


def answered(cluster: ModelCluster, request: str, *, steps: int = 6) -> str:
    cluster.annotations = {SWITCHOVER: request}
    for _ in range(steps):
        cluster.step()
        cluster.live(hurry=True)
    assert SWITCHOVER not in cluster.annotations
    return cluster.annotations[SWITCHOVER_RESULT]


@pytest.mark.parametrize("request_", ["pg-compute-3", " pg-compute-3 ", "any"])
def test_a_switchover_that_is_asked_for_is_made_once_and_answered(request_: str) -> None:
    cluster = settled(computes=3)
    first = cluster.primary
    result = answered(cluster, request_)
    assert result == f"{cluster.primary} is the primary."
    assert cluster.switchovers == [cluster.primary]
    assert cluster.primary != first
    assert cluster.step().actions == ()


@pytest.mark.parametrize(
    ("spec", "request_", "why"),
    [
        ({}, "pg-compute-7", "there is no compute 'pg-compute-7'."),
        ({}, "pg-log-1", "there is no compute 'pg-log-1'."),
        ({}, "", "there is no compute ''."),
        ({}, "pg-compute-1", "pg-compute-1 is the primary already."),
        ({"computes": 1}, "any", "there is no replica that could become the primary."),
        ({"paused": True}, "any", "spec.paused is true."),
    ],
)
def test_a_switchover_that_cannot_be_is_refused(
    spec: dict[str, Any], request_: str, why: str
) -> None:
    cluster = settled(**{**spec, "paused": False})
    cluster.raw |= spec
    assert cluster.primary == "pg-compute-1"
    assert answered(cluster, request_) == f"Refused: {why}"
    assert cluster.switchovers == []


def test_a_switchover_is_not_made_again_by_an_operator_that_comes_after() -> None:
    cluster = settled(computes=3)
    cluster.annotations = {SWITCHOVER: "any"}
    cluster.step()
    (made,) = plan(cluster.observed()).actions
    assert isinstance(made, actions.SwitchOver)
    cluster.carry_out(made)  # and here the operator dies: the next one sees the rest
    assert answered(cluster, cluster.annotations[SWITCHOVER]) == f"{made.to} is the primary."
    assert cluster.switchovers == [made.to]


def test_a_failover_ends_a_switchover_that_is_under_way() -> None:
    cluster = settled(computes=3)
    cluster.annotations = {SWITCHOVER: "pg-compute-3"}
    cluster.step()
    cluster.primary, cluster.epoch = "pg-compute-2", cluster.epoch + 1
    result = answered(cluster, cluster.annotations[SWITCHOVER])
    assert result == "Refused: pg-compute-2 became the primary before pg-compute-3 could."
    assert cluster.switchovers == []


def test_a_switchover_waits_for_its_compute_but_not_for_ever() -> None:
    cluster = settled(computes=3)
    cluster.objects[POD]["pg-compute-3"]["status"] = {}
    cluster.annotations = {SWITCHOVER: "pg-compute-3"}
    for _ in range(50):
        assert not [a for a in cluster.step().actions if isinstance(a, actions.SwitchOver)]
    assert SWITCHOVER in cluster.annotations
    for _ in range(20):
        cluster.step()
    assert "did not become the primary within 60 s" in cluster.annotations[SWITCHOVER_RESULT]


def test_a_switchover_waits_while_nobody_leads_the_log() -> None:
    cluster = settled()
    for node in ("pg-log-1", "pg-log-2"):
        cluster.kill_pod(node)
    cluster.annotations = {SWITCHOVER: "any"}
    cluster.step()
    assert cluster.annotations == {SWITCHOVER: "any"}
    assert answered(cluster, "any", steps=20) == "pg-compute-2 is the primary."


@pytest.mark.parametrize("seed", SEEDS)
def test_one_request_makes_at_most_one_primary_whatever_happens(seed: int) -> None:
    """Requests, losses, changes of the specification, and operators that stop half way."""
    cluster = ModelCluster(seed)
    cluster.settle()
    rng = cluster.rng
    for _ in range(20):
        done = len(cluster.switchovers)
        is_rolling = bool(plan(cluster.observed()).rollout.outdated)
        cluster.annotations = {SWITCHOVER: rng.choice(["any", "pg-compute-1", "pg-compute-2"])}
        for _ in range(rng.randrange(8)):
            made = plan(cluster.observed()).actions
            cluster.now += timedelta(seconds=1)
            for action in made[: rng.randrange(len(made) + 1)]:
                cluster.carry_out(action)
            cluster.live()
        assert is_rolling or len(cluster.switchovers) <= done + 1
        disturb(cluster)
    cluster.settle()
    assert SWITCHOVER not in cluster.annotations
    assert cluster.status.phase == "Running"


def test_without_gateways_there_is_nothing_of_them() -> None:
    cluster = settled(gateway={"replicas": 0})
    assert not cluster.objects[DEPLOYMENT]
    assert "pg" not in cluster.objects[SERVICE]
    cluster.raw["gateway"] = {"replicas": 1}
    cluster.settle()
    assert cluster.objects[DEPLOYMENT]
    cluster.raw["gateway"] = {"replicas": 0}
    cluster.settle()
    assert not cluster.objects[DEPLOYMENT]


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_it_heals_and_keeps_its_promises(seed: int) -> None:
    """Pods and disks go, specifications change, at any moment: the model refuses what must never
    be done, and in the end everything is as it was asked for.
    """
    cluster = ModelCluster(seed)
    cluster.settle()
    rng = cluster.rng
    for _ in range(20):
        for _ in range(rng.randrange(6)):
            cluster.step()
            cluster.live()
        disturb(cluster)
    cluster.settle()
    spec = cluster.spec
    assert len(cluster.members) == spec.log_nodes.count
    assert len(cluster.observed().pods(Component.COMPUTE)) == spec.computes
    assert sorted(roles(cluster).values(), key=str) == [PRIMARY] + [REPLICA] * (spec.computes - 1)
    assert all_are_new(cluster)
    assert cluster.status.phase == "Running"


def disturb(cluster: ModelCluster) -> None:
    rng = cluster.rng
    # More than one log node at a time is more than is promised to be survived.
    is_well = set(cluster._active()) == set(cluster.members)
    logs = cluster._running(Component.LOG)
    storages = cluster._running(Component.STORAGE)
    computes = cluster._running(Component.COMPUTE)
    match rng.randrange(8):
        case 0 if is_well and logs:
            cluster.kill_pod(rng.choice(logs))
        case 1 if is_well and len(cluster.members) >= 3:
            cluster.lose_disk(rng.choice(list(cluster.members)))
        case 2 if computes:
            cluster.kill_pod(rng.choice(computes))
        case 3 if len(storages) == 2 and all(cluster._disk(n) == "branch" for n in storages):
            cluster.lose_disk(rng.choice(storages))
        case 4:
            cluster.raw["computes"] = rng.randrange(1, 5)
        case 5:
            cluster.raw["settings"] = {"work_mem": f"{rng.randrange(1, 9)}MB"}
        case 6:
            cluster.raw["logNodes"] = {"count": rng.choice([3, 3, 5])}
        case _:
            cluster.images = Images(seawall=f"s:{rng.randrange(3)}", compute="c:1")
