"""Pages from storage nodes for a compute that has patience: nobody there is a reason to wait.

A page that no node has in reach now will be there later, and an error would end a statement or the
recovery of a replica. What no waiting mends, a page that is damaged everywhere or gone, fails.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from sqlnode.page_source import (
    CutDescription,
    PageRange,
    PageSource,
    SourceError,
    SourceUnreachableError,
)
from sqlnode.pagefault.block_map import Pages

PAUSE_S: Final = 0.2

log = structlog.get_logger()


class PatientPages:
    """Implements `PageSource` over another one; asks it until it can be reached."""

    def __init__(self, pages: PageSource, *, pause_s: float = PAUSE_S) -> None:
        self._pages, self._pause_s = pages, pause_s
        self._waiting = 0
        self._reason = ""

    @property
    def complaint(self) -> str:
        """Why reads wait; empty if none does."""
        return f"reads wait for a storage node: {self._reason}" if self._waiting else ""

    async def describe(self) -> CutDescription:
        """Return the cut's files. Raises `SourceError`."""
        return await self._pages.describe()

    async def read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        """Return the pages of each range, whenever somebody can give them."""
        results = list(await self._pages.read(ranges))
        if not any(isinstance(result, SourceUnreachableError) for result in results):
            return results
        self._waiting += 1
        try:
            await self._ask_again(ranges, results)
        finally:
            self._waiting -= 1
        return results

    async def close(self) -> None:
        """Close the other one."""
        await self._pages.close()

    async def _ask_again(
        self, ranges: Sequence[PageRange], results: list[Pages | SourceError]
    ) -> None:
        while True:
            missing = []
            for index, result in enumerate(results):
                if isinstance(result, SourceUnreachableError):
                    missing.append(index)
                    self._note(str(result))
            if not missing:
                return
            await asyncio.sleep(self._pause_s)
            found = await self._pages.read([ranges[index] for index in missing])
            for index, pages in zip(missing, found, strict=True):
                results[index] = pages

    def _note(self, reason: str) -> None:
        if self._waiting == 1 and reason != self._reason:
            log.warning("reads wait for a storage node", reason=reason)
        self._reason = reason
