"""The KubePort that reconcilers write through: fenced, counted, and seen by the stores at once.

Three things happen at a write that the API alone would not do:

- who does not lead is refused before a request is made;
- the answer is put into the store of its kind, if it is newer than what is there, so that the next
  plan sees the pod that the last one made, although the watch has not told of it yet;
- the cluster that it is part of is woken, unless nothing changed: a plan may take one step a time.

Reads go to the API as they are.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TypeVar

from .kube_port import (
    CLUSTER,
    Json,
    Key,
    Kind,
    KubeError,
    KubePort,
    Listing,
    Unavailable,
    WatchEvent,
    cluster_key,
)
from .operator_metrics import OperatorMetrics
from .store import Store

T = TypeVar("T")


class ObservedPort:
    """A KubePort over another one; see the module for what it adds."""

    def __init__(
        self,
        port: KubePort,
        stores: Mapping[Kind, Store],
        *,
        may_write: Callable[[], bool],
        metrics: OperatorMetrics,
        on_woken: Callable[[set[Key]], None],
    ) -> None:
        self._port = port
        self._stores = stores
        self._may_write = may_write
        self._metrics = metrics
        self._on_woken = on_woken

    async def list(self, kind: Kind, *, namespace: str = "", selector: str = "") -> Listing:
        """Return all objects of a namespace (or of all) that match a label selector."""
        return await self._port.list(kind, namespace=namespace, selector=selector)

    def watch(
        self, kind: Kind, *, since: str, lasts_s: int, namespace: str = "", selector: str = ""
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield what happens after `since`."""
        return self._port.watch(
            kind, since=since, lasts_s=lasts_s, namespace=namespace, selector=selector
        )

    async def get(self, kind: Kind, key: Key) -> Json:
        """Return one object as it is now, not as the store has it."""
        return await self._port.get(kind, key)

    async def create(self, kind: Kind, manifest: Json) -> Json:
        """Make an object; Conflict if there is one of this name."""
        return await self._seen("create", kind, lambda: self._port.create(kind, manifest))

    async def replace(self, kind: Kind, manifest: Json) -> Json:
        """Replace an object that still has the manifest's resourceVersion; else Conflict."""
        return await self._seen("replace", kind, lambda: self._port.replace(kind, manifest))

    async def apply(self, kind: Kind, manifest: Json) -> Json:
        """Make it so."""
        return await self._seen("apply", kind, lambda: self._port.apply(kind, manifest))

    async def apply_status(self, kind: Kind, manifest: Json) -> Json:
        """Apply the manifest's `status`."""
        return await self._seen(
            "apply_status", kind, lambda: self._port.apply_status(kind, manifest)
        )

    async def patch(
        self, kind: Kind, key: Key, changes: Json, *, resource_version: str = ""
    ) -> Json:
        """Merge changes into an object."""
        return await self._seen(
            "patch",
            kind,
            lambda: self._port.patch(kind, key, changes, resource_version=resource_version),
        )

    async def delete(
        self,
        kind: Kind,
        key: Key,
        *,
        uid: str,
        grace_s: int | None = None,
        propagation: str = "Background",
    ) -> Json | None:
        """Delete the object of this uid; return it if it lingers."""

        def call() -> Awaitable[Json | None]:
            return self._port.delete(kind, key, uid=uid, grace_s=grace_s, propagation=propagation)

        left = await self._write("delete", kind, call)
        store = self._stores.get(kind)
        if store is not None:
            self._on_woken(store.deleted(key, uid) if left is None else store.wrote(left))
        return left

    async def close(self) -> None:
        """Nothing: whoever opened the other port closes it."""

    async def _seen(self, verb: str, kind: Kind, call: Callable[[], Awaitable[Json]]) -> Json:
        answer = await self._write(verb, kind, call)
        store = self._stores.get(kind)
        # What is no part of a cluster is in no store, as the watch does not tell of it.
        if store is not None and (kind == CLUSTER or cluster_key(answer) is not None):
            self._on_woken(store.wrote(answer))
        return answer

    async def _write(self, verb: str, kind: Kind, call: Callable[[], Awaitable[T]]) -> T:
        if not self._may_write():
            raise Unavailable("this operator does not lead any more")
        self._metrics.wrote(verb, kind)
        try:
            return await call()
        except KubeError as error:
            self._metrics.refused(error)
            raise
