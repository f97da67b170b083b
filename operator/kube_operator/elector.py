"""Works while it leads: the shell of election.py around a Lease of the API.

    await Elector(port, key, election, ...).run(work)

`work()` is started when the Lease is ours and cancelled when it is not any more; a next attempt
begins only when the cancelled work has ended. Who is told to end stops the work first and gives the
Lease up then. Looks and renewals that fail are tried again every RETRY_EVERY_S; a renewal has no
more time than there is until its deadline.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Final

import structlog

from .election import (
    RETRY_EVERY_S,
    Acquire,
    Election,
    LeaseRecord,
    Renew,
    Wait,
    manifest_of,
    record_of,
)
from .kube_port import LEASE, Conflict, Key, KubeError, KubePort, NotFound

RELEASE_S: Final = 3.0  # for giving it up; who does not manage makes the next one wait, no more

log = structlog.get_logger()

Work = Callable[[], Coroutine[Any, Any, None]]


class Elector:
    """Campaigns, leads, campaigns again."""

    def __init__(
        self,
        port: KubePort,
        key: Key,
        election: Election,
        *,
        wall_clock: Callable[[], datetime],
        rng: random.Random,
        on_change: Callable[[bool], None],
    ) -> None:
        self._port, self._key = port, key
        self._election = election
        self._wall_clock = wall_clock
        self._rng = rng
        self._on_change = on_change

    async def run(self, work: Work) -> None:
        """Run `work` whenever we lead; return when it returns, raise what it raises."""
        while True:
            await self._campaign()
            log.info("this operator leads", identity=self._election.identity)
            self._on_change(True)
            try:
                if await self._lead(work):
                    return
            finally:
                self._on_change(False)
            log.warning("this operator does not lead any more", identity=self._election.identity)

    async def _campaign(self) -> None:
        """Return when the Lease is ours."""
        has_warned = False
        while True:
            try:
                await self._look()
                decision = self._election.decide(_now_s())
                if isinstance(decision, Acquire):
                    await self._write(decision.over)
                    return
            except (Conflict, NotFound):
                pass  # somebody was faster; or it was deleted between our look and our write
            except KubeError as error:
                if not has_warned:
                    has_warned = True
                    log.warning("the lease cannot be had", lease=str(self._key), why=str(error))
            await asyncio.sleep(RETRY_EVERY_S * self._rng.uniform(0.8, 1.2))

    async def _lead(self, work: Work) -> bool:
        """Renew while the work goes on; return whether it ended by itself."""
        task = asyncio.create_task(work())
        try:
            await self._hold(task)
            if task.done():
                await task
                return True
            return False
        finally:
            release = self._election.release_record(self._wall_clock())
            # From here on nothing is written, even by work that takes its time to end.
            self._election.lost()
            await _end(task)
            if release is not None:
                await self._release(release)

    async def _hold(self, task: asyncio.Task[None]) -> None:
        """Return when the work has ended or the Lease is lost."""
        while not task.done():
            match self._election.decide(_now_s()):
                case Wait(pause_s) if self._election.is_leader(_now_s()):
                    await asyncio.wait({task}, timeout=pause_s)
                case Renew(over):
                    await self._renew(over, task)
                case _:
                    return

    async def _renew(self, over: LeaseRecord, task: asyncio.Task[None]) -> None:
        deadline_s = self._election.deadline_s()
        try:
            async with asyncio.timeout_at(deadline_s):
                try:
                    await self._write(over)
                except (Conflict, NotFound):
                    # Taken, deleted, or ours by a write whose answer was lost: only a look tells.
                    await self._look()
        except (KubeError, TimeoutError) as error:
            log.warning("the lease is not renewed", lease=str(self._key), why=str(error))
            pause_s = min(RETRY_EVERY_S, max(deadline_s - _now_s(), 0.0))
            await asyncio.wait({task}, timeout=pause_s)

    async def _look(self) -> None:
        try:
            record = record_of(await self._port.get(LEASE, self._key))
        except NotFound:
            record = None
        self._election.observed(record, _now_s())

    async def _write(self, over: LeaseRecord | None) -> None:
        began_s = _now_s()
        record = self._election.next_record(over, self._wall_clock())
        manifest = manifest_of(record, self._key)
        if over is None:
            answer = await self._port.create(LEASE, manifest)
        else:
            answer = await self._port.replace(LEASE, manifest)
        self._election.wrote(record_of(answer), began_s=began_s, now_s=_now_s())

    async def _release(self, record: LeaseRecord) -> None:
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._port.replace(LEASE, manifest_of(record, self._key))
        except (KubeError, TimeoutError) as error:
            log.info("the lease is left to run out", lease=str(self._key), why=str(error))


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel work that is not over, and wait until it is."""
    if task.done():
        return
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the work did not end well", exc_info=error)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
