"""What happens to a branch's old cuts on one node: which may go, and their space given back.

    every minute: cuts_to_drop (retention.py) ─► service.dropped ─► store.drop ─► collect, in bits

Collection is work for a quiet moment: a few thousand versions at a time, with a pause between, so
that reads and new cuts have the disk to themselves most of the time.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from fabric.ids import BranchName, CutSeq
from fabric.lsn import Lsn

from .page_service import PageService
from .page_store import PageStore, StoreError
from .retention import Pins, RetentionSettings, cuts_to_drop
from .threads import in_thread

log = structlog.get_logger()

EVERY_S: Final = 60.0
COLLECT_PAGES: Final = 2000  # at a time: some 10 ms
COLLECT_PAUSE_S: Final = 0.05


class Upkeep:
    """One task for all branches of a node."""

    def __init__(
        self,
        store: PageStore,
        service: PageService,
        settings: RetentionSettings,
        *,
        kept: Callable[[BranchName], Sequence[Lsn] | None],
        quiet_until_s: float = 0.0,
    ) -> None:
        """`kept`: what the node itself needs; None: that is not known yet. Before `quiet_until_s`
        nothing is dropped, because computes that run have not renewed their pins yet.
        """
        self._store = store
        self._service = service
        self._settings = settings
        self._kept = kept
        self._quiet_until_s = quiet_until_s
        self._task = asyncio.get_running_loop().create_task(self._run(), name="upkeep")

    async def close(self) -> None:
        """Stop after the step that is under way."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            for branch in self._store.branches():
                try:
                    await self.tend(branch)
                except StoreError as error:
                    log.error("old cuts stay", branch=branch, reason=str(error))  # noqa: TRY400  # one line will do

    async def tend(self, branch: BranchName) -> None:
        """Drop what may go, and collect what was dropped."""
        if time.monotonic() >= self._quiet_until_s:
            await self._drop(branch)
        while await self._collect(branch):  # noqa: ASYNC110  # a pause between, not a poll
            await asyncio.sleep(COLLECT_PAUSE_S)

    async def _drop(self, branch: BranchName) -> None:
        if not len(self._service.cuts(branch)):
            return  # not served yet, or what is left of a branch that was forgotten
        kept = self._kept(branch)
        if kept is None:
            return
        pins = Pins(lsns=[*self._service.pinned(branch).values(), *kept])
        seqs: list[CutSeq] = cuts_to_drop(
            self._store.cuts(branch), now_s=time.time(), settings=self._settings, pins=pins
        )
        if seqs:
            self._service.dropped(branch, seqs)
            await in_thread(self._store.drop, branch, seqs)
            log.info("cuts dropped", branch=branch, count=len(seqs))

    async def _collect(self, branch: BranchName) -> bool:
        """Do a bit; return whether there is more."""
        deleted = await in_thread(self._store.collect, branch, pages_max=COLLECT_PAGES)
        if deleted:
            return True
        stats = await in_thread(self._store.stats, branch)
        return stats.garbage_cuts > 0
