"""What becomes of a cluster's data when it is deleted, and of another cluster of its name: against
a cluster in memory (model_cluster.py), and for the end itself against an API server over HTTP.
"""

from __future__ import annotations

import copy
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from fixtures.kube_api import KubeApi
from unit.fabric.rpc_world import in_loop
from unit.operator.model_cluster import ModelCluster

from kube_operator import actions
from kube_operator.events import EventRecorder
from kube_operator.kube_port import (
    CLUSTER,
    OWNED,
    POD,
    SECRET,
    SERVICE,
    VOLUME_CLAIM,
    Key,
    Kind,
    Refused,
)
from kube_operator.lightkube_port import LightkubePort
from kube_operator.names import DATA_VERSION, IDENTITY, KEEPER, ROTATE, SWITCHOVER, Names
from kube_operator.ownership import owner_of, reference
from kube_operator.plan import plan
from kube_operator.reconciler import ClusterReconciler
from kube_operator.runtime import Outcome, View
from kube_operator.settings import OperatorSettings
from kube_operator.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RETAIN = {"deletionPolicy": "Retain"}
KEPT = {
    "pg-log-1", "pg-log-2", "pg-log-3", "pg-storage-1", "pg-storage-2", "pg-ca", "pg-superuser",
    "pg-internal",
}  # fmt: skip


def settled(**spec: Any) -> ModelCluster:
    cluster = ModelCluster(1, **spec)
    cluster.settle()
    return cluster


def things(cluster: ModelCluster) -> dict[str, Any]:
    """Return all there is but gateways, whose pods are their ReplicaSet's."""
    return {
        f"{kind.kind} {name}": thing
        for kind in OWNED
        for name, thing in cluster.objects[kind].items()
        if owner_of(thing) is not None
    }


def left(cluster: ModelCluster) -> set[str]:
    return {one.split()[1] for one in things(cluster)}


def founded(cluster: ModelCluster) -> int:
    """Settle, and count how often a database is made."""
    count = 0
    for _ in range(60):
        count += actions.Found() in cluster.step().actions
        cluster.live(hurry=True)
    assert cluster.status.phase == "Running"
    return count


# --- The cluster that is deleted ------------------------------------------------------------------


def test_without_a_policy_all_goes_and_nothing_holds_it_up() -> None:
    cluster = settled()
    assert cluster.finalizers == ()
    assert {owner_of(one) for one in things(cluster).values()} == {"uid"}
    cluster.delete(with_operator=False)
    cluster.collect()
    assert left(cluster) == set()


def test_what_is_retained_is_nobodys_and_all_else_goes() -> None:
    cluster = settled(**RETAIN)
    assert cluster.finalizers == (KEEPER,)
    cluster.delete()
    cluster.collect()
    assert left(cluster) == KEPT


def test_what_is_retained_stays_even_if_dependents_go_first() -> None:
    """`--cascade=foreground` waits for no finalizer of ours."""
    cluster = settled(**RETAIN)
    cluster.uid = "another"
    cluster.collect()
    assert left(cluster) == KEPT


def test_another_policy_counts_at_once_and_the_finalizer_goes_last() -> None:
    cluster = settled()
    cluster.raw |= RETAIN
    cluster.settle()
    assert KEEPER in cluster.finalizers
    free = {name.split()[1] for name, one in things(cluster).items() if owner_of(one) == ""}
    assert free == KEPT
    cluster.raw["deletionPolicy"] = "Delete"
    assert actions.Hold(False) not in cluster.step().actions
    cluster.settle()
    assert KEEPER not in cluster.finalizers
    assert {owner_of(one) for one in things(cluster).values()} == {"uid"}
    assert cluster.step().actions == ()


def test_a_policy_that_was_changed_while_no_operator_ran_counts_at_the_end() -> None:
    cluster = settled(**RETAIN)
    cluster.raw["deletionPolicy"] = "Delete"
    cluster.delete()
    cluster.collect()
    assert left(cluster) == set()


@pytest.mark.parametrize("steps", range(12))
def test_a_cluster_may_be_deleted_while_it_comes_to_be(steps: int) -> None:
    cluster = ModelCluster(3, **RETAIN)
    for _ in range(steps):
        cluster.step()
        cluster.live()
    was_founded = cluster.is_founded
    cluster.delete()
    cluster.collect()
    assert left(cluster) <= KEPT
    assert founded(cluster) == (0 if was_founded else 1)


# --- The cluster that comes after it --------------------------------------------------------------


def test_a_cluster_of_the_same_name_takes_the_data_over() -> None:
    cluster = settled(**RETAIN)
    members, ca = dict(cluster.members), cluster.objects[SECRET]["pg-ca"]["data"]
    password = cluster.objects[SECRET]["pg-superuser"]["data"]["password"]
    cluster.delete()
    cluster.collect()
    cluster.raw["deletionPolicy"] = "Delete"
    assert founded(cluster) == 0
    assert cluster.status.system_identifier == "7"
    assert cluster.members == members
    assert cluster.objects[SECRET]["pg-ca"]["data"] == ca
    assert cluster.objects[SECRET]["pg-superuser"]["data"]["password"] == password
    assert {owner_of(one) for one in things(cluster).values()} == {cluster.uid}


def test_no_database_is_made_before_the_log_that_was_kept_has_elected_a_leader() -> None:
    cluster = settled(**RETAIN)
    cluster.delete()
    cluster.collect()
    for _ in range(20):
        cluster.step()
        cluster.live(hurry=True)
        cluster.members = dict.fromkeys(cluster.members, -1)  # nobody leads yet
        assert actions.Found() not in plan(cluster.observed()).actions


def test_volumes_say_of_which_database_they_are() -> None:
    cluster = settled()
    claims = cluster.objects[VOLUME_CLAIM].values()
    assert {one["metadata"]["annotations"][IDENTITY] for one in claims} == {"7"}
    cluster.lose_disk("pg-log-2")
    cluster.settle()
    made = cluster.objects[VOLUME_CLAIM]["pg-log-2"]
    assert made["metadata"]["annotations"][IDENTITY] == "7"
    made["spec"]["resources"]["requests"]["storage"] = "5Gi"
    cluster.settle()
    assert cluster.objects[VOLUME_CLAIM]["pg-log-2"]["metadata"]["annotations"][IDENTITY] == "7"


def test_volumes_say_for_which_version_they_were_made() -> None:
    cluster = settled(**RETAIN)
    claims = cluster.objects[VOLUME_CLAIM]
    assert {one["metadata"]["annotations"][DATA_VERSION] for one in claims.values()} == {"17"}
    del claims["pg-log-1"]["metadata"]["annotations"][DATA_VERSION]
    cluster.settle()
    assert claims["pg-log-1"]["metadata"]["annotations"][DATA_VERSION] == "17"


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_a_cluster_of_another_version_is_refused_and_touches_nothing(policy: str) -> None:
    cluster = settled(**RETAIN)
    cluster.delete()
    cluster.collect()
    before, writes = copy.deepcopy(cluster.objects), cluster.writes
    cluster.raw |= {"version": 18, "deletionPolicy": policy}
    for _ in range(5):
        cluster.annotations = {SWITCHOVER: "any", ROTATE: "now"}
        assert cluster.step().actions == ()
    assert (cluster.objects, cluster.writes, cluster.finalizers) == (before, writes, ())
    cluster.delete()
    cluster.collect()
    cluster.raw["version"] = 17
    assert founded(cluster) == 0, "and the right one has it"


def test_who_is_refused_is_told_which_field_and_which_version() -> None:
    cluster = settled(**RETAIN)
    cluster.delete()
    cluster.collect()
    cluster.raw["version"] = 18
    cluster.step()
    assert cluster.status.phase == "Refused"
    ready, progressing, degraded = cluster.status.conditions[:3]
    assert (ready.status, ready.reason) == ("False", "Refused")
    assert (progressing.status, degraded.status) == ("False", "True")
    for one in (ready, progressing, degraded):
        assert "spec.version is 18" in one.message
        assert "pg-log-1" in one.message
        assert "version 17" in one.message


def test_who_is_refused_makes_a_database_when_the_volumes_are_gone() -> None:
    cluster = settled(**RETAIN)
    cluster.delete()
    cluster.collect()
    cluster.raw["version"] = 18
    cluster.step()
    cluster.objects[VOLUME_CLAIM].clear()
    cluster.collect()
    assert founded(cluster) == 1
    claims = cluster.objects[VOLUME_CLAIM].values()
    assert {one["metadata"]["annotations"][DATA_VERSION] for one in claims} == {"18"}


def test_volumes_that_say_no_version_are_taken_over_and_say_it_once_they_serve() -> None:
    cluster = settled(**RETAIN)
    cluster.delete()
    cluster.collect()
    claims = cluster.objects[VOLUME_CLAIM].values()
    for claim in claims:
        del claim["metadata"]["annotations"][DATA_VERSION]
    cluster.raw["version"] = 18
    cluster.step()
    assert not any(DATA_VERSION in one["metadata"]["annotations"] for one in claims)
    assert founded(cluster) == 0
    assert {one["metadata"]["annotations"][DATA_VERSION] for one in claims} == {"18"}


def test_a_new_cluster_waits_until_nothing_is_left_of_the_last_one_of_its_name() -> None:
    cluster = settled()
    cluster.delete(with_operator=False)
    for _ in range(5):
        assert cluster.step().actions == ()
        assert cluster.status.system_identifier == "", "that one is not ours"
    progressing = next(one for one in cluster.status.conditions if one.type == "Progressing")
    assert (progressing.status, progressing.reason) == ("True", "Waiting")
    cluster.collect()
    assert founded(cluster) == 1


def test_what_was_orphaned_is_taken_over_as_it_runs() -> None:
    cluster = settled()
    pods = {name: pod["metadata"]["uid"] for name, pod in cluster.objects[POD].items()}
    for thing in things(cluster).values():
        thing["metadata"]["ownerReferences"] = []  # kubectl delete --cascade=orphan
    cluster.delete(with_operator=False)
    assert founded(cluster) == 0
    assert pods == {name: pod["metadata"]["uid"] for name, pod in cluster.objects[POD].items()}
    assert {owner_of(one) for one in things(cluster).values()} == {cluster.uid}


# --- The end, over HTTP ---------------------------------------------------------------------------


class Ending:
    """A cluster that is being deleted, whose nodes nobody can reach."""

    def __init__(self, api: KubeApi, spec: dict[str, Any]) -> None:
        self.api, self.names = api, Names("pg", "ns")
        metadata = {"namespace": "ns", "name": "pg", "finalizers": ["theirs", KEEPER]}
        cluster = api.kube.put(CLUSTER.plural, {"metadata": metadata, "spec": spec})
        self.uid = cluster["metadata"]["uid"]
        cluster["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        cluster["status"] = {"systemIdentifier": "7"}
        for kind, name in ((VOLUME_CLAIM, "pg-log-1"), (SECRET, "pg-ca"), (SERVICE, "pg")):
            self.put(kind, name)
        self.port = LightkubePort(api.config())
        self.events = EventRecorder(
            self.port, instance="me", wall_clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)
        )

    def put(self, kind: Kind, name: str) -> None:
        """Have something be there that the cluster owns."""
        owner = reference(self.names, self.uid)
        metadata = {
            "namespace": "ns", "name": name, "labels": self.names.labels(),
            "ownerReferences": [owner],
        }  # fmt: skip
        self.api.kube.put(kind.plural, {"metadata": metadata})

    async def look(self) -> Outcome:
        """Have the operator look at it once."""
        stores = {kind: Store(kind, is_cluster=kind == CLUSTER) for kind in (CLUSTER, *OWNED)}
        for kind, store in stores.items():
            found = await self.port.list(kind)
            store.listed(found.items, found.resource_version)
        settings = OperatorSettings(identity="me", image_seawall="seawall:1")
        reconciler = ClusterReconciler(self.port, self.events, settings, wake=lambda _: None)
        return await reconciler.reconcile(Key("ns", "pg"), View(Key("ns", "pg"), stores))

    @property
    def finalizers(self) -> list[str]:
        """That the cluster has still."""
        (cluster,) = self.api.kube.of(CLUSTER.plural)
        found: list[str] = cluster["metadata"].get("finalizers", [])
        return found

    def owned(self) -> set[str]:
        """Return what would go with it."""
        everything = [thing for kind in OWNED for thing in self.api.kube.of(kind.plural)]
        return {one["metadata"]["name"] for one in everything if owner_of(one) == self.uid}


@asynccontextmanager
async def ending(**spec: Any) -> AsyncIterator[Ending]:
    async with KubeApi() as api:
        world = Ending(api, spec)
        try:
            yield world
        finally:
            await world.port.close()


@in_loop
async def test_the_end_lets_go_of_what_is_retained() -> None:
    async with ending(version=17, deletionPolicy="Retain") as world:
        await world.look()
        assert world.finalizers == ["theirs"]
        assert world.owned() == {"pg"}
        (claim,) = world.api.kube.of(VOLUME_CLAIM.plural)
        assert claim["metadata"]["annotations"] == {IDENTITY: "7"}
        await world.look()


@in_loop
async def test_a_cluster_that_is_refused_says_so_and_is_not_looked_at_again() -> None:
    async with ending(version=18, images={"compute": "compute:1"}) as world:
        (cluster,) = world.api.kube.of(CLUSTER.plural)
        del cluster["metadata"]["deletionTimestamp"], cluster["status"]
        (claim,) = world.api.kube.of(VOLUME_CLAIM.plural)
        claim["metadata"] |= {"ownerReferences": [], "annotations": {DATA_VERSION: "17"}}
        outcome = await world.look()
        assert outcome.requeue_after_s is None
        (cluster,) = world.api.kube.of(CLUSTER.plural)
        assert cluster["status"]["phase"] == "Refused"
        assert "systemIdentifier" not in cluster["status"]
        assert world.api.kube.of(VOLUME_CLAIM.plural) == [claim]


@in_loop
async def test_the_end_takes_back_what_is_retained_no_more() -> None:
    async with ending(version=17) as world:
        (claim,) = world.api.kube.of(VOLUME_CLAIM.plural)
        claim["metadata"]["ownerReferences"] = []
        await world.look()
        assert world.finalizers == ["theirs"]
        assert world.owned() == {"pg", "pg-ca", "pg-log-1"}


@pytest.mark.parametrize("spec", [{}, {"version": "x"}, {"version": 17, "paused": True}])
@in_loop
async def test_the_end_comes_whatever_else_is_wrong(spec: dict[str, Any]) -> None:
    async with ending(**spec) as world:
        await world.look()
        assert world.finalizers == ["theirs"]


@in_loop
async def test_data_that_cannot_be_kept_keeps_the_cluster() -> None:
    async with ending(version=17, deletionPolicy="Retain") as world:
        world.api.fail(403, matching="persistentvolumeclaims/pg-log-1")
        with pytest.raises(Refused):
            await world.look()
        assert KEEPER in world.finalizers
        await world.look()
        assert world.finalizers == ["theirs"]
