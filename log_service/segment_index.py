"""What is known in memory of one segment: where it ends, its terms, and a mark every 64 KiB. Pure.

A mark is the beginning of a drain: its first index, its offset, and the WAL position that had been
reached before it. A reader bisects the marks and walks from there: 24 bytes of memory for 64 KiB
of log, nothing for a record. The same tables are the footer of a sealed segment.

Invariants: marks ascend in index and offset, and never descend in (tli, lsn), because a log's WAL
never goes back to an older timeline and is contiguous within one.
"""

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from .record import Kind, Record
from .segment import (
    DRAIN_BODY_BYTES_ENOUGH,
    DRAIN_EXTRA_BYTES,
    FOOTER_BYTES,
    HEADER_BYTES,
    MARK_BYTES,
    MARK_EVERY_BYTES,
    RUN_BYTES,
    SPECIAL_BYTES,
    Buffer,
    Footer,
    SegmentHeader,
    aligned,
)

WalPosition = tuple[int, int]  # (tli, lsn): ordered as the log is
WrittenDrain = tuple[int, int, Sequence[Record]]  # what `SegmentIndex.note` takes

_RUN = struct.Struct(">QQ")


def broken_link(
    records: Sequence[Record], *, index: int, term: int, wal_end: WalPosition
) -> str | None:
    """Say why these records cannot follow the entry (index, term); None if they can."""
    for record in records:
        index += 1
        if record.index != index:
            return f"entry {record.index} stands where {index} belongs"
        if record.prev_term != term or record.term < term:
            return (
                f"entry {index} of term {record.term} wants to follow one of term "
                f"{record.prev_term}, but the one before it is of term {term}"
            )
        term = record.term
        if record.kind is Kind.WAL:
            tli, lsn = wal_end
            if tli and (record.tli < tli or (record.tli == tli and record.lsn != lsn)):
                return (
                    f"entry {index} has WAL of ({record.tli}, {record.lsn:#x}), "
                    f"the WAL before it ends at ({tli}, {lsn:#x})"
                )
            wal_end = (record.tli, record.lsn + len(record.body))
    return None


def end_of_wal(record: Record) -> WalPosition:
    """Return the position behind a WAL record."""
    return record.tli, record.lsn + len(record.body)


def count_that_fits(records: Sequence[Record], *, room_bytes: int, term: int) -> int:
    """Return how many of the records fit; never more than do, whatever drains they become."""
    used = drain_body_bytes = 0
    for number, record in enumerate(records):
        size_bytes = record.size_bytes
        used += size_bytes
        if not drain_body_bytes:
            used += DRAIN_EXTRA_BYTES
        if record.term != term:
            used += RUN_BYTES
            term = record.term
        if record.kind is not Kind.WAL and record.kind is not Kind.NOOP:
            used += SPECIAL_BYTES
        if used > room_bytes:
            return number
        drain_body_bytes += size_bytes
        if drain_body_bytes >= DRAIN_BODY_BYTES_ENOUGH:
            drain_body_bytes = 0
    return len(records)


def empty_room_bytes(segment_bytes: int) -> int:
    """Return what `count_that_fits` may use of an empty segment."""
    return segment_bytes - HEADER_BYTES - FOOTER_BYTES


class SegmentIndex:
    """The tables of one segment, kept up as it grows, is cut, or is scanned."""

    __slots__ = (
        "_lsns",
        "_marked",
        "_offsets",
        "_tlis",
        "header",
        "indexes",
        "last_index",
        "last_term",
        "runs",
        "specials",
        "tail",
        "wal_end",
    )

    def __init__(self, header: SegmentHeader) -> None:
        self.header = header
        self.tail = HEADER_BYTES  # where the next drain begins
        self.last_index = header.first_index - 1
        self.last_term = header.prev_term
        self.wal_end: WalPosition = (header.tli, header.lsn)
        self.runs: list[tuple[int, int]] = []  # (first index, term), where the term changes
        self.specials: array[int] = array("Q")  # indexes
        self.indexes: array[int] = array("Q")  # of the marks, as the three below
        self._lsns: array[int] = array("Q")
        self._offsets: array[int] = array("I")
        self._tlis: array[int] = array("I")
        self._marked = HEADER_BYTES  # the last mark's offset

    @property
    def first_index(self) -> int:
        """Return the index of the first entry, there or to come."""
        return self.header.first_index

    @property
    def room_bytes(self) -> int:
        """Return what `count_that_fits` may use."""
        tables = (
            len(self.indexes) * MARK_BYTES
            + len(self.runs) * RUN_BYTES
            + len(self.specials) * SPECIAL_BYTES
        )
        return self.header.segment_bytes - self.tail - tables - FOOTER_BYTES

    def note(self, offset: int, end: int, records: Sequence[Record]) -> None:
        """Add a drain that is at `offset`."""
        assert offset == self.tail, "a drain begins where the one before it ends"
        assert records[0].index == self.last_index + 1, "entries have no gaps"
        if offset - self._marked >= MARK_EVERY_BYTES:
            self._add_mark(records[0].index, offset)
        for record in records:
            if record.term != self.last_term:
                self.runs.append((record.index, record.term))
                self.last_term = record.term
            if record.kind is Kind.WAL:
                self.wal_end = (record.tli, record.lsn + len(record.body))
            elif record.kind is not Kind.NOOP:
                self.specials.append(record.index)
        self.last_index = records[-1].index
        self.tail = end

    def cut(self, index: int, tail: int, wal_end: WalPosition) -> None:
        """Forget entries from `index` on; the drains before it end at `tail`."""
        assert self.first_index <= index <= self.last_index + 1, "only what is there can be cut"
        marks = bisect_left(self.indexes, index)
        for table in (self.indexes, self._lsns, self._offsets, self._tlis):
            del table[marks:]
        del self.runs[bisect_left(self.runs, (index, 0)) :]
        del self.specials[bisect_left(self.specials, index) :]
        self._marked = self._offsets[-1] if self._offsets else HEADER_BYTES
        self.last_index = index - 1
        self.last_term = self.runs[-1][1] if self.runs else self.header.prev_term
        self.tail, self.wal_end = tail, wal_end

    def term_at(self, index: int) -> int:
        """Return the term of an entry, or of the one before the first."""
        assert self.first_index - 1 <= index <= self.last_index, "the entry is in this segment"
        number = bisect_right(self.runs, index, key=lambda run: run[0])
        return self.runs[number - 1][1] if number else self.header.prev_term

    def before_index(self, index: int) -> tuple[int, int, WalPosition]:
        """Return (offset, first index, WAL position) of the last mark not after the entry."""
        return self._mark(bisect_right(self.indexes, index) - 1)

    def before_wal(self, position: WalPosition) -> tuple[int, int, WalPosition]:
        """Return the last mark that had reached no more than `position`."""
        # Bisect over two parallel arrays: the key is made on the way.
        number = bisect_right(range(len(self.indexes)), position, key=self._position)
        return self._mark(number - 1)

    def encode_footer(self, *, generation: int) -> bytes:
        """Return what belongs at the end of the file when it is sealed in this generation."""
        tables = b"".join(
            [
                *(_big_endian(t) for t in (self.indexes, self._lsns, self._offsets, self._tlis)),
                *(_RUN.pack(*run) for run in self.runs),
                _big_endian(self.specials),
            ]
        )
        return self._footer(generation).encode(tables)

    @classmethod
    def from_footer(cls, header: SegmentHeader, footer: Footer, tables: Buffer) -> "SegmentIndex":
        """Make the index of a sealed segment of tables whose checksum was right."""
        made, at, view = cls(header), 0, memoryview(tables)
        for table in (made.indexes, made._lsns, made._offsets, made._tlis):
            size_bytes = footer.marks * table.itemsize
            table.frombytes(view[at : at + size_bytes])
            at += size_bytes
        runs_end = at + footer.runs * RUN_BYTES
        made.runs = [(index, term) for index, term in _RUN.iter_unpack(view[at:runs_end])]
        made.specials.frombytes(view[runs_end:])
        if sys.byteorder == "little":
            for table in (made.indexes, made._lsns, made._offsets, made._tlis, made.specials):
                table.byteswap()
        made.last_index, made.last_term = footer.last_index, footer.last_term
        made.tail, made.wal_end = footer.tail, (footer.tli, footer.lsn)
        return made

    def _footer(self, generation: int) -> Footer:
        tli, lsn = self.wal_end
        return Footer(
            marks=len(self.indexes),
            runs=len(self.runs),
            specials=len(self.specials),
            first_index=self.first_index,
            last_index=self.last_index,
            last_term=self.last_term,
            tail=self.tail,
            generation=generation,
            tli=tli,
            lsn=lsn,
            member=self.header.member,
        )

    def _add_mark(self, index: int, offset: int) -> None:
        assert offset == aligned(offset), "drains are aligned"
        tli, lsn = self.wal_end
        self.indexes.append(index)
        self._lsns.append(lsn)
        self._offsets.append(offset)
        self._tlis.append(tli)
        self._marked = offset

    def _position(self, number: int) -> WalPosition:
        return self._tlis[number], self._lsns[number]

    def _mark(self, number: int) -> tuple[int, int, WalPosition]:
        """Return a mark; number -1 is the beginning of the segment."""
        if number < 0:
            return HEADER_BYTES, self.first_index, (self.header.tli, self.header.lsn)
        return self._offsets[number], self.indexes[number], self._position(number)


def _big_endian(table: "array[int]") -> bytes:
    if sys.byteorder == "little":
        table = table[:]
        table.byteswap()
    return table.tobytes()
