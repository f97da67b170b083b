"""A small operator on the runtime, for its tests: keeps as many pods as a cluster asks for.

The pods have names that the API chooses, so that one that is made twice shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

from fixtures.kube_api import KubeApi

from kube_operator.events import Notice
from kube_operator.kube_port import (
    CLUSTER,
    CLUSTER_LABEL,
    CONFIG_MAP,
    POD,
    Key,
    KubePort,
    key_of,
)
from kube_operator.lightkube_port import LightkubePort
from kube_operator.runtime import Outcome, Runtime, RuntimeSettings, View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Json = dict[str, Any]
LOOK_S = 0.02
ALONE = RuntimeSettings(elect=False)


class PodKeeper:
    """A reconciler. Notes what it is called for, and checks that it is called as promised."""

    def __init__(self, api: KubePort, runtime: Runtime) -> None:
        self.api, self.runtime = api, runtime
        self.calls: list[Key] = []
        self.running: set[Key] = set()
        self.running_max = 0
        self.called = asyncio.Event()
        self.hold: asyncio.Event | None = None  # a look waits for it
        self.fault: Exception | None = None
        self.faulty: Key | None = None  # whose looks fail
        self.requeue_after_s: float | None = None

    async def reconcile(self, key: Key, view: View) -> Outcome:
        """Make the pods that are missing, delete those that are too many, one step a time."""
        assert key not in self.running, "one look at a cluster at a time"
        self.running.add(key)
        self.running_max = max(self.running_max, len(self.running))
        self.calls.append(key)
        self.called.set()
        try:
            if self.hold is not None:
                await self.hold.wait()
            if self.fault is not None and self.faulty in (None, key):
                raise self.fault
            await self._keep(key, view)
        finally:
            self.running.discard(key)
        return Outcome(self.requeue_after_s)

    async def _keep(self, key: Key, view: View) -> None:
        cluster = view.cluster
        wanted = 0 if cluster is None else cluster["spec"]["computes"]
        pods = view.owned(POD)
        if len(pods) < wanted:
            assert cluster is not None
            await self.api.create(POD, self._pod(key, cluster))
            self.runtime.events.note(cluster, Notice("Normal", "Made", "a pod was made"))
        elif len(pods) > wanted:
            await self.api.delete(POD, key_of(pods[0]), uid=pods[0]["metadata"]["uid"])
        elif cluster is not None and cluster.get("status", {}).get("computes") != wanted:
            name = {"namespace": key.namespace, "name": key.name}
            status = {"metadata": name, "status": {"computes": wanted}}
            await self.api.apply_status(CLUSTER, status)

    def _pod(self, key: Key, cluster: Json) -> Json:
        owner = {"kind": "PostgresCluster", "uid": cluster["metadata"]["uid"]}
        return {
            "metadata": {
                "namespace": key.namespace,
                "generateName": f"{key.name}-",
                "labels": {CLUSTER_LABEL: key.name},
                "ownerReferences": [owner],
            },
            "spec": {},
        }


class OperatorWorld:
    """An API and operators on it."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.ports: list[LightkubePort] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(
        self,
        *,
        identity: str = "one",
        settings: RuntimeSettings = ALONE,
        prepare: Callable[[PodKeeper], None] = lambda _: None,
    ) -> tuple[Runtime, PodKeeper]:
        """Start an operator."""
        port = LightkubePort(self.api.config())
        runtime = Runtime(
            port,
            settings,
            identity=identity,
            owned=(POD, CONFIG_MAP),
            rng=random.Random(1),
        )
        keeper = PodKeeper(runtime.api, runtime)
        prepare(keeper)
        self.ports.append(port)
        self.tasks.append(asyncio.create_task(runtime.run(keeper)))
        return runtime, keeper

    async def stop(self, index: int) -> None:
        """Stop one that is still well."""
        task = self.tasks[index]
        assert not task.done(), task
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task

    def cluster(self, name: str, computes: int) -> Key:
        """Ask for a cluster, or for another size of it."""
        manifest = {
            "apiVersion": CLUSTER.api_version,
            "kind": CLUSTER.kind,
            "metadata": {"namespace": "ns", "name": name},
            "spec": {"computes": computes},
        }
        there = self.api.kube.objects.get((CLUSTER.plural, "ns", name), {})
        if "status" in there:
            manifest["status"] = there["status"]
        self.api.kube.put(CLUSTER.plural, manifest)
        return Key("ns", name)

    def pods(self, name: str) -> list[Json]:
        """Return the pods of a cluster."""
        return [
            pod
            for pod in self.api.kube.of("pods")
            if pod["metadata"]["labels"][CLUSTER_LABEL] == name
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the API's objects are so, or something that changes with them."""
        while not condition():
            changed = self.api.kube.changed
            for task in self.tasks:
                if task.done() and not task.cancelled():
                    task.result()
            # Not all conditions are about objects: look now and then, too.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await changed.wait()


@contextlib.asynccontextmanager
async def operators() -> AsyncIterator[OperatorWorld]:
    """An API without operators; those that are started are stopped at the end."""
    async with KubeApi() as api:
        world = OperatorWorld(api)
        try:
            yield world
        finally:
            for task in world.tasks:
                task.cancel()
            if world.tasks:
                await asyncio.wait(world.tasks)
            for port in world.ports:
                await port.close()
