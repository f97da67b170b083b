"""One look at one cluster: observe, plan, carry out, say how it is.

    object and what it owns (from the informers) ─┐
    log and storage nodes (asked, all at once) ───┴─► Observed ─► plan ─► actions ─► status

A specification that cannot be read changes nothing: what runs goes on, and the status says which
field is wrong.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog

from fabric.ids import ClusterName
from fabric.rpc_errors import RpcError

from .carry_out import Hands, amend, hold, nodes_of
from .cluster_status import ClusterStatus
from .database import Database, DatabaseView, Nodes, shape_of
from .events import EventRecorder, Notice
from .kube_port import CLUSTER, OWNED, SECRET, Json, Key, Kind, KubeError, KubePort, Refused
from .manifests.authority import NODE_DAYS, authority_in
from .manifests.pods import Images
from .manifests.secrets import operator_certificate
from .names import KEEPER, ROTATE, SWITCHOVER, Names
from .observed import Observed, is_ending
from .plan import Plan, plan
from .plan_ownership import leftovers, plan_farewell, refusal
from .plan_rollout import Rollout
from .plan_status import status_of
from .runtime import Outcome, View
from .settings import OperatorSettings
from .spec import ClusterSpec, DeletionPolicy, SpecError, decode_spec
from .topology_watch import TopologyWatch

# What neither the log nor Kubernetes tells is noticed so late: a gateway whose host has gone, until
# Kubernetes notices, too.
SETTLED_S: Final = 20.0
SETTLED_SPREAD: Final = 0.1  # of it, at random: clusters that settled together are not in step
BUSY_S: Final = 1.0
# So often all nodes are asked while what the leader and what Kubernetes say stays the same. Only a
# storage node that does nothing, and tells Kubernetes that all is well, is noticed no sooner.
PLAN_ANYWAY: Final = timedelta(minutes=10)
NO_PRIMARY_S: Final = 0.2
CERTIFICATE_LASTS: Final = timedelta(days=NODE_DAYS) / 2  # ours, which is in memory alone

log = structlog.get_logger()


@dataclass(slots=True)
class _Settled:
    """What was seen when nothing was to be done: seen again, nothing is to be done again."""

    versions: object
    found: DatabaseView
    at: datetime


@dataclass(slots=True)
class _Connected:
    """What is kept of a cluster between looks: nothing that decides anything."""

    authority: tuple[str, str]
    """Who has signed our certificate, and whom we trust."""
    since: datetime
    database: Database
    watch: TopologyWatch | None = None
    settled: _Settled | None = None


class ClusterReconciler:
    """Looks at clusters."""

    def __init__(
        self,
        api: KubePort,
        events: EventRecorder,
        settings: OperatorSettings,
        *,
        wake: Callable[[Key], None],
    ) -> None:
        self._api, self._events, self._settings, self._wake = api, events, settings, wake
        self._connected: dict[Key, _Connected] = {}
        self._rng = random.Random()  # noqa: S311  # spreads reconnections, keeps no secret

    async def close(self) -> None:
        """End all connections."""
        for key in list(self._connected):
            await self._disconnect(key)

    async def reconcile(self, key: Key, view: View) -> Outcome:
        """Look, decide, write."""
        if await self._is_settled(key, view):
            return self._settled_outcome()
        cluster = view.cluster
        if cluster is None or is_ending(cluster):
            await self._disconnect(key)  # what it owns goes with it: that is Kubernetes's work
            if cluster is not None and KEEPER in (cluster["metadata"].get("finalizers") or ()):
                await self._let_go(key, view, cluster)
            return Outcome()
        try:
            spec = decode_spec(cluster["spec"])
            images = self._settings.images_for(spec)
        except (SpecError, ValueError) as error:
            return await self._refuse(cluster, str(error))
        versions = view.versions()  # before anything is looked at: what changes meanwhile is news
        seen = await self._observe(key, view, cluster, spec, images)
        made = plan(seen)
        if made.refused:
            self._events.note(cluster, Notice("Warning", "Refused", made.refused))
            await self._say(cluster, seen.status, status_of(seen, made))
            return Outcome()  # volumes that go wake us
        outcome = await self._carry_out(key, view, cluster, seen, made)
        connected = self._connected.get(key)
        if connected is None or outcome.requeue_after_s != SETTLED_S:
            return outcome
        connected.settled = _Settled(versions, seen.database, seen.now)
        await connected.database.rest(seen.database)
        return self._settled_outcome()

    def _settled_outcome(self) -> Outcome:
        spread = self._rng.uniform(1 - SETTLED_SPREAD, 1 + SETTLED_SPREAD)
        return Outcome(requeue_after_s=SETTLED_S * spread)

    async def _let_go(self, key: Key, view: View, cluster: Json) -> None:
        """Do what the policy says, and let the cluster go. No node is asked, and no pod waited for;
        what Kubernetes does not let us keep is tried again, because without it data would be lost.
        """
        policy = cluster.get("spec", {}).get("deletionPolicy")
        keeps = policy == DeletionPolicy.RETAIN
        changes = plan_farewell(
            Names(key.name, key.namespace),
            cluster["metadata"]["uid"],
            DeletionPolicy.RETAIN if keeps else DeletionPolicy.DELETE,
            _objects(view),
            _status_of(cluster).system_identifier,
        )
        try:
            for change in changes:
                await amend(self._api, key.namespace, change)
        except Refused as error:
            if keeps:
                message = f"The cluster stays until its data can be kept: {error}"
                self._events.note(cluster, Notice("Warning", "Refused", message[:900]))
                raise
            log.warning("what was kept stays", cluster=str(key), why=str(error))
        if keeps:
            self._events.note(cluster, Notice("Normal", "DataKept", "Volumes and passwords stay."))
        await hold(self._api, cluster, holds=False)

    async def _is_settled(self, key: Key, view: View) -> bool:
        """Whether nothing has changed since nothing was to be done. Now and then we look all the
        same: certificates end with time alone.
        """
        connected = self._connected.get(key)
        settled = None if connected is None else connected.settled
        if connected is None or settled is None:
            return False
        connected.settled = None
        if view.versions() != settled.versions:
            return False
        if datetime.now(UTC) - settled.at > PLAN_ANYWAY:
            await connected.database.reconnect()
            return False
        found = await connected.database.glance(settled.found)
        if shape_of(found) != shape_of(settled.found):
            return False
        connected.settled = settled
        return True

    async def _carry_out(
        self, key: Key, view: View, cluster: Json, seen: Observed, made: Plan
    ) -> Outcome:
        connected = self._connected.get(key)
        database = None if connected is None else connected.database
        hands = Hands(self._api, self._events, view, cluster, seen, database)
        failure: Exception | None = None
        try:
            for action in made.actions:
                await hands.carry_out(action)
        except RpcError as error:
            failure = error
            log.warning("nodes did not do what they were asked", cluster=str(key), why=str(error))
        except Refused as error:
            failure = error
            self._events.note(cluster, Notice("Warning", "Refused", str(error)[:900]))
        problem = "" if failure is None else f"{failure}"
        status = status_of(seen, made, problem=problem)
        await self._say(cluster, seen.status, status)
        if isinstance(failure, KubeError):
            raise failure  # the runtime's pauses grow
        return Outcome(requeue_after_s=_again_s(seen, made, failure))

    # --- Observing ----------------------------------------------------------------------------

    async def _observe(
        self, key: Key, view: View, cluster: Json, spec: ClusterSpec, images: Images
    ) -> Observed:
        metadata = cluster["metadata"]
        seen = Observed(
            names=Names(key.name, key.namespace),
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            spec=spec,
            status=_status_of(cluster),
            images=images,
            objects=_objects(view),
            database=DatabaseView(),
            annotations=metadata.get("annotations") or {},
            finalizers=tuple(metadata.get("finalizers") or ()),
            now=datetime.now(UTC),
        )
        if leftovers(seen.uid, seen.objects) or refusal(seen):
            await self._disconnect(key)  # who answers is of another cluster
            return seen
        connected = await self._connect(key, seen)
        if connected is None:
            return seen
        nodes = nodes_of(seen)
        await connected.database.meet(nodes)
        found = await connected.database.look()
        await self._watch(key, connected, nodes, found)
        return replace(seen, database=found)

    async def _connect(self, key: Key, seen: Observed) -> _Connected | None:
        secret = seen.of(SECRET).get(seen.names.authority_secret)
        if secret is None:
            return None
        found = authority_in(secret)
        authority = (found.signer, found.trusted)
        connected = self._connected.get(key)
        if connected is not None and (
            connected.authority != authority or seen.now - connected.since > CERTIFICATE_LASTS
        ):
            await self._disconnect(key)
            connected = None
        if connected is None:
            certificate, ca = operator_certificate(seen.names, secret, "seawall-operator")
            database = Database(ClusterName(key.name), certificate, ca)
            connected = self._connected[key] = _Connected(authority, seen.now, database)
        return connected

    async def _watch(
        self, key: Key, connected: _Connected, nodes: Nodes, found: DatabaseView
    ) -> None:
        """Have changes of the log wake the cluster; anew when its nodes have moved, or another one
        leads: the one that is watched is the one whose connection is kept.
        """
        watch = connected.watch
        if watch is not None:
            leader = found.leader_node or watch.leader
            if (watch.nodes, watch.leader) != (nodes, leader):
                await watch.close()
                connected.watch = None
        if connected.watch is None and found.topology is not None:
            connected.watch = TopologyWatch(
                connected.database, found.leader_node, wake=lambda: self._wake(key)
            )

    async def _disconnect(self, key: Key) -> None:
        connected = self._connected.pop(key, None)
        if connected is not None:
            if connected.watch is not None:
                await connected.watch.close()
            await connected.database.close()

    # --- Saying -------------------------------------------------------------------------------

    async def _refuse(self, cluster: Json, problem: str) -> Outcome:
        """Say what is wrong with a specification; nothing else changes."""
        before = _status_of(cluster)
        self._events.note(cluster, Notice("Warning", "InvalidSpec", problem[:900]))
        generation = cluster["metadata"].get("generation", 0)
        phase = f"Invalid: {problem}"[:200]
        status = msgspec.structs.replace(before, phase=phase, observed_generation=generation)
        await self._say(cluster, before, status)
        return Outcome()

    async def _say(self, cluster: Json, before: ClusterStatus, status: ClusterStatus) -> None:
        if status == before:
            return
        metadata = cluster["metadata"]
        manifest = {
            "apiVersion": CLUSTER.api_version,
            "kind": CLUSTER.kind,
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
            "status": msgspec.to_builtins(status),
        }
        await self._api.apply_status(CLUSTER, manifest)


def _objects(view: View) -> dict[Kind, dict[str, Json]]:
    return {kind: {one["metadata"]["name"]: one for one in view.owned(kind)} for kind in OWNED}


def _status_of(cluster: Json) -> ClusterStatus:
    """Read what was said last; what cannot be read was not said by us."""
    try:
        return msgspec.convert(cluster.get("status") or {}, ClusterStatus)
    except msgspec.ValidationError:
        return ClusterStatus()


def _again_s(seen: Observed, made: Plan, failure: Exception | None) -> float:
    """Return when to look again, if nothing happens before."""
    database = seen.database
    if seen.identity and database.primary is None:
        return NO_PRIMARY_S if database.topology is not None else BUSY_S
    is_busy = bool(made.actions) or made.rollout != Rollout((), None) or failure is not None
    is_busy |= SWITCHOVER in seen.annotations  # one that waits is given up some time
    is_busy |= ROTATE in seen.annotations
    is_whole = len(database.replicas) + 1 >= seen.spec.computes
    return BUSY_S if is_busy or not is_whole else SETTLED_S
