"""The segments of an open log, shared by the thread that writes and those that read.

The lock guards the list and the small indexes, never I/O on entries. A reader takes a `Place`
under the lock and reads from it without; the file stays open for as long as a place refers to it.
Meanwhile the writer may cut, trim or recycle what is there. Every byte read is checked, so that
shows as a `BadDrainError`, and `version`, which grows before any entry changes on disk, tells it
from damage."""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .disk_errors import LogGoneError
from .disk_files import LogDirectory, OpenFile
from .log_recovery import Segment
from .segment import SegmentHeader
from .segment_file import Cut
from .segment_index import WalPosition, WrittenDrain


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a reader begins in one segment, and how far it may go."""

    file: OpenFile
    header: SegmentHeader
    offset: int
    end: int
    next_index: int  # the first entry at `offset`
    first_index: int  # of the log: what is before it is trimmed
    last_index: int  # of the segment
    version: int


class SegmentTable:
    """All segments in order of their entries; the last one may be unsealed."""

    def __init__(
        self,
        directory: LogDirectory,
        segments: list[Segment],
        *,
        start_index: int,
        open_segments_max: int,
    ) -> None:
        self._directory = directory
        self._segments = segments
        self.last = segments[-1] if segments else None  # for the writer, which alone changes it
        self._start_index = start_index
        self._open_max = open_segments_max
        self._lock = threading.Lock()
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._version = 0
        self._is_cutting = False
        self._is_closed = False

    # --- For readers --------------------------------------------------------------------------

    def place_of_index(self, index: int) -> Place | None:
        """Return where to find an entry; None just behind the last; LogGoneError outside."""
        with self._lock:
            last_index = self._last_index()
            if not self._start_index < index <= last_index + 1:
                raise LogGoneError(
                    f"entry {index} is not in the log, which has "
                    f"{self._start_index + 1} .. {last_index}"
                )
            if index == last_index + 1:
                return None
            segment = self._segments[self._number_of(index)]
            return self._place(segment, segment.index.before_index(index))

    def place_of_wal(self, position: WalPosition) -> Place | None:
        """Return where WAL of this position would be; None if the log begins after it."""
        with self._lock:
            number = bisect_right(self._segments, position, key=_wal_position)
            if not number:
                return None
            segment = self._segments[number - 1]
            return self._place(segment, segment.index.before_wal(position))

    def wal_before(self, index: int) -> WalPosition | None:
        """Return how far WAL was, at the last mark not after an entry; None if that is not here."""
        with self._lock:
            if not self._start_index < index <= self._last_index():
                return None
            return self._segments[self._number_of(index)].index.before_index(index)[2]

    def has_changed_since(self, place: Place) -> bool:
        """Whether entries may have changed on disk since the place was given out."""
        with self._lock:
            return self._is_cutting or self._version != place.version

    def terms(self) -> tuple[tuple[int, int], ...]:
        """Return (first index, term) of each run of one term behind the start."""
        with self._lock:
            first_index = self._start_index + 1
            terms: list[tuple[int, int]] = []
            for segment in self._segments:
                index = segment.index
                start = (index.first_index, index.header.prev_term)
                # Every segment continues the last term of the one before, until its first run.
                for first, term in (start, *index.runs):
                    run = (max(first, first_index), term)
                    if terms and terms[-1][0] == run[0]:
                        terms.pop()
                    if not terms or terms[-1][1] != term:
                        terms.append(run)
            if terms and terms[-1][0] > self._last_index():
                terms.pop()
            return tuple(terms)

    def special_indexes(self) -> list[int]:
        """Return the indexes of all records that are neither WAL nor NOOP."""
        with self._lock:
            found = (i for segment in self._segments for i in segment.index.specials)
            return [index for index in found if index > self._start_index]

    @property
    def last_index(self) -> int:
        """Return the index of the last entry, or of the start."""
        with self._lock:
            return self._last_index()

    # --- For the writer -----------------------------------------------------------------------

    def open_for_writing(self, segment: Segment) -> OpenFile:
        """Open a segment to be written; readers share the descriptor."""
        file = self._directory.open(segment.name, os.O_RDWR)
        with self._lock:
            self._files[segment.name] = file
        return file

    def segment_of(self, index: int) -> Segment:
        """Return the segment that an entry is in."""
        return self._segments[self._number_of(index)]

    def term_at(self, index: int) -> int:
        """Return the term of an entry that is in a segment."""
        return self.segment_of(index).index.term_at(index)

    def note(self, segment: Segment, drains: Sequence[WrittenDrain]) -> None:
        """Let readers see what was written."""
        with self._lock:
            for offset, end, records in drains:
                segment.index.note(offset, end, records)

    def add(self, segment: Segment) -> OpenFile:
        """Add an empty segment at the end, and open it to be written."""
        file = self.open_for_writing(segment)
        with self._lock:
            self._segments.append(segment)
            self.last = segment
        return file

    def cut(self, segment: Segment, at_index: int, cut: Cut) -> None:
        """Hide a segment's entries from `at_index` on, before they change on disk."""
        with self._lock:
            self._version += 1
            self._is_cutting = True
            segment.index.cut(at_index, cut.tail, cut.wal_end)
            segment.is_sealed = False

    def cut_is_on_disk(self) -> None:
        """Tell readers who came meanwhile that they may have read either side of it."""
        with self._lock:
            self._version += 1
            self._is_cutting = False

    def remove(
        self, is_gone: Callable[[Segment], bool], *, start_index: int | None = None
    ) -> list[str]:
        """Hide whole segments, and what is before a new start, before any file goes."""
        with self._lock:
            self._version += 1
            if start_index is not None:
                self._start_index = start_index
            names = [segment.name for segment in self._segments if is_gone(segment)]
            self._segments = [segment for segment in self._segments if not is_gone(segment)]
            self.last = self._segments[-1] if self._segments else None
            for name in names:
                self._files.pop(name, None)
            return names

    def close(self) -> None:
        """Give nothing out any more."""
        with self._lock:
            self._is_closed = True
            self._files.clear()

    # --- Under the lock -----------------------------------------------------------------------

    def _last_index(self) -> int:
        return self._segments[-1].index.last_index if self._segments else self._start_index

    def _number_of(self, index: int) -> int:
        return bisect_right(self._segments, index, key=lambda s: s.index.first_index) - 1

    def _place(self, segment: Segment, mark: tuple[int, int, WalPosition]) -> Place:
        offset, next_index, _ = mark
        return Place(
            file=self._file(segment),
            header=segment.index.header,
            offset=offset,
            end=segment.index.tail,
            next_index=next_index,
            first_index=self._start_index + 1,
            last_index=segment.index.last_index,
            version=self._version,
        )

    def _file(self, segment: Segment) -> OpenFile:
        if self._is_closed:
            raise LogGoneError("the log is closed")
        file = self._files.pop(segment.name, None)
        if file is None:
            file = self._directory.open(segment.name, os.O_RDONLY)
        self._files[segment.name] = file  # as the last one, most recently used
        while len(self._files) > self._open_max + 1:
            self._files.popitem(last=False)
        return file


def _wal_position(segment: Segment) -> WalPosition:
    return segment.index.header.tli, segment.index.header.lsn
