"""Puts the operator together: what the API tells wakes clusters, and whoever leads looks at them.

    API ──watch──► Informer, one a kind ──► Store ◄──answers──┐
                          │ woken keys        │ View          │
                          ▼                   ▼               │
        wake() ──► WorkQueue ──key──► Reconciler.reconcile ──► ObservedPort ──writes──► API

    runtime = Runtime(port, settings, identity="seawall-operator-7f9c")
    reconciler = MyReconciler(runtime.api, runtime.events)
    await runtime.run(reconciler)          # until cancelled

The reconciler is told which cluster, never what happened: it looks at everything there is, decides,
and writes through `runtime.api`. So an event that is lost or comes twice costs nothing; and each
cluster is looked at every RESYNC_S anyway.

All informers have listed their kind before the first look, so that nothing is made a second time
because it was not known yet. Those who do not lead inform themselves too, to lead within a moment.

Not here: what is done for a cluster. The API being away is no reason to end: all waits for it.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any, Final, Protocol

import msgspec
import structlog

from .election import Election
from .elector import Elector
from .events import EventRecorder
from .informer import Informer, InformerShell
from .kube_port import (
    CLUSTER,
    CLUSTER_LABEL,
    NODE,
    OWNED,
    Conflict,
    Json,
    Key,
    Kind,
    KubeError,
    KubePort,
    Refused,
    Unavailable,
)
from .observed_port import ObservedPort
from .operator_metrics import OperatorMetrics
from .store import Store
from .work_queue import WorkQueue

RESYNC_S: Final = 600.0
RESYNC_SPREAD: Final = 0.2  # of it, at random, so that 200 clusters are not looked at in one second
RECONCILE_S: Final = 300.0  # for one look; whoever needs longer returns and is called again

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """What a user may tune."""

    namespace: str = ""
    """Which namespace's clusters are ours; empty: those of all."""

    lease_namespace: str = "default"
    """Where the Lease is: the operator's own namespace."""

    lease_name: str = "seawall-operator"
    """Two operators of one name and namespace never work at once."""

    elect: bool = True
    """False: it leads without asking. Only for one that nobody else is beside."""

    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    """Clusters that are looked at at once: a look is mostly waiting for the API."""

    watch_nodes: bool = False
    """Whether `View.nodes` is filled; it needs a ClusterRole."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a look went: well. When there is to be another one, if nothing happens before."""

    requeue_after_s: float | None = None


class View:
    """What is known of one cluster. Each call returns copies, as things are at that moment."""

    def __init__(self, key: Key, stores: dict[Kind, Store]) -> None:
        self.key = key
        self._stores = stores

    @property
    def cluster(self) -> Json | None:
        """The PostgresCluster; None if there is none of this name."""
        return self._stores[CLUSTER].get(self.key)

    def owned(self, kind: Kind) -> list[Json]:
        """Return the objects of a kind that carry the cluster's label, by name."""
        assert kind in self._stores, f"{kind.plural} are not watched: see Runtime(owned=...)"
        return self._stores[kind].of_cluster(self.key)

    def versions(self) -> tuple[tuple[str, Key, int], ...]:
        """Return what is equal as long as neither the cluster nor what it owns has changed.

        It costs next to nothing.
        """
        return tuple(chain.from_iterable(s.versions(self.key) for s in self._stores.values()))

    def nodes(self) -> list[Json]:
        """Return the nodes of Kubernetes; see RuntimeSettings.watch_nodes."""
        store = self._stores.get(NODE)
        return [] if store is None else list(store.all())


class Reconciler(Protocol):
    """Makes a cluster what it is asked to be, a step further each time."""

    async def reconcile(self, key: Key, view: View) -> Outcome:
        """Look, decide, write. An error is an outcome, too: the same again after a pause.

        Called for one key at most once at a time. May be cancelled at every await.
        """
        ...


class Runtime:
    """One operator."""

    def __init__(
        self,
        port: KubePort,
        settings: RuntimeSettings,
        *,
        identity: str,
        owned: tuple[Kind, ...] = OWNED,
        rng: random.Random | None = None,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._port = port
        self._settings = settings
        self._rng = rng or random.Random()  # noqa: S311  # spreads load; secret to nobody
        self._wall_clock = wall_clock
        kinds = (CLUSTER, *owned, *([NODE] if settings.watch_nodes else []))
        self._stores = {kind: Store(kind, is_cluster=kind == CLUSTER) for kind in kinds}
        self._informers = {
            kind: Informer(store, rng=self._rng) for kind, store in self._stores.items()
        }
        self._queue = WorkQueue(rng=self._rng)
        self._bell = asyncio.Event()  # something is due, or sooner than it was
        self._synced = asyncio.Event()
        self._election = Election(identity)
        self._ended = ""
        self.metrics = OperatorMetrics()
        self.api: KubePort = ObservedPort(
            port,
            self._stores,
            may_write=self.is_leader,
            metrics=self.metrics,
            on_woken=self._woken,
        )
        self.events = EventRecorder(
            self.api,
            instance=identity,
            wall_clock=wall_clock,
            on_dropped=self.metrics.events_dropped.inc,
        )
        self._register_gauges()

    # --- for other tasks --------------------------------------------------------------------------

    def wake(self, key: Key) -> None:
        """Have a cluster looked at soon; from any task of the same loop."""
        self._queue.wake(key, _now_s())
        self._bell.set()

    def view(self, key: Key) -> View:
        """Return what is known of a cluster."""
        return View(key, self._stores)

    def clusters(self) -> list[Key]:
        """Return the clusters that there are."""
        return sorted(self._stores[CLUSTER].keys())

    def is_leader(self) -> bool:
        """Return whether this operator may write."""
        return not self._settings.elect or self._election.is_leader(_now_s())

    def is_synced(self) -> bool:
        """Return whether every kind has been listed."""
        return self._synced.is_set()

    def problem(self) -> str | None:
        """Return why this process should be started again, for MetricsServer.

        An API that is away is none: a new process would not reach it either.
        """
        return self._ended or None

    # --- running ----------------------------------------------------------------------------------

    async def run(self, reconciler: Reconciler) -> None:
        """Work until cancelled."""

        async def work() -> None:
            await self._work(reconciler)

        try:
            async with asyncio.TaskGroup() as tasks:
                for kind, informer in self._informers.items():
                    tasks.create_task(self._shell(kind, informer).run())
                await self._lead(work)
        finally:
            self._ended = "the operator has ended"

    async def _lead(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # Who does not know the clusters yet has no use for the Lease.
        await self._synced.wait()
        log.info("all kinds are known", clusters=len(self._stores[CLUSTER]))
        if not self._settings.elect:
            self.metrics.leader.set(1)
            await work()
            return
        elector = Elector(
            # The Lease is written by those who do not lead, too.
            ObservedPort(
                self._port,
                {},
                may_write=lambda: True,
                metrics=self.metrics,
                on_woken=lambda _: None,
            ),
            Key(self._settings.lease_namespace, self._settings.lease_name),
            self._election,
            wall_clock=self._wall_clock,
            rng=self._rng,
            on_change=self.metrics.leader.set,
        )
        await elector.run(work)

    async def _work(self, reconciler: Reconciler) -> None:
        """Look at clusters until cancelled; at each of them once to begin with."""
        for key in self._all_keys():
            self.wake(key)
        room = asyncio.Semaphore(self._settings.workers)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.events.run())
                while True:
                    await room.acquire()
                    look = tasks.create_task(self._look(reconciler, await self._next()))
                    look.add_done_callback(lambda _: room.release())
        finally:
            # So that these keys are not in flight for ever, if we lead another time.
            self._queue.abandon_all(_now_s())

    async def _next(self) -> Key:
        """Return a key that is due."""
        while True:
            self._bell.clear()
            key = self._queue.take(_now_s())
            if key is not None:
                return key
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._queue.next_s()):
                    await self._bell.wait()

    async def _look(self, reconciler: Reconciler, key: Key) -> None:
        began_s = _now_s()
        result, retry_after_s = "done", 0.0
        outcome, limit = Outcome(), asyncio.timeout(RECONCILE_S)
        try:
            async with limit:
                outcome = await reconciler.reconcile(key, self.view(key))
        except KubeError as error:
            result = type(error).__name__
            retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else 0.0
            self._log_failure(key, error)
        except Exception:  # a mistake about one cluster must not stop the work on all others
            result = "Timeout" if limit.expired() else "Bug"
            log.exception("a look at a cluster failed", cluster=str(key), error=result)
        now_s = _now_s()
        self.metrics.reconciled(result, now_s - began_s)
        if result != "done":
            self._queue.failed(key, now_s, retry_after_s=retry_after_s)
        else:
            self._queue.done(key, now_s, again_s=self._again_s(key, outcome))
        self._bell.set()

    def _again_s(self, key: Key, outcome: Outcome) -> float | None:
        if not any(key in store.clusters() for store in self._stores.values()):
            return outcome.requeue_after_s  # nothing of it is left: it may be forgotten
        resync_s = RESYNC_S * self._rng.uniform(1 - RESYNC_SPREAD, 1 + RESYNC_SPREAD)
        if outcome.requeue_after_s is None:
            return resync_s
        return min(outcome.requeue_after_s, resync_s)

    def _log_failure(self, key: Key, error: KubeError) -> None:
        failures = self._queue.failures(key)
        if isinstance(error, Conflict) and failures == 0:
            return  # somebody was faster; the next look sees it
        if failures > 0 and not isinstance(error, Refused):
            return  # said once, until a look goes well
        log.warning(
            "a look at a cluster failed",
            cluster=str(key),
            error=type(error).__name__,
            why=str(error),
            failures=failures + 1,
        )

    # --- news -------------------------------------------------------------------------------------

    def _shell(self, kind: Kind, informer: Informer) -> InformerShell:
        is_cluster, is_node = kind == CLUSTER, kind == NODE
        return InformerShell(
            self._port,
            informer,
            namespace="" if is_node else self._settings.namespace,
            selector="" if is_cluster or is_node else CLUSTER_LABEL,
            rng=self._rng,
            on_woken=self._told,
            on_restart=self.metrics.watch_over,
        )

    def _told(self, woken: set[Key]) -> None:
        is_synced = self._synced.is_set()
        if not is_synced and all(informer.is_synced for informer in self._informers.values()):
            self._synced.set()
        self._woken(woken)

    def _woken(self, woken: set[Key]) -> None:
        # Before we lead, the queue would only grow stale: whoever begins to lead wakes all.
        if self.is_leader():
            for key in woken:
                self.wake(key)

    def _all_keys(self) -> set[Key]:
        keys: set[Key] = set()
        for store in self._stores.values():
            keys.update(store.clusters())
        return keys

    def _register_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("queue_depth", "Clusters that are due.", lambda: self._queue.due(_now_s()))
        gauge("in_flight", "Clusters that are looked at.", lambda: self._queue.in_flight)
        gauge("clusters", "Clusters that are known.", lambda: len(self._stores[CLUSTER]))
        gauge("objects", "Objects kept.", lambda: sum(map(len, self._stores.values())))
        gauge("synced", "1 if every kind was listed.", lambda: float(self.is_synced()))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
