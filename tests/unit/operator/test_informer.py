"""What is known of the API: stores that never go back, informers that never spin.

In scope: every rule of store.py and of the core of informer.py; a store beside a random history
that reaches it late, by lists and by answers to writes; the shell over HTTP with faults. Out of
scope: what is done with what is known.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from fixtures.kube_api import KubeApi
from fixtures.kube_objects import KubeObjects
from structlog.testing import capture_logs
from unit.fabric.rpc_world import in_loop

from kube_operator.informer import (
    PAUSE_CAP_MS,
    PAUSE_MIN_S,
    SHORT_S,
    WATCHES_MAX,
    Action,
    Informer,
    InformerShell,
)
from kube_operator.kube_port import CLUSTER, CLUSTER_LABEL, POD, Key, Kind, WatchEvent
from kube_operator.lightkube_port import LightkubePort
from kube_operator.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Json = dict[str, Any]


def pod(name: str, version: int, *, cluster: str = "c", uid: str = "", **spec: object) -> Json:
    labels = {CLUSTER_LABEL: cluster} if cluster else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "labels": labels,
        },
        "spec": spec,
    }


C, D = Key("ns", "c"), Key("ns", "d")


# --- Store ----------------------------------------------------------------------------------------


def test_change_wakes_the_cluster_that_an_object_is_part_of() -> None:
    store = Store(POD)
    assert store.changed(pod("a", 1)) == {C}
    assert store.changed(pod("a", 2)) == {C}
    assert store.changed(pod("a", 3, cluster="d")) == {C, D}, "it has changed sides"
    assert store.of_cluster(C) == []
    assert store.vanished(pod("a", 4, cluster="d")) == {D}
    assert len(store) == 0
    assert not list(store.clusters())


def test_cluster_wakes_itself() -> None:
    store = Store(CLUSTER, is_cluster=True)
    assert store.changed(pod("c", 1, cluster="")) == {C}


def test_what_is_known_already_wakes_nobody() -> None:
    store = Store(POD)
    store.changed(pod("a", 2))
    assert store.changed(pod("a", 2)) == set()
    assert store.changed(pod("a", 1, old=True)) == set()
    assert store.listed([pod("a", 2)], "5") == set()
    assert store.vanished(pod("a", 1)) == set(), "it was made anew since"


def test_view_is_a_copy() -> None:
    store = Store(POD)
    store.changed(pod("a", 1))
    store.of_cluster(C)[0]["spec"]["x"] = 1
    assert store.of_cluster(C) == [pod("a", 1)]


def test_answer_to_a_write_is_seen_at_once_and_its_event_later_is_no_news() -> None:
    store = Store(POD)
    assert store.wrote(pod("a", 5)) == {C}
    assert store.changed(pod("a", 5)) == set()
    assert store.changed(pod("a", 6)) == {C}
    assert store.wrote(pod("a", 5)) == set(), "an answer that was overtaken"


def test_what_we_deleted_does_not_come_back_from_a_watch_that_is_late() -> None:
    store = Store(POD)
    store.changed(pod("a", 5))
    assert store.deleted(Key("ns", "a"), "uid-a") == {C}
    assert store.changed(pod("a", 6)) == set(), "it happened before"
    assert store.vanished(pod("a", 7)) == set()
    assert store.changed(pod("a", 8, uid="another")) == {C}


def test_deletion_of_another_object_of_this_name_changes_nothing() -> None:
    store = Store(POD)
    store.changed(pod("a", 5, uid="another"))
    assert store.deleted(Key("ns", "a"), "uid-a") == set()
    assert len(store) == 1


def test_list_replaces_all_but_what_was_written_after_it_was_asked_for() -> None:
    store = Store(POD)
    for name in ("old", "kept", "ours"):
        store.changed(pod(name, 5))
    store.listing()
    store.wrote(pod("new", 12))
    store.wrote(pod("ours", 13))
    store.deleted(Key("ns", "kept"), "uid-kept")
    store.listed([pod("kept", 5), pod("ours", 5), pod("other", 9)], "10")
    versions = {p["metadata"]["name"]: p["metadata"]["resourceVersion"] for p in store.all()}
    assert versions == {"new": "12", "ours": "13", "other": "9"}


def test_list_of_a_restored_etcd_replaces_newer_versions() -> None:
    store = Store(POD)
    store.changed(pod("a", 500))
    store.changed(pod("b", 501))
    store.listing()
    assert store.listed([pod("a", 3)], "7") == {C}
    assert [p["metadata"]["resourceVersion"] for p in store.all()] == ["3"]


class LateWorld:
    """A store that hears of an API late: a watch behind by some events, lists that take a while."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kube = KubeObjects()
        self.store = Store(POD)
        self.heard = self.kube.version
        self.lists: list[tuple[list[Json], int]] = []
        self.newest: dict[str, int] = {}  # what we know to be true because we wrote it

    def step(self) -> None:
        """Let something happen."""
        name = self.rng.choice("abcd")
        place = ("pods", "ns", name)
        match self.rng.randrange(6):
            case 0:
                self.write(name)
            case 1:
                answer = self.write(name)
                self.store.wrote(answer)
            case 2 if place in self.kube.objects:
                uid = self.kube.objects[place]["metadata"]["uid"]
                self.kube.remove(*place)
                if self.rng.random() < 0.5:
                    self.store.deleted(Key("ns", name), uid)
            case 3:
                self.hear(self.rng.randrange(4))
            case 4 if not self.lists:
                self.store.listing()
                self.lists.append((list(self.kube.of("pods")), self.kube.version))
            case 5 if self.lists:
                items, version = self.lists.pop()
                self.store.listed(items, str(version))
                self.heard = version
            case _:
                pass

    def write(self, name: str) -> Json:
        """Let the API have another pod of this name."""
        return self.kube.put("pods", pod(name, 0, n=self.rng.randrange(100)))

    def hear(self, count: int) -> None:
        """Let the watch tell of the next changes."""
        for change in self.kube.since(self.heard)[:count]:
            tell = self.store.vanished if change.type == "DELETED" else self.store.changed
            tell(change.after)
            self.heard = change.version


@pytest.mark.parametrize("seed", range(200))
def test_store_ends_where_the_api_is_whatever_comes_late(seed: int) -> None:
    world = LateWorld(seed)
    for _ in range(60):
        world.step()
        for thing in world.store.all():
            now = world.kube.objects.get(("pods", "ns", thing["metadata"]["name"]))
            if now is not None and not world.lists:
                assert int(thing["metadata"]["resourceVersion"]) <= world.kube.version
    if world.lists:
        items, version = world.lists.pop()
        world.store.listed(items, str(version))
        world.heard = version
    world.hear(1000)
    assert list(world.store.all()) == world.kube.of("pods")
    assert not world.store._deleted, "nothing is remembered for ever"


# --- Informer -------------------------------------------------------------------------------------


@pytest.fixture
def informer() -> Informer:
    return Informer(Store(POD), rng=random.Random(1))


def bookmark(version: int) -> WatchEvent:
    return WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def test_informer_lists_then_watches_from_the_last_version_it_heard(informer: Informer) -> None:
    assert informer.next_step().action is Action.LIST
    assert not informer.is_synced
    assert informer.listed([pod("a", 3)], "7") == {C}
    assert informer.is_synced
    assert informer.next_step().since == "7"
    informer.event(bookmark(20))
    assert informer.next_step().since == "20"
    assert informer.event(WatchEvent("DELETED", pod("a", 21))) == {C}
    assert informer.next_step().since == "21"


def test_watch_that_has_ended_is_taken_up_at_once(informer: Informer) -> None:
    informer.listed([], "7")
    informer.ended(lasted_s=SHORT_S, told=False)
    step = informer.next_step()
    assert (step.action, step.pause_s, step.since) == (Action.WATCH, 0.0, "7")


@pytest.mark.parametrize("told", [False, True])
def test_watch_that_ends_at_once_is_taken_up_after_a_pause(
    informer: Informer, *, told: bool
) -> None:
    informer.listed([], "7")
    informer.ended(lasted_s=0.0, told=told)
    assert informer.next_step().pause_s >= PAUSE_MIN_S


def test_version_that_is_gone_leads_to_a_list_and_the_store_stays(informer: Informer) -> None:
    informer.listed([pod("a", 3)], "7")
    informer.gone()
    step = informer.next_step()
    assert step.action is Action.LIST
    assert step.pause_s >= PAUSE_MIN_S, "an API that always says so is not asked without end"
    assert len(informer.store) == 1
    assert informer.is_synced


def test_failures_slow_down_to_a_limit_and_news_forgives_them(informer: Informer) -> None:
    informer.listed([], "7")
    pauses_s = []
    for _ in range(100):
        informer.broken()
        pauses_s.append(informer.next_step().pause_s)
    assert min(pauses_s) >= PAUSE_MIN_S
    assert max(pauses_s) <= PAUSE_MIN_S + PAUSE_CAP_MS / 1000
    assert sum(pauses_s[10:]) / 90 > PAUSE_CAP_MS / 1000 / 3, "spread over the whole interval"
    informer.listed([], "9")
    informer.event(bookmark(10))
    assert informer.next_step().pause_s == 0.0


def test_version_with_which_nothing_succeeds_is_doubted(informer: Informer) -> None:
    informer.listed([], "7")
    for _ in range(WATCHES_MAX):
        assert informer.next_step().action is Action.WATCH
        informer.broken()
    assert informer.next_step().action is Action.LIST


def test_api_that_asks_for_a_pause_gets_it_within_limits(informer: Informer) -> None:
    informer.broken(retry_after_s=45.0)
    assert informer.next_step().pause_s == 45.0
    informer.broken(retry_after_s=1e9)
    assert informer.next_step().pause_s == 60.0


# --- over HTTP ------------------------------------------------------------------------------------


class Informed:
    """An API, an informer of its pods, and what it woke."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.store = Store(POD)
        self.informer = Informer(self.store, rng=random.Random(1))
        self.restarts: list[str] = []
        self.news = asyncio.Event()

    def shell(self, port: LightkubePort) -> InformerShell:
        """Return what lists and watches."""
        return InformerShell(
            port,
            self.informer,
            namespace="",
            selector=CLUSTER_LABEL,
            rng=random.Random(2),
            on_woken=self.woken,
            on_restart=self.restarted,
        )

    def woken(self, woken: set[Key]) -> None:
        """Hear of changes."""
        del woken
        self.news.set()

    def restarted(self, kind: Kind, reason: str) -> None:
        """Hear of the end of a watch."""
        assert kind == POD
        self.restarts.append(reason)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with news."""
        while not condition():
            self.news.clear()
            await self.news.wait()

    def names(self) -> list[str]:
        """Return the pods that the store knows."""
        return [thing["metadata"]["name"] for thing in self.store.all()]

    def put(self, name: str, *, cluster: str = "c", text: str = "") -> None:
        """Let somebody make or change a pod."""
        self.api.kube.put("pods", pod(name, 0, cluster=cluster, text=text))


@asynccontextmanager
async def informed() -> AsyncIterator[Informed]:
    async with KubeApi() as api:
        world = Informed(api)
        port = LightkubePort(api.config())
        task = asyncio.create_task(world.shell(port).run())
        try:
            await world.until(lambda: world.informer.is_synced)
            yield world
        finally:
            task.cancel()
            await asyncio.wait([task])
            await port.close()
        assert task.cancelled(), task


@in_loop
async def test_objects_come_change_and_go_and_others_are_not_told_of() -> None:
    async with informed() as world:
        world.put("other", cluster="")
        world.put("a")
        world.put("b")
        await world.until(lambda: world.names() == ["a", "b"])
        world.put("a", cluster="", text="its label is gone")
        await world.until(lambda: world.names() == ["b"])
        world.api.kube.remove("pods", "ns", "b")
        await world.until(lambda: world.names() == [])


@in_loop
async def test_text_with_line_ends_of_other_scripts_is_one_line() -> None:
    async with informed() as world:
        world.put("a", text="x\u0085y\u2028z\x0b")
        await world.until(lambda: world.names() == ["a"])
        assert world.store.of_cluster(C)[0]["spec"]["text"] == "x\u0085y\u2028z\x0b"


@in_loop
async def test_watch_that_is_cut_misses_nothing() -> None:
    async with informed() as world:
        for number in range(5):
            world.api.drop_watches()
            world.put(f"p{number}")
            await world.until(lambda number=number: f"p{number}" in world.names())  # type: ignore[misc]  # mypy infers no type for a lambda's default
        lists = [r for r in world.api.requests if "watch" not in r]
        assert len(lists) == 1, "a watch is taken up where it was"


@in_loop
async def test_history_that_is_forgotten_is_made_up_for_by_a_list() -> None:
    async with informed() as world:
        world.put("a")
        await world.until(lambda: world.names() == ["a"])
        world.api.fail(410, matching="watch=true")
        world.api.drop_watches()
        world.api.kube.remove("pods", "ns", "a")
        world.put("b")
        world.api.kube.forget_history()
        await world.until(lambda: world.names() == ["b"])
        assert "gone" in world.restarts


@in_loop
async def test_api_that_is_away_is_asked_with_pauses_and_found_again() -> None:
    with capture_logs() as logs:
        async with informed() as world:
            asked = len(world.api.requests)
            world.api.down()
            await world.until(lambda: len(world.restarts) >= 4)
            world.put("a")
            world.api.heal()
            await world.until(lambda: world.names() == ["a"])
            assert len(world.api.requests) - asked < 10
    events = [entry["event"] for entry in logs]
    assert events == [
        "kubernetes does not tell of a kind",
        "kubernetes tells of a kind again",
    ], "an outage is two lines"


@in_loop
async def test_list_comes_in_pages() -> None:
    async with KubeApi() as api:
        for number in range(600):
            api.kube.put("pods", pod(f"p{number:03}", 0))
        port = LightkubePort(api.config())
        listing = await port.list(POD, selector=CLUSTER_LABEL)
        await port.close()
        assert len(listing.items) == 600
        assert len(api.requests) == 3
        assert listing.items[0]["kind"] == "Pod"
