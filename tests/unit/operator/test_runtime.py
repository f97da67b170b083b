"""The operator's runtime: clusters are looked at when something happens, and by one operator only.

In scope: the whole loop against an API over HTTP, with a reconciler of its own (runtime_world.py)
that checks how it is called; faults of the API at random; two operators. Out of scope: what is done
for a PostgresCluster.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from fixtures.kube_api import DONE
from structlog.testing import capture_logs
from unit.fabric.rpc_world import in_loop
from unit.operator.runtime_world import PodKeeper, operators

from fabric.metrics import MetricsServer
from kube_operator import election, runtime, work_queue
from kube_operator.kube_port import (
    CLUSTER,
    CONFIG_MAP,
    POD,
    Key,
    Refused,
    Unavailable,
    version_of,
)
from kube_operator.runtime import RuntimeSettings

if TYPE_CHECKING:
    from collections.abc import Callable

ELECTED = RuntimeSettings(lease_namespace="operators")


@in_loop
async def test_cluster_gets_what_it_asks_for_and_nothing_is_made_twice() -> None:
    async with operators() as world:
        world.cluster("a", 5)
        world.start()
        await world.until(lambda: world.api.kube.of(CLUSTER.plural)[0].get("status") is not None)
        assert len(world.pods("a")) == 5
        assert len([w for w in world.api.writes if w.verb == "create" and w.plural == "pods"]) == 5
        world.cluster("a", 2)
        await world.until(lambda: len(world.pods("a")) == 2)


@in_loop
async def test_settled_cluster_makes_no_writes_and_is_not_looked_at() -> None:
    async with operators() as world:
        key = world.cluster("a", 2)
        _, keeper = world.start()
        await world.until(lambda: world.api.kube.of(CLUSTER.plural)[0].get("status") is not None)
        await world.until(lambda: len(world.api.writes_of("events")) == 1)
        await asyncio.sleep(5 * work_queue.SPACING_S)  # the look that the status write causes
        writes, calls = len(world.api.writes), len(keeper.calls)
        await asyncio.sleep(1.0)
        assert len(world.api.writes) == writes
        assert len(keeper.calls) == calls
        assert calls <= 6, f"two pods, a status and a look afterwards: {keeper.calls}"
        assert set(keeper.calls) == {key}


@in_loop
async def test_pod_that_is_lost_wakes_its_cluster_and_no_other() -> None:
    async with operators() as world:
        world.cluster("a", 2)
        world.cluster("b", 2)
        _, keeper = world.start()
        await world.until(lambda: len(world.pods("a")) + len(world.pods("b")) == 4)
        await asyncio.sleep(5 * work_queue.SPACING_S)
        keeper.calls.clear()
        world.api.kube.remove("pods", "ns", world.pods("a")[0]["metadata"]["name"])
        await world.until(lambda: len(world.pods("a")) == 2)
        assert set(keeper.calls) == {Key("ns", "a")}


@in_loop
async def test_clusters_are_looked_at_side_by_side_but_each_once_at_a_time() -> None:
    async with operators() as world:
        for name in "abcdefghijkl":
            world.cluster(name, 0)
        gate = asyncio.Event()

        def hold(keeper: PodKeeper) -> None:
            keeper.hold = gate

        operator, keeper = world.start(prepare=hold)
        await world.until(lambda: len(keeper.running) == RuntimeSettings().workers)
        for key in list(keeper.running):
            for _ in range(3):
                operator.wake(key)
        first = list(keeper.calls)
        gate.set()
        await world.until(lambda: len(keeper.calls) >= 12 + len(first))
        assert keeper.running_max == RuntimeSettings().workers
        assert all(keeper.calls.count(key) == 2 for key in first), "woken meanwhile: once more"


@in_loop
async def test_reconciler_that_fails_is_slowed_down_and_the_others_go_on() -> None:
    async with operators() as world:
        bad, good = world.cluster("bad", 1), world.cluster("good", 1)

        def break_one(keeper: PodKeeper) -> None:
            keeper.fault, keeper.faulty = ValueError("a bug"), bad

        with capture_logs() as logs:
            operator, keeper = world.start(prepare=break_one)
            await world.until(lambda: len(world.pods("good")) == 1)
            await world.until(lambda: keeper.calls.count(bad) >= 2)
            for _ in range(20):
                operator.wake(bad)
                operator.wake(good)
                await asyncio.sleep(0.02)
            assert keeper.calls.count(bad) <= 4
            keeper.fault = None
            await world.until(lambda: len(world.pods("bad")) == 1)
        errors = [entry for entry in logs if entry["log_level"] == "error"]
        assert {entry["event"] for entry in errors} == {"a look at a cluster failed"}


@pytest.mark.parametrize(
    ("error", "warnings"),
    [(Refused("the manifest is bad (422)"), "all"), (Unavailable("gone"), "one")],
)
@in_loop
async def test_errors_of_the_api_are_logged_as_what_they_are(
    error: Exception, warnings: str
) -> None:
    async with operators() as world:
        key = world.cluster("a", 1)

        def fail(keeper: PodKeeper) -> None:
            keeper.fault = error

        with capture_logs() as logs:
            operator, keeper = world.start(prepare=fail)
            await world.until(lambda: len(keeper.calls) >= 2)
            operator.wake(key)
            await world.until(lambda: len(keeper.calls) >= 3)
            await asyncio.sleep(0)
        said = [entry["why"] for entry in logs if entry["log_level"] == "warning"]
        assert said[0] == str(error)
        assert len(said) == 1 if warnings == "one" else len(said) >= 2


@in_loop
async def test_look_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "RECONCILE_S", 0.05)
    async with operators() as world:
        world.cluster("a", 0)

        def hang(keeper: PodKeeper) -> None:
            keeper.hold = asyncio.Event()

        with capture_logs():
            _, keeper = world.start(prepare=hang)
            await world.until(lambda: len(keeper.calls) == 2)


@in_loop
async def test_reconciler_says_when_it_wants_to_look_again() -> None:
    async with operators() as world:
        world.cluster("a", 0)

        def again(keeper: PodKeeper) -> None:
            keeper.requeue_after_s = 0.15

        _, keeper = world.start(prepare=again)
        await world.until(lambda: len(keeper.calls) >= 4)


@in_loop
async def test_every_cluster_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "RESYNC_S", 0.2)
    async with operators() as world:
        world.cluster("a", 0)
        _, keeper = world.start()
        await world.until(lambda: len(keeper.calls) >= 4)


@in_loop
async def test_cluster_that_is_gone_is_looked_at_a_last_time_and_forgotten() -> None:
    async with operators() as world:
        key = world.cluster("a", 1)
        operator, keeper = world.start()
        await world.until(lambda: len(world.pods("a")) == 1)
        await asyncio.sleep(5 * work_queue.SPACING_S)
        keeper.calls.clear()
        world.api.kube.remove(CLUSTER.plural, *key)
        await world.until(lambda: bool(keeper.calls))
        assert not world.pods("a"), "the API collects what a cluster owns"
        await world.until(lambda: len(operator._queue) == 0)
        assert operator.clusters() == []


@in_loop
async def test_view_shows_a_write_before_any_watch_tells_of_it() -> None:
    async with operators() as world:
        key = world.cluster("a", 0)
        operator, _ = world.start()
        await world.until(operator.is_synced)
        made = await operator.api.apply(
            CONFIG_MAP,
            {"metadata": {"namespace": "ns", "name": "x", "labels": {"seawall.dev/cluster": "a"}}},
        )
        view = operator.view(key)
        before = view.versions()
        assert view.owned(CONFIG_MAP) == [made]
        assert ("configmaps", Key("ns", "x"), version_of(made)) in before
        await operator.api.delete(CONFIG_MAP, Key("ns", "x"), uid=made["metadata"]["uid"])
        assert view.owned(CONFIG_MAP) == []
        assert view.versions() != before


@in_loop
async def test_nothing_is_done_before_all_kinds_are_known() -> None:
    async with operators() as world:
        world.cluster("a", 1)
        world.api.fail(500, times=3, matching="/configmaps")
        operator, keeper = world.start()
        await world.until(lambda: len(world.api.requests) >= 5)
        assert not operator.is_synced()
        assert not keeper.calls
        await world.until(lambda: len(world.pods("a")) == 1)


@in_loop
async def test_operator_of_one_namespace_sees_no_other_and_nodes_if_it_is_to() -> None:
    async with operators() as world:
        world.cluster("a", 1)
        world.api.kube.put("nodes", {"metadata": {"name": "n"}, "spec": {}})
        seeing, _ = world.start(settings=RuntimeSettings(elect=False, watch_nodes=True))
        blind, idle = world.start(settings=RuntimeSettings(elect=False, namespace="other"))
        await world.until(lambda: seeing.is_synced() and blind.is_synced())
        await world.until(lambda: len(world.pods("a")) == 1)
        assert [node["metadata"]["name"] for node in seeing.view(Key("ns", "a")).nodes()] == ["n"]
        assert blind.view(Key("ns", "a")).nodes() == []
        assert blind.clusters() == []
        assert not idle.calls


# --- two operators --------------------------------------------------------------------------------


@in_loop
async def test_one_of_two_operators_works_and_the_other_takes_over() -> None:
    async with operators() as world:
        world.cluster("a", 1)
        one, _ = world.start(identity="one", settings=ELECTED)
        await world.until(lambda: len(world.pods("a")) == 1)
        two, idle = world.start(identity="two", settings=ELECTED)
        await world.until(two.is_synced)
        with pytest.raises(Unavailable, match="does not lead"):
            await two.api.apply(POD, {"metadata": {"namespace": "ns", "name": "x"}})
        assert one.is_leader()
        assert not idle.calls
        await world.stop(0)
        world.cluster("a", 2)
        await world.until(lambda: len(world.pods("a")) == 2)
        assert two.is_leader()
        assert not one.is_leader()


@in_loop
async def test_operator_that_loses_the_lease_stops_and_goes_on_when_it_has_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(election, "RENEW_EVERY_S", 0.2)
    monkeypatch.setattr("kube_operator.elector.RETRY_EVERY_S", 0.2)
    async with operators() as world:
        world.cluster("a", 1)
        operator, keeper = world.start(settings=ELECTED)
        await world.until(lambda: len(world.pods("a")) == 1)
        lease = world.api.kube.of("leases")[0]
        taken = {**lease, "spec": {**lease["spec"], "holderIdentity": "other"}}
        keeper.hold = asyncio.Event()
        operator.wake(Key("ns", "a"))
        await world.until(lambda: bool(keeper.running))
        world.api.kube.put("leases", taken)
        await world.until(lambda: not operator.is_leader())
        await world.until(lambda: not keeper.running)
        keeper.hold = None
        world.cluster("a", 3)
        world.api.kube.remove("leases", "operators", "seawall-operator")
        await world.until(lambda: len(world.pods("a")) == 3)


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@in_loop
async def test_clusters_converge_through_faults_of_the_api(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "BACKOFF_BASE_MS", 50)
    monkeypatch.setattr(work_queue, "BACKOFF_CAP_MS", 500)
    monkeypatch.setattr("kube_operator.informer.PAUSE_BASE_MS", 50)
    monkeypatch.setattr("kube_operator.informer.PAUSE_CAP_MS", 500)
    rng = random.Random(seed)
    async with operators() as world:
        with capture_logs():
            world.start()
            faults: list[Callable[[], None]] = [
                world.api.drop_watches,
                world.api.kube.forget_history,
                lambda: world.api.fail(500, times=3),
                lambda: world.api.fail(429, times=2, retry_after_s=1),
                lambda: world.api.cut(times=3),
                lambda: world.api.fail(409, matching="POST"),
                world.api.down,
            ]
            wanted: dict[str, int] = {}
            for _ in range(25):
                rng.choice(faults)()
                name = rng.choice("abc")
                wanted[name] = rng.randrange(5)
                world.cluster(name, wanted[name])
                if wanted[name] and world.pods(name):
                    pod = rng.choice(world.pods(name))
                    world.api.kube.remove("pods", "ns", pod["metadata"]["name"])
                await asyncio.sleep(rng.uniform(0, 0.15))
                if rng.random() < 0.5:
                    world.api.heal()
            world.api.heal()
            await world.until(
                lambda: (
                    {name: len(world.pods(name)) for name in wanted} == wanted
                    and all("status" in c for c in world.api.kube.of(CLUSTER.plural))
                )
            )
    too_many = [w for w in world.api.writes if w.verb == "create" and w.status == DONE]
    assert too_many, "pods were made"


# --- metrics --------------------------------------------------------------------------------------


async def ask(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    try:
        return (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()


@in_loop
async def test_metrics_tell_what_the_operator_does_and_health_when_it_has_ended() -> None:
    async with operators() as world:
        world.cluster("a", 2)
        operator, _ = world.start(settings=ELECTED)
        server = MetricsServer(operator.metrics.registry, problem=operator.problem)
        port = await server.start()
        await world.until(lambda: world.api.kube.of(CLUSTER.plural)[0].get("status") is not None)
        text = await ask(port, "/metrics")
        for line in (
            'seawall_operator_api_writes_total{kind="pods",verb="create"} 2.0',
            "seawall_operator_leader 1.0",
            "seawall_operator_clusters 1.0",
            "seawall_operator_synced 1.0",
            "seawall_operator_reconcile_seconds_count",
            'seawall_operator_reconciles_total{result="done"}',
            "seawall_operator_queue_depth",
        ):
            assert line in text, text
        assert "200 OK" in await ask(port, "/healthz")
        await world.stop(0)
        assert "the operator has ended" in await ask(port, "/healthz")
        await server.close()
