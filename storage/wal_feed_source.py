"""A feed's WAL as the replication server wants it (`WalSource`): what was received, and no more.

What is in the window is at hand. What is older is read from the log again, a larger piece at a
time: an engine that starts, or connects again, begins at the start of a segment.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from fabric.frames import Buffer
from fabric.lsn import Lsn, Tli

from .wal_records import PAGE_BYTES

if TYPE_CHECKING:
    from .wal_feed import WalFeed

REREAD_BYTES: Final = 1024 * 1024  # of one call for WAL that is in memory no more


class FeedSource:
    """The feed as the replication server reads it: what was received, and no more."""

    def __init__(self, feed: "WalFeed") -> None:
        self._feed = feed
        # What was read from the log once more: its start, its bytes, and when that was.
        self._again: tuple[Lsn, Buffer, int] = (Lsn(0), b"", 0)
        self.system_identifier = feed.facts.system_identifier
        self.segment_bytes = feed.facts.segment_bytes
        self.server_version = feed.facts.server_version

    @property
    def tli(self) -> Tli:
        """The timeline of what was received last."""
        return self._feed.offered.tli

    @property
    def committed(self) -> Lsn:
        """The end of what was received and may be sent; the log has committed all of it."""
        return self._feed.whole_end

    @property
    def history_files(self) -> Mapping[Tli, bytes]:
        """The history files of the timelines from the cut's on."""
        return self._feed.history_files

    def fork_of(self, tli: Tli) -> tuple[Tli, Lsn] | None:
        """Return what followed a timeline all of which was received."""
        return self._feed.offered.fork_of(tli)

    def start(self, tli: Tli) -> Lsn:
        """Return the start of all WAL: how far back the log goes is found out by reading."""
        del tli
        return Lsn(0)

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` whenever the feed has changed."""
        return self._feed.subscribe(wake)

    def read_now(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer] | None:
        """Return WAL that is in memory."""
        del tli  # there is one history, and a reader on another timeline is refused
        found = self._feed.read_window(lsn, bytes_max)
        if found is not None:
            return found
        start, chunk, forks_cut = self._again
        if start <= lsn < start + len(chunk) and forks_cut == self._feed.forks_cut:
            return [memoryview(chunk)[lsn - start :][:bytes_max]]
        return None

    async def read(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer]:
        """Return WAL from the log, and keep what follows it for the next reads."""
        chunk = await self._feed.read_log(lsn, max(bytes_max, REREAD_BYTES))
        end = lsn + len(chunk)
        if end < self.committed and end % PAGE_BYTES < len(chunk):
            chunk = memoryview(chunk)[: len(chunk) - end % PAGE_BYTES]  # no part of a record
        self._again = lsn, chunk, self._feed.forks_cut
        found = self.read_now(tli, lsn, bytes_max)
        assert found is not None, "it has just been read"
        return found
