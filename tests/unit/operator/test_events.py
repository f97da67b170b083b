"""Events of Kubernetes: seen by people, and never so many that they do harm.

In scope: the limits in virtual time, and the writes over HTTP. Out of scope: which ones there are.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from fixtures.kube_api import KubeApi, Write
from hypothesis import given
from hypothesis import strategies as st
from unit.fabric.rpc_world import in_loop

from kube_operator.events import (
    BURST,
    REFILL_S,
    REPEAT_S,
    SERIES_MAX,
    SERIES_S,
    UNSENT_MAX,
    EventLimits,
    EventRecorder,
    Notice,
)
from kube_operator.lightkube_port import LightkubePort

MADE = Notice("Normal", "Made", "a pod was made")
LOST = Notice("Warning", "Lost", "a pod is lost")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CLUSTER: dict[str, Any] = {
    "apiVersion": "seawall.dev/v1alpha1",
    "kind": "PostgresCluster",
    "metadata": {"namespace": "ns", "name": "c", "uid": "u", "resourceVersion": "5"},
}


def test_first_notice_is_an_event_and_the_same_again_is_counted_on_it() -> None:
    limits = EventLimits()
    first = limits.note("u", "c", MADE, 0.0)
    assert first is not None
    assert (first.count, first.is_first) == (1, True)
    assert limits.note("u", "c", MADE, 1.0) is None, "too soon to be written again"
    again = limits.note("u", "c", MADE, REPEAT_S)
    assert again is not None
    assert (again.name, again.count, again.is_first) == (first.name, 3, False)


def test_other_notices_and_other_objects_are_other_events() -> None:
    limits = EventLimits()
    writings = [limits.note("u", "c", MADE, 0.0), limits.note("u", "c", LOST, 0.0)]
    writings.append(limits.note("v", "d", MADE, 0.0))
    assert len({writing.name for writing in writings if writing is not None}) == 3


def test_notice_after_a_long_silence_is_a_new_event() -> None:
    limits = EventLimits()
    first = limits.note("u", "c", MADE, 0.0)
    later = limits.note("u", "c", MADE, SERIES_S)
    assert first is not None
    assert later is not None
    assert later.is_first
    assert later.name != first.name


def test_one_object_cannot_flood_and_the_others_are_heard() -> None:
    limits = EventLimits()
    notices = [Notice("Warning", "Failed", f"attempt {number}") for number in range(1000)]
    written = [n for n in notices if limits.note("u", "c", n, 0.0) is not None]
    assert len(written) == BURST
    assert limits.note("v", "d", MADE, 0.0) is not None
    assert limits.note("u", "c", MADE, REFILL_S) is not None, "later there is room again"
    assert limits.note("u", "c", LOST, REFILL_S) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.floats(0.0, 30.0))))
def test_writes_are_bounded_whatever_is_said(said: list[tuple[int, int, float]]) -> None:
    limits = EventLimits()
    now_s, written = 0.0, dict.fromkeys(range(4), 0)
    for thing, text, later_s in said:
        now_s += later_s
        notice = Notice("Normal", "Said", str(text))
        if limits.note(f"uid-{thing}", "c", notice, now_s) is not None:
            written[thing] += 1
    for count in written.values():
        new_at_most = BURST + now_s / REFILL_S
        assert count <= new_at_most + 31 * now_s / REPEAT_S


def test_memory_is_bounded() -> None:
    limits = EventLimits()
    for number in range(3 * SERIES_MAX):
        limits.note(f"uid-{number}", "c", MADE, 0.0)
    assert len(limits._series) == SERIES_MAX
    assert len(limits._buckets) <= SERIES_MAX


class Recording:
    """A recorder and its API."""

    def __init__(self, api: KubeApi) -> None:
        self.dropped = 0
        self.port = LightkubePort(api.config())
        self.recorder = EventRecorder(
            self.port, instance="me", wall_clock=lambda: NOW, on_dropped=self._drop
        )

    def _drop(self) -> None:
        self.dropped += 1

    async def write(self) -> None:
        """Write all that was noted."""
        task = asyncio.create_task(self.recorder.run())
        await self.recorder.drained()
        task.cancel()
        await asyncio.wait([task])


@in_loop
async def test_event_has_what_describe_shows() -> None:
    async with KubeApi() as api:
        world = Recording(api)
        world.recorder.note(CLUSTER, Notice("Warning", "Lost", "x" * 5000))
        await world.write()
        (event,) = api.kube.of("events")
        assert event["involvedObject"]["kind"] == "PostgresCluster"
        assert event["involvedObject"]["uid"] == "u"
        assert (event["type"], event["reason"], event["count"]) == ("Warning", "Lost", 1)
        assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-02T03:04:05Z"
        assert event["metadata"]["namespace"] == "ns"
        assert len(event["message"]) == 1000
        await world.port.close()


@in_loop
async def test_series_is_counted_on_and_made_anew_when_the_api_has_forgotten_it() -> None:
    async with KubeApi() as api:
        world = Recording(api)
        limits = world.recorder._limits
        world.recorder.note(CLUSTER, MADE)
        await world.write()
        (series,) = limits._series.values()
        for expected in ("patch", "create"):
            series.written_s = -REPEAT_S
            world.recorder.note(CLUSTER, MADE)
            await world.write()
            assert api.writes[-1].verb == expected
            for event in api.kube.of("events"):
                api.kube.remove("events", "ns", event["metadata"]["name"])
        assert world.dropped == 0
        await world.port.close()


@in_loop
async def test_events_that_cannot_be_written_are_dropped_and_counted() -> None:
    async with KubeApi() as api:
        world = Recording(api)
        for number in range(UNSENT_MAX + 10):
            cluster = {**CLUSTER, "metadata": {**CLUSTER["metadata"], "uid": str(number)}}
            world.recorder.note(cluster, MADE)
        assert world.dropped == 10
        api.fail(403)
        await world.write()
        assert world.dropped == 11
        assert Write("create", "events", "", 200) not in api.writes
        assert len(api.kube.of("events")) == UNSENT_MAX - 1
        await world.port.close()
