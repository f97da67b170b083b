"""How the operator answers a request for a switchover, over HTTP: in one write, and never one that
it has not seen. What it answers is decided in plan_switchover.py; see test_plan.py.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fixtures.kube_api import KubeApi
from unit.fabric.rpc_world import in_loop
from unit.operator.model_cluster import ModelCluster

from kube_operator.actions import AnswerSwitchover
from kube_operator.carry_out import Hands
from kube_operator.events import EventRecorder
from kube_operator.kube_port import CLUSTER, Key
from kube_operator.lightkube_port import LightkubePort
from kube_operator.names import SWITCHOVER, SWITCHOVER_RESULT
from kube_operator.runtime import View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REQUEST = {SWITCHOVER: "any", SWITCHOVER_RESULT: "of the last one", "theirs": "stays"}


class Answering:
    """Hands over a cluster whose annotations ask for a switchover."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.put(REQUEST)
        self.port = LightkubePort(api.config())
        self.events = EventRecorder(
            self.port, instance="me", wall_clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)
        )
        (cluster,) = api.kube.of(CLUSTER.plural)
        seen = replace(ModelCluster(1).observed(), annotations=REQUEST)
        view = View(Key("ns", "pg"), {})
        self.hands = Hands(self.port, self.events, view, cluster, seen, None)

    def put(self, annotations: dict[str, str]) -> None:
        """Have the cluster be there with these annotations."""
        metadata = {"namespace": "ns", "name": "pg", "uid": "uid", "annotations": annotations}
        thing = {"apiVersion": CLUSTER.api_version, "kind": CLUSTER.kind, "metadata": metadata}
        self.api.kube.put(CLUSTER.plural, thing)

    @property
    def annotations(self) -> dict[str, str]:
        """As they are by now."""
        (cluster,) = self.api.kube.of(CLUSTER.plural)
        found: dict[str, str] = cluster["metadata"]["annotations"]
        return found

    async def said(self) -> list[dict[str, Any]]:
        """Return the events."""
        task = asyncio.create_task(self.events.run())
        await self.events.drained()
        task.cancel()
        await asyncio.wait([task])
        return self.api.kube.of("events")


@asynccontextmanager
async def answering() -> AsyncIterator[Answering]:
    async with KubeApi() as api:
        world = Answering(api)
        yield world
        await world.port.close()


@in_loop
async def test_what_is_being_done_takes_the_place_of_the_request() -> None:
    async with answering() as world:
        await world.hands.carry_out(AnswerSwitchover("pg-compute-2 epoch=1 since=..."))
        assert world.annotations == {
            SWITCHOVER: "pg-compute-2 epoch=1 since=...", "theirs": "stays"
        }  # fmt: skip
        assert await world.said() == []


@in_loop
async def test_a_refusal_ends_the_request_and_is_an_event() -> None:
    async with answering() as world:
        await world.hands.carry_out(AnswerSwitchover(None, "Refused: there is no replica."))
        assert world.annotations == {
            SWITCHOVER_RESULT: "Refused: there is no replica.", "theirs": "stays"
        }  # fmt: skip
        (event,) = await world.said()
        assert (event["type"], event["reason"]) == ("Warning", "SwitchoverRefused")
        assert event["message"] == "There is no switchover: there is no replica."


@in_loop
async def test_a_request_that_has_changed_meanwhile_is_not_answered() -> None:
    async with answering() as world:
        newer = {SWITCHOVER: "pg-compute-3"}
        world.put(newer)
        await world.hands.carry_out(AnswerSwitchover(None, "pg-compute-2 is the primary."))
        assert world.annotations == newer
