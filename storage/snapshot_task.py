"""When a node makes snapshots of a branch: one task, which outlives trouble of the object store.

    find the base ─► every `every_s`: snapshot, if there is a newer cut ─► now and then: collect

The base is found before any cut is dropped, because a base that is gone costs all pages once more.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import structlog

from fabric.ids import NodeName
from fabric.lsn import Lsn
from object_store.interface import ObjectStore, ObjectStoreError

from .page_store import PageStore, StoreError
from .snapshot_format import SnapshotError, SnapshotLayout, SnapshotStoppedError
from .snapshots import SnapshotWriter
from .threads import in_thread

log = structlog.get_logger()

FAILURES: Final = (ObjectStoreError, SnapshotError, StoreError)
COLLECT_EVERY_S: Final = 3600.0
BASE_RETRY_S: Final = 30.0


class SnapshotTask:
    """Snapshots of one branch on one node."""

    def __init__(
        self,
        store: PageStore,
        objects: ObjectStore,
        layout: SnapshotLayout,
        *,
        node: NodeName,
        every_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.complaint = ""
        self.is_base_known = False
        self._layout = layout
        self._every_s = every_s
        self._clock = clock
        self._collected_s = 0.0
        self._writer = SnapshotWriter(store, objects, layout, node)
        name = f"snapshots {layout.branch}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    @property
    def kept(self) -> tuple[Lsn, ...]:
        """Return the positions of the cuts that snapshots need."""
        return self._writer.pins

    async def close(self) -> None:
        """Stop at the next object."""
        self._writer.stop()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while not self.is_base_known:
            self.is_base_known = await self._tried(self._writer.find_base)
            if not self.is_base_known:
                await asyncio.sleep(BASE_RETRY_S)
        while True:
            await asyncio.sleep(self._every_s)
            if await self._tried(self._snapshot) and self._is_time_to_collect():
                await self._tried(lambda: self._writer.collect(now_s=self._clock()))

    def _snapshot(self) -> None:
        report = self._writer.snapshot()
        if report.stored_bytes:
            log.info(
                "snapshot made",
                branch=self._layout.branch,
                number=report.number,
                lsn=str(report.cut.lsn),
                pages=report.pages,
                stored_bytes=report.stored_bytes,
            )

    def _is_time_to_collect(self) -> bool:
        is_time = self._clock() - self._collected_s >= COLLECT_EVERY_S
        if is_time:
            self._collected_s = self._clock()
        return is_time

    async def _tried(self, work: Callable[[], object]) -> bool:
        try:
            await in_thread(work)
        except SnapshotStoppedError:
            return False
        except FAILURES as error:
            if str(error) != self.complaint:
                self.complaint = str(error)
                log.error("no snapshot", branch=self._layout.branch, reason=self.complaint)  # noqa: TRY400  # one line will do
            return False
        self.complaint = ""
        return True
