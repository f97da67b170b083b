"""Knows the objects of one kind: a list, then a watch from there on, again and again.

The core says what is to be done next and is told what came of it; the shell does it:

    LIST ──listed──► WATCH ──ended, broken──► WATCH from the last version that was heard
      ▲                └── gone, or broken WATCHES_MAX times in a row ──► LIST
      └── broken

A watch that ends is the normal case: the API is asked to end each one after some minutes. What
fails, or ends at once, is repeated after a pause that doubles with each failure and is drawn at
random; so nothing here can be a busy loop, and many operators do not come back in step. A failure
is forgotten when news comes or a watch has lasted.

The watch is taken up again even after hours; only the API can say that a version is too old (410).
If it says so, what is known stays in the store until the list is there: old, but whole.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import structlog

from fabric.backoff import full_jitter_ms

from .kube_port import Gone, Json, Key, Kind, KubeError, KubePort, Unavailable, WatchEvent
from .store import Store

PAUSE_MIN_S: Final = 0.1  # after a failure; jitter alone could draw nought
PAUSE_BASE_MS: Final = 500
PAUSE_CAP_MS: Final = 15_000  # so soon an API that is back is noticed; 13 kinds: two asks a second
PAUSE_ASKED_S_MAX: Final = 60.0  # of what the API may ask for by Retry-After
SHORT_S: Final = 1.0  # a watch that is over sooner, and told nothing, has failed
WATCHES_MAX: Final = 5  # failures in a row after which the version itself is doubted
FAILURES_WARN: Final = 3  # in a row: that an API server is replaced is normal, and cuts watches
LASTS_S: Final = (300, 600)  # a watch; at random, so that not all end in the same moment

log = structlog.get_logger()


class Action(Enum):
    """What is to be done next."""

    LIST = auto()
    WATCH = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done next, and after which pause."""

    action: Action
    pause_s: float = 0.0
    since: str = ""


class Informer:
    """Decides; holds the store. Methods that tell of news return the clusters concerned."""

    def __init__(self, store: Store, *, rng: random.Random) -> None:
        self.store = store
        self.is_synced = False
        self.failures = 0
        self._rng = rng
        self._since = ""  # empty: a list is needed
        self._asked_s = 0.0  # what the API asked us to wait

    def next_step(self) -> Step:
        """Return what is to be done now."""
        action = Action.WATCH if self._since else Action.LIST
        return Step(action, self._pause_s(), self._since)

    def listed(self, items: list[Json], resource_version: str) -> set[Key]:
        """Hear the list that was asked for."""
        self._since, self.is_synced = resource_version, True
        return self.store.listed(items, resource_version)

    def event(self, event: WatchEvent) -> set[Key]:
        """Hear of one change, or that there was none."""
        self._since = event.object["metadata"]["resourceVersion"]
        self._recovered()
        match event.type:
            case "ADDED" | "MODIFIED":
                return self.store.changed(event.object)
            case "DELETED":
                return self.store.vanished(event.object)
            case _:  # BOOKMARK
                return set()

    def ended(self, *, lasted_s: float, told: bool) -> None:
        """Hear that the API has ended the watch, as it does."""
        if lasted_s >= SHORT_S or told:
            self._recovered()
        if lasted_s < SHORT_S:
            self.failures += 1  # told or not: a server may do this all day

    def gone(self) -> None:
        """Hear that the version is no longer known."""
        self.failures += 1
        self._since = ""

    def broken(self, *, retry_after_s: float = 0.0) -> None:
        """Hear that the list or the watch failed."""
        self.failures += 1
        self._asked_s = min(retry_after_s, PAUSE_ASKED_S_MAX)
        if self.failures % WATCHES_MAX == 0:
            self._since = ""  # etcd from a backup: a version that is yet to come

    def _recovered(self) -> None:
        self.failures, self._asked_s = 0, 0.0

    def _pause_s(self) -> float:
        if self.failures == 0:
            return 0.0
        jitter_ms = full_jitter_ms(
            self._rng, failures=self.failures - 1, base_ms=PAUSE_BASE_MS, cap_ms=PAUSE_CAP_MS
        )
        return max(PAUSE_MIN_S + jitter_ms / 1000, self._asked_s)


class InformerShell:
    """Keeps the store of an informer as the API is, while `run` runs."""

    def __init__(
        self,
        port: KubePort,
        informer: Informer,
        *,
        namespace: str,
        selector: str,
        rng: random.Random,
        on_woken: Callable[[set[Key]], None],
        on_restart: Callable[[Kind, str], None],
    ) -> None:
        self._port, self._informer = port, informer
        self._kind = informer.store.kind
        self._namespace, self._selector = namespace, selector
        self._rng = rng
        self._on_woken, self._on_restart = on_woken, on_restart
        self._has_warned = False  # of the outage that there is

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            step = self._informer.next_step()
            await asyncio.sleep(step.pause_s)
            try:
                if step.action is Action.LIST:
                    await self._list()
                else:
                    await self._watch(step.since)
                    self._on_restart(self._kind, "end")
            except Gone:
                self._informer.gone()
                self._on_restart(self._kind, "gone")
            except KubeError as error:
                self._broken(error)
                self._on_restart(self._kind, "error")

    async def _list(self) -> None:
        self._informer.store.listing()
        listing = await self._port.list(
            self._kind, namespace=self._namespace, selector=self._selector
        )
        self._on_woken(self._informer.listed(*listing))
        self._well()

    async def _watch(self, since: str) -> None:
        now_s = asyncio.get_running_loop().time
        began_s, told = now_s(), False
        events = self._port.watch(
            self._kind,
            since=since,
            lasts_s=self._rng.randint(*LASTS_S),
            namespace=self._namespace,
            selector=self._selector,
        )
        async with aclosing(events):
            async for event in events:
                told = True
                self._on_woken(self._informer.event(event))
                self._well()
        self._informer.ended(lasted_s=now_s() - began_s, told=told)

    def _broken(self, error: KubeError) -> None:
        retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else 0.0
        self._informer.broken(retry_after_s=retry_after_s)
        if not self._has_warned and self._informer.failures >= FAILURES_WARN:
            self._has_warned = True
            log.warning(
                "kubernetes does not tell of a kind", kind=self._kind.plural, why=str(error)
            )

    def _well(self) -> None:
        if self._has_warned:
            self._has_warned = False
            log.info("kubernetes tells of a kind again", kind=self._kind.plural)
