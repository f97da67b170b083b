"""The agent's line to the log: reports and orders, and word of a new epoch as soon as there is one.

A report is due every `report_ms`, less often while nothing moves, and at once when something has
changed. An epoch that was granted
is heard of within milliseconds, by a call that the log answers when anything changes; but orders,
and with them the lease, come as the answer to a report only.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import structlog

from fabric.ids import BranchName
from fabric.rpc_errors import RpcError
from log_service.client import LogClient
from log_service.compute_methods import ComputeReport, Orders

WATCH_MS: Final = 20_000
RETRY_PAUSE_S: Final = 0.2
IDLE_FACTOR: Final = 2  # a compute counts as fresh for longer, and its lease is longer still
LAST_REPORT_MS: Final = 1_000

log = structlog.get_logger()


def now_ms() -> int:
    """The clock of leases: it goes on while the machine sleeps, so that a lease ends meanwhile."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Reporter:
    """Reports what `compose` gives, and hands orders to `heard`, with when the report was sent."""

    def __init__(
        self,
        client: LogClient,
        branch: BranchName,
        *,
        report_ms: int,
        compose: Callable[[], ComputeReport],
        heard: Callable[[int, Orders], None],
    ) -> None:
        self.failure = ""  # why nobody takes reports
        self._client, self._branch, self._report_ms = client, branch, report_ms
        self._compose, self._heard = compose, heard
        self._due = asyncio.Event()
        self._said: ComputeReport | None = None  # with the last report
        self._is_idle = False

    def report_now(self) -> None:
        """Do not wait until the next report is due."""
        self._due.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            self._due.clear()
            await self._report()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_ms / 1000):
                    await self._due.wait()

    @property
    def _pause_ms(self) -> int:
        return self._report_ms * (IDLE_FACTOR if self._is_idle else 1)

    async def report_last(self) -> None:
        """Say how it ended, if anybody listens."""
        with contextlib.suppress(RpcError):
            await self._client.report(self._compose(), timeout_ms=LAST_REPORT_MS)

    async def watch(self) -> None:
        """Have a report made whenever the log says that who is who has changed."""
        known, seen = "", None
        while True:
            try:
                topology = await self._client.watch_topology(self._branch, known, wait_ms=WATCH_MS)
            except RpcError:
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            known = topology.version
            if (topology.epoch, topology.leader) != seen:
                seen = (topology.epoch, topology.leader)
                self.report_now()

    async def _report(self) -> None:
        sent_ms, report = now_ms(), self._compose()
        self._is_idle, self._said = report == self._said, report
        try:
            orders = await self._client.report(report)
        except RpcError as error:
            self._note_failure(str(error))
        else:
            self._note_failure("")
            self._heard(sent_ms, orders)

    def _note_failure(self, reason: str) -> None:
        if reason and not self.failure:
            log.warning("nobody takes our reports", reason=reason)
        elif self.failure and not reason:
            log.info("reports are taken again")
        self.failure = reason
