"""What tests of the replication client share: a handler that remembers, and a loop for stories."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from fabric.lsn import Lsn, Tli
from log_service.replication_client import Piece, ReplicationClient
from log_service.upstream_link import Link

STORY_TIMEOUT_S = 100


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story on uvloop, and not for ever."""

    async def guarded() -> None:
        try:
            await asyncio.wait_for(story(), STORY_TIMEOUT_S)
        finally:
            # uvloop waits for open transports when it closes; a story that failed left some.
            # Not isinstance: that asks objects which act for others, such as Django's settings.
            for link in [found for found in gc.get_objects() if type(found) is Link]:
                link.close()

    uvloop.run(guarded())


class Recorder:
    """A handler that remembers, and reports what it got unless told to hold back."""

    def __init__(self, client: ReplicationClient, *, reports: bool = True) -> None:
        self.client = client
        self.reports = reports
        self.instead: Callable[[list[Piece]], None] | None = None  # of taking a burst
        self.bursts: list[list[Piece]] = []
        self.end = Lsn(0)
        self.ended: list[tuple[Tli | None, Lsn]] = []
        self.lost: list[str] = []
        self._happened = asyncio.Event()

    def on_wal(self, pieces: list[Piece]) -> None:
        """Remember the bytes as they are: they are ours."""
        if self.instead is not None:
            self.instead(pieces)
            return
        self.bursts.append(pieces)
        last, data = pieces[-1]
        self.end = last + len(data)
        if self.reports:
            self.client.report(self.end)
        self._happened.set()

    def on_end(self, next_tli: Tli | None, start: Lsn) -> None:
        """Remember."""
        self.ended.append((next_tli, start))
        self._happened.set()

    def on_lost(self, reason: str) -> None:
        """Remember."""
        self.lost.append(reason)
        self._happened.set()

    async def until(self, true: Callable[[], object]) -> None:
        """Wait for something to have happened."""
        while not true():
            self._happened.clear()
            await self._happened.wait()

    async def until_received(self, end: Lsn) -> None:
        """Wait for all WAL before `end`."""
        await self.until(lambda: self.end >= end)

    async def until_lost(self) -> str:
        """Wait for the end of the connection; return the reason."""
        await self.until(lambda: self.lost)
        assert not self.client.is_open
        (reason,) = self.lost
        return reason

    def wal(self) -> bytes:
        """All bytes so far."""
        return b"".join(data for burst in self.bursts for _, data in burst)
