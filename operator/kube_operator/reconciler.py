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

from fabric.ids import ClusterName, Role
from fabric.rpc_errors import RpcError

from .carry_out import Hands, nodes_of
from .cluster_status import ClusterStatus
from .database import Database, DatabaseView, Nodes, shape_of
from .events import EventRecorder, Notice
from .kube_port import CLUSTER, OWNED, SECRET, Json, Key, KubeError, KubePort, Refused
from .manifests.pods import Images
from .manifests.secrets import operator_certificate
from .names import SWITCHOVER, Names
from .observed import Observed, is_ending
from .plan import Plan, plan
from .plan_rollout import Rollout
from .plan_status import status_of
from .runtime import Outcome, View
from .settings import OperatorSettings
from .spec import ClusterSpec, SpecError, decode_spec
from .topology_watch import TopologyWatch

SETTLED_S: Final = 10.0  # nodes that die without a word are noticed so late, if no client notices
BUSY_S: Final = 1.0
PLAN_ANYWAY: Final = timedelta(minutes=10)
NO_PRIMARY_S: Final = 0.2

log = structlog.get_logger()


@dataclass(slots=True)
class _Settled:
    """What was seen when nothing was to be done: seen again, nothing is to be done again."""

    shape: object
    at: datetime


@dataclass(slots=True)
class _Connected:
    """What is kept of a cluster between looks: nothing that decides anything."""

    authority: str
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
        cluster = view.cluster
        if cluster is None or is_ending(cluster):
            await self._disconnect(key)  # what it owns goes with it: that is Kubernetes's work
            return Outcome()
        try:
            spec = decode_spec(cluster["spec"])
            images = self._settings.images_for(spec)
        except (SpecError, ValueError) as error:
            return await self._refuse(cluster, str(error))
        if await self._is_settled(key, view):
            return Outcome(requeue_after_s=SETTLED_S)
        versions = view.versions()  # before anything is looked at: what changes meanwhile is news
        seen = await self._observe(key, view, cluster, spec, images)
        made = plan(seen)
        outcome = await self._carry_out(key, view, cluster, seen, made)
        connected = self._connected.get(key)
        if connected is not None and outcome.requeue_after_s == SETTLED_S:
            connected.settled = _Settled((versions, shape_of(seen.database)), seen.now)
        return outcome

    async def _is_settled(self, key: Key, view: View) -> bool:
        """Whether nothing has changed since nothing was to be done. Now and then we look all the
        same: certificates end with time alone.
        """
        connected = self._connected.get(key)
        settled = None if connected is None else connected.settled
        if connected is None or settled is None:
            return False
        connected.settled = None
        if datetime.now(UTC) - settled.at > PLAN_ANYWAY:
            return False
        versions = view.versions()
        found = await connected.database.look()
        if settled.shape != (versions, shape_of(found)):
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
            objects={
                kind: {one["metadata"]["name"]: one for one in view.owned(kind)} for kind in OWNED
            },
            database=DatabaseView(),
            annotations=metadata.get("annotations") or {},
            now=datetime.now(UTC),
        )
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
        authority = str(secret.get("data", {}).get("tls.crt", ""))
        connected = self._connected.get(key)
        if connected is not None and connected.authority != authority:
            await self._disconnect(key)
            connected = None
        if connected is None:
            name = "seawall-operator"
            certificate, ca = operator_certificate(seen.names, secret["data"], name)
            database = Database(ClusterName(key.name), certificate, ca)
            connected = self._connected[key] = _Connected(authority, database)
        return connected

    async def _watch(
        self, key: Key, connected: _Connected, nodes: Nodes, found: DatabaseView
    ) -> None:
        """Have changes of the log wake the cluster; anew when its nodes have moved."""
        if connected.watch is not None and connected.watch.nodes != nodes:
            await connected.watch.close()
            connected.watch = None
        if connected.watch is None and found.topology is not None:
            connected.watch = TopologyWatch(
                nodes,
                connected.database.tls(Role.LOG),
                rng=self._rng,
                wake=lambda: self._wake(key),
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


def _status_of(cluster: Json) -> ClusterStatus:
    """Read what was said last; what cannot be read was not said by us."""
    try:
        return msgspec.convert(cluster.get("status") or {}, ClusterStatus)
    except msgspec.ValidationError:
        return ClusterStatus()


def _again_s(seen: Observed, made: Plan, failure: Exception | None) -> float:
    """Return when to look again, if nothing happens before."""
    database = seen.database
    if seen.status.system_identifier and database.primary is None:
        return NO_PRIMARY_S if database.topology is not None else BUSY_S
    is_busy = bool(made.actions) or made.rollout != Rollout((), None) or failure is not None
    is_busy |= SWITCHOVER in seen.annotations  # one that waits is given up some time
    is_whole = len(database.replicas) + 1 >= seen.spec.computes
    return BUSY_S if is_busy or not is_whole else SETTLED_S
