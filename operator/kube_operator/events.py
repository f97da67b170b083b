"""Events of Kubernetes: what `kubectl describe` shows below a cluster.

    recorder.note(cluster, Notice("Warning", "ImagePull", "the image ... cannot be pulled"))

Core v1 events, since `describe` prints their count and their first and last time, which those of
events.k8s.io/v1 lack until they have become a series. The same notice again is the same event with
a larger count, as client-go does it; two limits keep a loop from filling etcd with them:

- a series is written again after REPEAT_S at the earliest; what came meanwhile is counted with it;
- of one object, BURST notices in a row make new events, then one each REFILL_S.

What is above the limits is dropped, as is what the API does not take: events are a courtesy, and
the status says all that matters. The core decides and knows no clock; the shell writes.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from .kube_port import EVENT, FIELD_MANAGER, Json, Key, KubeError, KubePort, NotFound, key_of

REPEAT_S: Final = 60.0
SERIES_S: Final = 600.0  # a notice after a longer silence begins a new event
BURST: Final = 20
REFILL_S: Final = 30.0
SERIES_MAX: Final = 2_000  # ten each of 200 clusters
BUCKETS_MAX: Final = 1_000
UNSENT_MAX: Final = 256  # waiting for the API
MESSAGE_CHARACTERS_MAX: Final = 1_000  # Kubernetes' own limit is 1,024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Notice:
    """What happened: `type` is Normal or Warning, `reason` one word for machines."""

    type: str
    reason: str
    message: str


@dataclass(slots=True)
class _Series:
    """The same notice of the same object, again and again."""

    name: str
    count: int = 0
    noted_s: float = 0.0
    written_s: float | None = None


@dataclass(slots=True)
class _Bucket:
    """What one object may still say."""

    tokens: float = BURST
    filled_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Writing:
    """An event to be made, or if `is_first` is false, one to be counted on."""

    name: str
    count: int
    is_first: bool


@dataclass(slots=True)
class EventLimits:
    """Decides which notices are written."""

    _series: OrderedDict[tuple[str, Notice], _Series] = field(default_factory=OrderedDict)
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)

    def note(self, uid: str, name: str, notice: Notice, now_s: float) -> Writing | None:
        """Hear a notice about the object of this uid and name; return what to write."""
        series = self._series.get((uid, notice))
        if series is not None and now_s - series.noted_s < SERIES_S:
            self._series.move_to_end((uid, notice))
            series.count += 1
            series.noted_s = now_s
            if series.written_s is not None and now_s - series.written_s < REPEAT_S:
                return None
        else:
            if not self._take_token(uid, now_s):
                return None
            series = _Series(_event_name(uid, name, notice, now_s), 1, now_s)
            self._series[uid, notice] = series
            self._series.move_to_end((uid, notice))
            if len(self._series) > SERIES_MAX:
                self._series.popitem(last=False)
        is_first, series.written_s = series.written_s is None, now_s
        return Writing(series.name, series.count, is_first)

    def _take_token(self, uid: str, now_s: float) -> bool:
        bucket = self._buckets.setdefault(uid, _Bucket(filled_s=now_s))
        self._buckets.move_to_end(uid)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
        bucket.tokens = min(BURST, bucket.tokens + (now_s - bucket.filled_s) / REFILL_S)
        bucket.filled_s = now_s
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


class EventRecorder:
    """Writes notices as events, while `run` runs."""

    def __init__(
        self,
        port: KubePort,
        *,
        instance: str,
        wall_clock: Callable[[], datetime],
        on_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._port = port
        self._instance = instance
        self._wall_clock = wall_clock
        self._on_dropped = on_dropped
        self._limits = EventLimits()
        self._unsent: asyncio.Queue[tuple[Writing, Json]] = asyncio.Queue(UNSENT_MAX)

    def note(self, about: Json, notice: Notice) -> None:
        """Say something about an object (whole, as it was read). Never waits, never fails."""
        notice = Notice(notice.type, notice.reason, notice.message[:MESSAGE_CHARACTERS_MAX])
        now_s = asyncio.get_running_loop().time()
        metadata = about["metadata"]
        writing = self._limits.note(metadata["uid"], metadata["name"], notice, now_s)
        if writing is None:
            return
        try:
            self._unsent.put_nowait((writing, self._manifest(about, notice, writing)))
        except asyncio.QueueFull:
            self._on_dropped()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            writing, manifest = await self._unsent.get()
            try:
                await self._write(writing, manifest)
            except KubeError as error:
                self._on_dropped()
                log.debug("an event was not written", reason=manifest["reason"], why=str(error))
            finally:
                self._unsent.task_done()

    async def drained(self) -> None:
        """Wait until all that was noted is written or dropped."""
        await self._unsent.join()

    async def _write(self, writing: Writing, manifest: Json) -> None:
        if not writing.is_first:
            again = {"count": manifest["count"], "lastTimestamp": manifest["lastTimestamp"]}
            try:
                await self._port.patch(EVENT, key_of(manifest), again)
            except NotFound:
                pass  # the API forgets events after an hour; make it anew
            else:
                return
        await self._port.create(EVENT, manifest)

    def _manifest(self, about: Json, notice: Notice, writing: Writing) -> Json:
        where: Key = key_of(about)
        time = self._wall_clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = about["metadata"]
        return {
            "metadata": {"namespace": where.namespace or "default", "name": writing.name},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "namespace": where.namespace,
                "name": where.name,
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": notice.type,
            "reason": notice.reason,
            "message": notice.message,
            "count": writing.count,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
        }


def _event_name(uid: str, name: str, notice: Notice, now_s: float) -> str:
    """Return a name that no other event has, but the same one if a write is repeated."""
    text = f"{uid} {notice.type} {notice.reason} {notice.message} {now_s}"
    return f"{name}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
