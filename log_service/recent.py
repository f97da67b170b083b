"""The newest records of a log, in memory: what followers and standbys that keep up are served from.

A window over the log by index, bounded by bytes; the log on disk has the rest. WAL is found by
(timeline, Lsn), which never descends along a log: each record is filed under the end of WAL behind
it. A record's own buffers are handed out, never copies.

Used by the event loop's thread alone.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, TypeAlias

from fabric.frames import Buffer

from .record import Kind, Record

WalEnd: TypeAlias = tuple[int, int]  # (timeline, Lsn)

# Dropping from the front of a list moves the rest, so it is done for many records at once.
DROPPED_AT_ONCE: Final = 256


class RecentRecords:
    """Invariant: the records have consecutive indices, from `first_index` to `last_index`.

    The attributes without an underscore are for others to read: not properties, because each of
    them is asked for with every commit.
    """

    def __init__(self, bytes_max: int, *, last_index: int, wal_end: WalEnd) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._records: list[Record] = []
        self._ends: list[WalEnd] = []
        self._start_end = wal_end
        self._spent = 0  # how many of the oldest are above the limit: they go together
        self._spent_bytes = 0
        self.first_index = last_index + 1  # the oldest record here; this if there is none
        self.last_index = last_index  # the newest record of the log, here or not
        self.wal_end = wal_end  # where WAL ends behind the newest record

    def append(self, record: Record, wal_end: WalEnd) -> None:
        """Take the next record; the oldest may go."""
        assert record.index == self.last_index + 1, "a log has no gaps"
        self._records.append(record)
        self._ends.append(wal_end)
        self.last_index = record.index
        self.wal_end = wal_end
        self._bytes += record.size_bytes

    def shrink(self, upto_index: int) -> None:
        """Drop the oldest records above the limit of bytes, none behind `upto_index`."""
        if self._bytes <= self._bytes_max:
            return
        over_bytes = self._bytes - self._bytes_max
        droppable = max(0, min(len(self._records), upto_index - self.first_index + 1))
        # Counted on from where the last call ended: from the front, every commit looked at 128
        # records, for 36 us.
        while self._spent < droppable and self._spent_bytes < over_bytes:
            self._spent_bytes += self._records[self._spent].size_bytes
            self._spent += 1
        count = min(self._spent, droppable)
        if over_bytes >= self._bytes_max // 8 or count >= DROPPED_AT_ONCE:
            self._drop(count)

    def cut(self, first_index: int, wal_end: WalEnd) -> None:
        """Forget `first_index` and all behind it; WAL ends at `wal_end` then."""
        count = max(0, first_index - self.first_index)
        for record in self._records[count:]:
            self._bytes -= record.size_bytes
        del self._records[count:], self._ends[count:]
        self._spent = self._spent_bytes = 0
        self.last_index, self.wal_end = first_index - 1, wal_end
        if not self._ends:
            self.first_index, self._start_end = first_index, wal_end

    def records(self, first: int, last: int, bytes_max: int) -> Sequence[Record] | None:
        """Return records from `first` on, at least one; None if `first` is not here."""
        position = first - self.first_index
        if position < 0 or first > self.last_index:
            return None
        stop, size_bytes = position, 0
        limit = min(last, self.last_index) - self.first_index + 1
        while stop < limit:
            size_bytes += self._records[stop].size_bytes
            if size_bytes > bytes_max and stop > position:
                break
            stop += 1
        return self._records[position:stop]

    def wal_end_at(self, index: int) -> WalEnd | None:
        """Return where WAL ends behind an entry; None if it is not here."""
        position = index - self.first_index
        if position == -1:
            return self._start_end
        return self._ends[position] if 0 <= position < len(self._ends) else None

    def wal(self, tli: int, lsn: int, bytes_max: int) -> list[Buffer] | None:
        """Return WAL of a timeline from exactly `lsn`, as much as there is; None: not here."""
        lsn = int(lsn)  # an Lsn minus an int is an Lsn, which is never negative
        position = bisect_right(self._ends, (tli, lsn))
        pieces: list[Buffer] = []
        left = bytes_max
        while left > 0 and position < len(self._records):
            record = self._records[position]
            position += 1
            if record.kind is not Kind.WAL:
                continue
            offset = lsn - record.lsn
            if record.tli != tli or not 0 <= offset < len(record.body):
                break
            piece = record.body
            if offset or len(piece) - offset > left:
                piece = memoryview(piece)[offset : offset + left]
            pieces.append(piece)
            left -= len(piece)
            lsn += len(piece)
        return pieces or None

    def _drop(self, count: int) -> None:
        if not count:
            return
        for record in self._records[:count]:
            self._bytes -= record.size_bytes
        self._start_end = self._ends[count - 1]
        self.first_index += count
        self._spent = self._spent_bytes = 0
        del self._records[:count], self._ends[:count]
