"""The newest WAL that was pulled from the log and may still be wanted, in memory. Pure.

    ─────────────┬───────────────┬─────────────────────┐
      dropped    │     taken     │   not taken yet     │
    ─────────────┴───────────────┴─────────────────────┘
               start           taken                  end

What the engine has not taken is never dropped, so when that fills the window no more is pulled:
that is the back-pressure. What it has taken goes when there is no room for more.

Invariants: the pieces are contiguous, start <= taken <= end; what is handed out never changes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Final

from fabric.frames import Buffer
from fabric.lsn import Lsn, Tli
from log_service.history import TimelineHistory

from .wal_records import PAGE_BYTES

# Smaller pieces are joined: a commit may bring 200 bytes, and 32 MiB would be 160,000 pieces.
PIECE_BYTES_MIN: Final = 16 * 1024


class WalWindow:
    """Contiguous WAL, of which `bytes_max` at most wait to be taken.

    A piece goes as a whole, so there may be most of another one in memory.
    """

    def __init__(self, bytes_max: int, start: Lsn) -> None:
        self._bytes_max = bytes_max
        self.whole_end = start  # behind a whole record, or at the end of a page
        self.restart(start)

    def restart(self, lsn: Lsn) -> None:
        """Forget everything; go on from `lsn`."""
        self.whole_end = min(self.whole_end, lsn)
        self.start = self.end = self.taken = lsn
        self._pieces: list[Buffer] = []
        self._ends: list[Lsn] = []

    @property
    def room_bytes(self) -> int:
        """How much more may be appended."""
        return max(0, self._bytes_max - (self.end - self.taken))

    def append(self, piece: Buffer, *, is_whole: bool = True) -> None:
        """Take what follows; drop from the front what was taken, as far as there is no room.

        `is_whole`: it ends with a record, and not where somebody had enough.
        """
        self.end += len(piece)
        page = Lsn(self.end - self.end % PAGE_BYTES)
        self.whole_end = self.end if is_whole else max(self.whole_end, page)
        if self._pieces and len(self._pieces[-1]) + len(piece) <= PIECE_BYTES_MIN:
            self._pieces[-1] = b"".join((self._pieces[-1], piece))
            self._ends[-1] = self.end
        else:
            self._pieces.append(piece)
            self._ends.append(self.end)
        self._drop()

    def read(self, lsn: Lsn, bytes_max: int) -> list[Buffer] | None:
        """Return WAL from exactly `lsn`, which is then taken; None: it is not here."""
        if not self.start <= lsn < self.end:
            return None
        found: list[Buffer] = []
        left_bytes = bytes_max
        for number in range(bisect_right(self._ends, lsn), len(self._pieces)):
            piece = self._pieces[number]
            offset = len(piece) - (self._ends[number] - lsn)
            if offset or len(piece) > left_bytes:
                piece = memoryview(piece)[offset : offset + left_bytes]
            found.append(piece)
            left_bytes -= len(piece)
            lsn += len(piece)
            if left_bytes == 0:
                break
        self.taken = max(self.taken, lsn)
        return found

    def cut(self, lsn: Lsn) -> None:
        """Forget what is behind `lsn`: a timeline has ended there."""
        if lsn >= self.end:
            return
        if lsn <= self.start:
            self.restart(lsn)
            return
        first = bisect_right(self._ends, lsn - 1)
        kept_bytes = len(self._pieces[first]) - (self._ends[first] - lsn)
        del self._pieces[first + 1 :], self._ends[first + 1 :]
        self._pieces[first] = memoryview(self._pieces[first])[:kept_bytes]
        self._ends[first] = self.end = lsn
        self.whole_end = min(self.whole_end, lsn)
        self.taken = min(self.taken, lsn)

    def _drop(self) -> None:
        over_bytes = self.end - self.start - self._bytes_max
        if over_bytes <= 0:
            return
        enough = bisect_left(self._ends, self.start + over_bytes) + 1
        count = min(enough, bisect_right(self._ends, self.taken))
        if count:
            self.start = self._ends[count - 1]
            del self._pieces[:count], self._ends[:count]


def history_at(
    newest: TimelineHistory, lsn: Lsn, *, first: Tli, files: Mapping[Tli, bytes]
) -> TimelineHistory:
    """Return the history as it was when WAL ended at `lsn`, on timeline `first` or a later one.

    A reader is told that a timeline has ended when it can have all of it, and not before.
    """
    owner = max(newest.owner_of(lsn), first)
    if owner >= newest.tli:
        return newest
    forks = tuple(fork for fork in newest.forks if fork.tli < owner)
    return TimelineHistory(owner, forks, files.get(owner, b""))
