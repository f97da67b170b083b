"""The benchmark's API server over HTTPS, with the operator's own client at the other end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from unit.fabric.rpc_world import in_loop

from bench.operator_scale.api_server import ApiServer, Asked, writes_of
from bench.operator_scale.objects import Objects
from kube_operator.kube_port import CLUSTER_LABEL, LEASE, POD, Conflict, Key, Unavailable
from kube_operator.lightkube_port import LightkubePort, load_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def api(directory: Path) -> AsyncIterator[tuple[ApiServer, Objects, LightkubePort]]:
    objects = Objects()
    async with ApiServer(objects, directory) as server:
        port = LightkubePort(load_config(server.kubeconfig))
        try:
            yield server, objects, port
        finally:
            await port.close()


def pod(name: str, **labels: str) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": name, "labels": {CLUSTER_LABEL: "pg", **labels}}
    return {"metadata": metadata, "spec": {}}


@in_loop
async def test_what_is_written_is_listed_and_watched(tmp_path: Path) -> None:
    async with api(tmp_path) as (_, objects, port):
        await port.apply(POD, pod("a"))
        listing = await port.list(POD, selector=CLUSTER_LABEL)
        assert [one["metadata"]["name"] for one in listing.items] == ["a"]
        watch = port.watch(POD, since=listing.resource_version, lasts_s=30, selector=CLUSTER_LABEL)
        async with aclosing(watch) as events:
            await port.patch(POD, Key("ns", "a"), {"metadata": {"labels": {"x": "y"}}})
            objects.put("pods", {"metadata": {"namespace": "ns", "name": "not of a cluster"}})
            objects.set_status("pods", "ns", "a", {"phase": "Running"})
            heard = [await anext(events) for _ in range(2)]
        assert [event.type for event in heard] == ["MODIFIED", "MODIFIED"]
        assert heard[0].object["metadata"]["labels"]["x"] == "y"
        assert heard[1].object["status"] == {"phase": "Running"}


@in_loop
async def test_a_watch_ends_when_it_was_asked_to(tmp_path: Path) -> None:
    async with api(tmp_path) as (_, objects, port):
        watch = port.watch(POD, since=str(objects.version), lasts_s=1)
        assert [event async for event in watch] == []


@in_loop
async def test_writes_are_counted_leases_apart(tmp_path: Path) -> None:
    async with api(tmp_path) as (server, _, port):
        made = await port.apply(POD, pod("a"))
        await port.get(POD, Key("ns", "a"))
        await port.create(LEASE, {"metadata": {"namespace": "ns", "name": "l"}})
        await port.delete(POD, Key("ns", "a"), uid=made["metadata"]["uid"])
        assert server.requests[Asked("get", "pods")] == 1
        assert writes_of(server.requests, leases=False) == 2
        assert writes_of(server.requests, leases=True) == 1


@in_loop
async def test_refusals_reach_the_client_as_what_they_are(tmp_path: Path) -> None:
    async with api(tmp_path) as (server, _, port):
        await port.create(POD, pod("a"))
        with pytest.raises(Conflict):
            await port.create(POD, pod("a"))
        text = server.kubeconfig.read_text()
        other = tmp_path / "other"
        await asyncio.to_thread(other.write_text, text.replace('"token":"', '"token":"x'))
        stranger = LightkubePort(load_config(other))
        with pytest.raises(Unavailable, match="401"):
            await stranger.get(POD, Key("ns", "a"))
        await stranger.close()
