"""A cluster in memory: a Kubernetes that starts pods sometime, and a database that runs in them.

The plan sees it through `observed`, and its actions change it. What must never happen is checked
where it would: `carry_out` refuses an action that would cost a majority, a page or the primary.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fabric.ids import BranchName, Epoch, NodeName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from kube_operator import actions
from kube_operator.cluster_status import ClusterStatus
from kube_operator.database import DatabaseView
from kube_operator.kube_port import (
    CLUSTER,
    DEPLOYMENT,
    OWNED,
    POD,
    SECRET,
    VOLUME_CLAIM,
    Json,
    Kind,
)
from kube_operator.manifests.pods import Images
from kube_operator.names import (
    KEEPER,
    ROTATE,
    ROTATE_RESULT,
    SWITCHOVER,
    SWITCHOVER_RESULT,
    Component,
    Names,
)
from kube_operator.observed import Observed
from kube_operator.ownership import is_kept, owner_of, reference
from kube_operator.plan import Plan, plan
from kube_operator.plan_ownership import leftovers, plan_farewell
from kube_operator.plan_status import status_of
from kube_operator.spec import ClusterSpec, decode_spec
from log_service.compute_methods import ComputeInfo, ComputeState
from log_service.methods import GroupStatus, MemberStatus, Topology
from log_service.record_bodies import Holder, MemberInfo
from storage.methods import BranchStatus

from .model_secrets import change_secrets
from .model_trust import GatewayController, Processes, merge, require, secret_of

if TYPE_CHECKING:
    from collections.abc import Mapping

BRANCH = BranchName("main")
IMAGES = Images(seawall="seawall/seawall:1", compute="seawall/compute:1-pg17")
START = datetime(2026, 1, 1, tzinfo=UTC)


class ModelCluster:
    """One cluster `pg` in namespace `ns`."""

    def __init__(self, seed: int, **spec: Any) -> None:
        self.rng = random.Random(seed)
        self.names = Names("pg", "ns")
        self.raw: dict[str, Any] = {"version": 17, **spec}
        self.images = IMAGES
        self.status = ClusterStatus()
        self.now = START
        self.objects: dict[Kind, dict[str, Json]] = {kind: {} for kind in OWNED}
        self.disks: dict[str, str | int] = {}  # by claim's uid: a member's number, or "branch"
        self.members: dict[str, int] = {}
        self.leader: str | None = None
        self.primary: str | None = None
        self.epoch = 1
        self.uid = "uid"
        self.annotations: dict[str, str] = {}
        self.finalizers: tuple[str, ...] = ()
        self.processes = Processes()
        self.rotations: list[str] = []
        self.switchovers: list[str] = []
        self.is_founded = False
        self.writes = 0
        self._serial = 0

    @property
    def spec(self) -> ClusterSpec:
        """As the user has it by now."""
        return decode_spec(self.raw)

    # --- What the plan sees --------------------------------------------------------------------

    def observed(self) -> Observed:
        """Return all of it."""
        is_free = not leftovers(self.uid, self.objects)
        return Observed(
            names=self.names,
            uid=self.uid,
            generation=1,
            spec=self.spec,
            status=self.status,
            images=self.images,
            objects=self.objects,
            database=self._database() if is_free else DatabaseView(),
            annotations=dict(self.annotations),
            finalizers=self.finalizers,
            now=self.now,
        )

    def _database(self) -> DatabaseView:
        logs = {node: self._group(node) for node in self._running(Component.LOG)}
        storages = {node: self._branch(node) for node in self._running(Component.STORAGE)}
        topology = self._topology() if self._has_majority() else None
        if topology is None:
            self.leader = None
        computes = tuple(self._compute(name) for name in self._running(Component.COMPUTE))
        return DatabaseView(
            log_nodes=logs,
            storage_nodes=storages,
            topology=topology,
            computes=computes if topology is not None else (),
        )

    def _running(self, component: Component) -> list[str]:
        pods = self.objects[POD]
        kind = self.names.of(component)
        return [
            name
            for name, pod in pods.items()
            if name.startswith(f"{kind}-") and pod["status"].get("podIP")
        ]

    def _active(self) -> list[str]:
        return [
            node
            for node in self._running(Component.LOG)
            if node in self.members and self._disk(node) == self.members[node]
        ]

    def _has_majority(self) -> bool:
        if not self.is_founded:
            return False
        active = self._active()
        if len(active) * 2 <= len(self.members):
            return False
        if self.leader not in active:
            self.leader = active[0]
        return True

    def _disk(self, node: str) -> str | int | None:
        claim = self.objects[VOLUME_CLAIM].get(node)
        return None if claim is None else self.disks.get(claim["metadata"]["uid"])

    def _topology(self) -> Topology:
        info = {
            node: MemberInfo(member, NodeName(node), "") for node, member in self.members.items()
        }
        assert self.leader is not None
        holder = None if self.primary is None else Holder(NodeName(self.primary), "", "postgres")
        return Topology(
            version="1", node=NodeName(self.leader), leader=info[self.leader], term=1,
            is_leading=True, members=tuple(info.values()), epoch=Epoch(self.epoch), holder=holder,
            is_streaming=True, tli=Tli(1), start=Lsn(0), end=Lsn(0), epoch_start=Lsn(0),
            system_identifier=SystemIdentifier(7),
        )  # fmt: skip

    def _group(self, node: str) -> GroupStatus | None:
        disk = self._disk(node)
        if not isinstance(disk, int):
            return None
        is_leader = self._has_majority() and node == self.leader
        topology = self._topology() if self._has_majority() else _nobody(node)
        if not is_leader:
            topology = _nobody(node)
        active = set(self._active())
        members = tuple(
            MemberStatus(MemberInfo(member, NodeName(one), ""), 1, one in active)
            for one, member in self.members.items()
        )
        return GroupStatus(
            branch=BRANCH, member=disk, role="", topology=topology,
            members=members if is_leader else (), first_index=1, last_index=1, commit_index=1,
            applied_index=1, uncommitted_bytes=0, is_disk_full=False, is_resting=False,
            ingest_complaint="", archived=None, archive_complaint="", pins={}, standbys=(),
        )  # fmt: skip

    def _branch(self, node: str) -> BranchStatus | None:
        if self._disk(node) != "branch":
            return None
        return BranchStatus(BRANCH, "serving", 1, None, None, 0, 0.0, "", 1, 0, None)

    def _compute(self, name: str) -> ComputeInfo:
        state = ComputeState.PRIMARY if name == self.primary else ComputeState.REPLICA
        return ComputeInfo(
            name=NodeName(name), instance=1, state=state, address="", client_address="",
            user="postgres", epoch=Epoch(self.epoch if name == self.primary else 0), tli=Tli(1),
            received=Lsn(1), replayed=Lsn(1), postmaster_pid=1, agent_pid=1, can_lead=True,
            complaint="", heard_ms_ago=10,
        )  # fmt: skip

    # --- What happens by itself ----------------------------------------------------------------

    def step(self) -> Plan:
        """Look once, and do what the plan says."""
        self.now += timedelta(seconds=1)
        seen = self.observed()
        made = plan(seen)
        for action in made.actions:
            self.carry_out(action)
        self.status = status_of(seen, made)
        self.verify()
        return made

    def verify(self) -> None:
        """What has to be true at every moment."""
        self.processes.keep(self.objects[POD])
        secret = self.objects[SECRET].get(self.names.authority_secret)
        if secret is not None:
            self.processes.verify(secret, self.now)

    def settle(self, *, steps_max: int = 400) -> None:
        """Go on until nothing is to be done and all is well."""
        for _ in range(steps_max):
            made = self.step()
            is_moving = self.live(hurry=True)
            if not made.actions and not made.rollout.outdated and not is_moving:
                return
        raise AssertionError(f"it does not settle: {self.step()}")

    def live(self, *, hurry: bool = False) -> bool:
        """Let pods start and end, and another primary be chosen; whether anything did."""
        moved = GatewayController(self.names).step(
            self.objects[DEPLOYMENT].get("pg-gateway"), self.objects[POD], self.next()
        )
        for name, pod in list(self.objects[POD].items()):
            if not hurry and self.rng.random() < 0.5:
                continue
            if "deletionTimestamp" in pod["metadata"]:
                self._forget_pod(name)
                moved = True
            elif not pod["status"].get("podIP"):
                pod["status"] = _running_status(f"10.0.0.{self.next()}")
                self.processes.start(name, secret_of(self.objects[SECRET], self.names, name))
                moved = True
        if self._has_majority():
            running = self._running(Component.COMPUTE)
            if self.primary not in running:
                self.primary = running[0] if running else None
                self.epoch += 1
                moved = True
        return moved

    def _forget_pod(self, name: str) -> None:
        del self.objects[POD][name]
        claim = self.objects[VOLUME_CLAIM].get(name)
        if claim is not None and "deletionTimestamp" in claim["metadata"]:
            del self.objects[VOLUME_CLAIM][name]

    def restart(self, name: str) -> None:
        """A container ends, and begins again in its pod, with what its Secret is by now."""
        self.processes.start(name, secret_of(self.objects[SECRET], self.names, name))
        self.verify()

    def delete(self, *, with_operator: bool = True) -> None:
        """Somebody deletes the cluster; then Kubernetes deletes what it owns, sometime."""
        if KEEPER in self.finalizers and with_operator:
            policy, identity = self.spec.deletion_policy, self.status.system_identifier
            for one in plan_farewell(self.names, self.uid, policy, self.objects, identity):
                self.carry_out(one)
            self.finalizers = ()
        require(not self.finalizers, "a cluster that was deleted goes")
        self.uid, self.status = f"uid-{self.next()}", ClusterStatus()
        self.annotations = {}

    def collect(self) -> None:
        """Kubernetes deletes what is owned by clusters that are gone."""
        for things in self.objects.values():
            for name, thing in list(things.items()):
                if owner_of(thing) not in {None, "", self.uid}:
                    del things[name]
        for name in GatewayController(self.names).pods(self.objects[POD]):
            del self.objects[POD][name]  # their ReplicaSet has gone
        if not self.objects[VOLUME_CLAIM]:
            self.members, self.is_founded, self.primary = {}, False, None

    # --- What goes wrong -----------------------------------------------------------------------

    def kill_pod(self, name: str) -> None:
        """Take a pod away, as a node of Kubernetes that goes."""
        del self.objects[POD][name]

    def lose_disk(self, name: str) -> None:
        """Take a pod and its volume away."""
        self.kill_pod(name)
        self.objects[VOLUME_CLAIM].pop(name, None)

    # --- Actions -------------------------------------------------------------------------------

    def carry_out(self, action: actions.Action) -> None:
        """Do it, unless it must never be done."""
        match action:
            case actions.Apply(kind, manifest):
                self.apply(kind, manifest)
            case actions.Remove(kind, name, uid, _):
                self._remove(kind, name, uid)
            case actions.Amend(kind, name, uid, changes):
                self._amend(kind, name, uid, changes)
            case actions.Hold(holds):
                self.finalizers = (KEEPER,) if holds else ()
            case actions.Mark(pod, label, value):
                labels = self.objects[POD][pod]["metadata"]["labels"]
                labels.pop(label, None)
                labels |= {} if value is None else {label: value}
            case actions.AnswerSwitchover(request, result):
                self._answer(SWITCHOVER, SWITCHOVER_RESULT, request, result)
            case actions.AnswerRotation(request, result):
                self._answer(ROTATE, ROTATE_RESULT, request, result)
            case (
                actions.MakeAuthority()
                | actions.MakePasswords()
                | actions.MakeCertificate()
                | actions.TakePassword()
                | actions.Rotate()
            ):
                change_secrets(self, action)
            case _:
                self._ask(action)

    def _answer(self, asks: str, answers: str, request: str | None, result: str | None) -> None:
        require(asks in self.annotations, "who asks nothing is not answered")
        for name, value in ((asks, request), (answers, result)):
            self.annotations.pop(name, None)
            self.annotations |= {} if value is None else {name: value}

    def _ask(self, action: actions.NodeAction) -> None:
        match action:
            case actions.Found():
                require(not self.is_founded, "a database is founded once")
                self.is_founded = True
                for node in self._running(Component.LOG):
                    self._fill(node, self.next())
                    self.members[node] = int(self._disk(node) or 0)
                for node in self._running(Component.STORAGE):
                    self._fill(node, "branch")
            case actions.Adopt(node, sources):
                require(all(self._disk(one) == "branch" for one in sources), "sources have pages")
                self._fill(node, "branch")
            case actions.AddMember(node):
                require(self._all_active(), "members change while all are well")
                self.members[node] = self.next()
                self._fill(node, self.members[node])
            case actions.RemoveMember(node, member):
                rest = [one for one in self._active() if one != node]
                require(len(rest) * 2 > len(self.members) - 1, "a majority of the rest lives")
                require(self.members[node] == member, "the member is that node's")
                del self.members[node]
            case actions.Transfer(to):
                require(to in self._active(), "only a member that lives leads")
                self.leader = to
            case actions.SwitchOver(to):
                require(to in self._running(Component.COMPUTE), "only who runs is a primary")
                require(to != self.primary, "who is the primary does not become it")
                self.primary = to
                self.epoch += 1
                self.switchovers.append(to)

    def _all_active(self) -> bool:
        return set(self._active()) == set(self.members)

    def _fill(self, node: str, content: str | int) -> None:
        self.disks[self.objects[VOLUME_CLAIM][node]["metadata"]["uid"]] = content

    def apply(self, kind: Kind, manifest: Json) -> None:
        """Make an object so."""
        name = manifest["metadata"]["name"]
        there = self.objects[kind].get(name)
        if kind is POD:
            require(there is None, "a pod is made when there is none of its name")
        metadata = {**manifest["metadata"]}
        metadata["uid"] = there["metadata"]["uid"] if there else f"uid-{self.next()}"
        metadata["labels"] = dict(metadata["labels"])
        before = there["metadata"].get("annotations", {}) if there else {}
        metadata["annotations"] = before | metadata.get("annotations", {})
        kept = is_kept(self.names, self.spec.deletion_policy, kind, name)
        metadata["ownerReferences"] = [] if kept else [reference(self.names, self.uid)]
        metadata["generation"] = self.next()
        made = {**manifest, "metadata": metadata, "status": {}}
        self.objects[kind][name] = made
        self.writes += 1

    def _amend(self, kind: Kind, name: str, uid: str, changes: Json) -> None:
        thing = self.objects[kind][name]
        require(thing["metadata"]["uid"] == uid, "it is that very object")
        require(kind != CLUSTER, "a cluster is its user's")
        merge(thing, changes)
        self.writes += 1

    def _remove(self, kind: Kind, name: str, uid: str) -> None:
        thing = self.objects[kind][name]
        require(thing["metadata"]["uid"] == uid, "it is that very object")
        if kind is POD:
            self._may_remove_pod(name)
            thing["metadata"]["deletionTimestamp"] = "now"
            thing["status"] = {}
        elif kind is VOLUME_CLAIM:
            require(name not in self.members, "the disk of a member stays")
            thing["metadata"]["deletionTimestamp"] = "now"
            if name not in self.objects[POD]:
                del self.objects[kind][name]
        else:
            del self.objects[kind][name]
        self.writes += 1

    def _may_remove_pod(self, name: str) -> None:
        if name in self._active() and name in self.members:
            rest = [one for one in self._active() if one != name]
            is_alone = len(self.members) == 1
            require(is_alone or len(rest) * 2 > len(self.members), "the log keeps its majority")
        if self._disk(name) == "branch" and self.spec.storage_nodes.count > 1:
            others = [n for n in self._running(Component.STORAGE) if n != name]
            require(any(self._disk(n) == "branch" for n in others), "somebody serves pages")
        require(name != self.primary, "a primary is not taken away, but succeeded")

    def next(self) -> int:
        """Return a number that nobody has had."""
        self._serial += 1
        return self._serial


def _nobody(node: str) -> Topology:
    return Topology(
        version="0", node=NodeName(node), leader=None, term=0, is_leading=False, members=(),
        epoch=Epoch(0), holder=None, is_streaming=False, tli=Tli(1), start=Lsn(0), end=Lsn(0),
        epoch_start=Lsn(0), system_identifier=None,
    )  # fmt: skip


def _running_status(address: str) -> Mapping[str, Any]:
    ready = {"type": "Ready", "status": "True"}
    return {"phase": "Running", "podIP": address, "conditions": [ready]}
