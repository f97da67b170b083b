"""What of a branch's WAL belongs into the object store, under which names, and in which order.

    <cluster>/<branch>/wal/<timeline>/<WAL file name>          a whole segment and nothing else
    <cluster>/<branch>/wal/<timeline>/<WAL file name>.partial  that in which a timeline ended
    <cluster>/<branch>/wal/<timeline>/<timeline>.history       what the promoted server wrote

The names are PostgreSQL's own, a timeline eight hex digits, so that stock tools can use the files.
A partial segment ends where the timeline did; PostgreSQL's have zeros behind that.

A segment is due once committed WAL has passed its end, and the partial one once the timeline has
ended. The segment in which a new timeline begins starts with its ancestors' bytes, as PostgreSQL's
own file does. Everything has one order: timeline after timeline, of each the history file first,
then its segments. So what is in the archive is described by one position (`ArchiveState`), and what
remains is computed from it. Archiving something twice is harmless (`archive.upload`).

Invariants: only committed WAL is planned; no byte from beyond a fork; what is planned continues the
state without a gap. The caller holds a log from `ArchiveState.upto` on and trims nothing behind it.

Nothing here does I/O; archive.py does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, TypeAlias

from fabric.ids import BranchName, ClusterName
from fabric.lsn import Lsn, Tli, checked_segment_bytes, history_file_name, wal_file_name

from .history import TimelineHistory

ITEMS_MAX: Final = 64  # of one plan: 1 GiB of WAL; the state after them leads to the next
PARTIAL: Final = ".partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLayout:
    """How the objects of one branch are named, and where its archive begins."""

    cluster: ClusterName
    branch: BranchName
    segment_bytes: int
    first_tli: Tli  # with which its log began; older timelines are not in the archive

    def __post_init__(self) -> None:
        checked_segment_bytes(self.segment_bytes)

    @property
    def root(self) -> str:
        """The folder of all timelines."""
        return f"{self.cluster}/{self.branch}/wal/"

    def folder(self, tli: Tli) -> str:
        """The folder of one timeline."""
        return f"{self.root}{tli:08X}/"

    def segment(self, tli: Tli, lsn: Lsn) -> str:
        """Name the whole segment that contains `lsn`."""
        return self.folder(tli) + wal_file_name(tli, lsn, self.segment_bytes)

    def partial(self, tli: Tli, lsn: Lsn) -> str:
        """Name the segment that contains `lsn` and in which the timeline ended."""
        return self.segment(tli, lsn) + PARTIAL

    def history(self, tli: Tli) -> str:
        """Name the history file of a timeline."""
        return self.folder(tli) + history_file_name(tli)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveState:
    """All that is due before `upto` of `tli`, a segment's start, is in the archive.

    Whatever `tli` and its ancestors have before `upto` may be trimmed from the log.
    """

    tli: Tli
    upto: Lsn
    has_history: bool = False  # of `tli`; False also where nobody has looked


@dataclass(frozen=True, slots=True)
class WalRange:
    """Bytes of one timeline: from `start` up to `end`."""

    tli: Tli
    start: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentItem:
    """A segment to archive: its ranges join to its bytes. `then` holds once it is archived."""

    name: str
    ranges: tuple[WalRange, ...]
    then: ArchiveState

    @property
    def size_bytes(self) -> int:
        """The size of the object."""
        return self.ranges[-1].end - self.ranges[0].start


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryItem:
    """A history file to archive. `then` holds once it is archived."""

    name: str
    content: bytes
    then: ArchiveState


ArchiveItem: TypeAlias = SegmentItem | HistoryItem


@dataclass(frozen=True, slots=True)
class Timeline:
    """One timeline of a history with what belongs to it; the newest has no end yet."""

    tli: Tli
    start: Lsn
    end: Lsn | None


def timelines(layout: ArchiveLayout, history: TimelineHistory) -> list[Timeline]:
    """Return the timelines of an archive, oldest first. The first has all there is before it."""
    forks = [fork for fork in history.forks if fork.tli >= layout.first_tli]
    starts = [Lsn(0), *(fork.end for fork in forks)]
    ended = [
        Timeline(fork.tli, start, fork.end) for fork, start in zip(forks, starts, strict=False)
    ]
    return [*ended, Timeline(history.tli, starts[-1], None)]


def first_state(layout: ArchiveLayout, history: TimelineHistory, start: Lsn) -> ArchiveState:
    """Return the state in which nothing from the segment of `start` on is archived."""
    lines = timelines(layout, history)
    # The oldest: those that ended exactly there may lack their history files.
    line = next(line for line in lines if line.end is None or start <= line.end)
    return ArchiveState(tli=line.tli, upto=start.segment_start(layout.segment_bytes))


def state_at_start(layout: ArchiveLayout, line: Timeline) -> ArchiveState:
    """Return the state in which nothing of a timeline is archived, and all before it is."""
    return ArchiveState(tli=line.tli, upto=line.start.segment_start(layout.segment_bytes))


def plan_archive(
    layout: ArchiveLayout,
    state: ArchiveState,
    *,
    history: TimelineHistory,
    history_files: Mapping[Tli, bytes],
    committed: Lsn,
) -> tuple[ArchiveItem, ...]:
    """Return what to archive next, in this order: at most ITEMS_MAX items, none if all is done.

    `history` is the newest timeline's, `committed` the end of committed WAL on it, and
    `history_files` has the file of every timeline that began in this log.
    """
    lines = timelines(layout, history)
    if all(line.tli != state.tli for line in lines):
        raise ValueError(f"timeline {state.tli:d} is no ancestor of timeline {history.tli:d}")
    if committed < lines[-1].start:
        raise ValueError(f"{committed} is before timeline {history.tli:d} began")
    due = _due(layout, state, lines, history_files, committed)
    return tuple(islice(due, ITEMS_MAX))


def _due(
    layout: ArchiveLayout,
    state: ArchiveState,
    lines: Sequence[Timeline],
    history_files: Mapping[Tli, bytes],
    committed: Lsn,
) -> Iterator[ArchiveItem]:
    for index, line in enumerate(lines):
        if line.tli < state.tli:
            continue
        if line.tli > state.tli:
            state = state_at_start(layout, line)
        content = history_files.get(line.tli)
        if content is not None and not state.has_history:
            state = replace(state, has_history=True)
            yield HistoryItem(name=layout.history(line.tli), content=content, then=state)
        for segment in _whole_segments(layout, lines[: index + 1], state, committed):
            state = segment.then
            yield segment
        if line.end is not None and max(line.start, state.upto) < line.end:
            yield _partial_segment(layout, lines, index, state.upto)


def _whole_segments(
    layout: ArchiveLayout, lines: Sequence[Timeline], state: ArchiveState, committed: Lsn
) -> Iterator[SegmentItem]:
    """Those of the last of `lines`."""
    line = lines[-1]
    end = committed if line.end is None else line.end
    while end - state.upto >= layout.segment_bytes:
        start = state.upto
        state = replace(state, upto=start + layout.segment_bytes)
        yield SegmentItem(
            name=layout.segment(line.tli, start),
            ranges=_ranges(lines, start, state.upto),
            then=state,
        )


def _partial_segment(
    layout: ArchiveLayout, lines: Sequence[Timeline], index: int, start: Lsn
) -> SegmentItem:
    """The last one of a timeline that ended in it."""
    line = lines[index]
    assert line.end is not None
    return SegmentItem(
        name=layout.partial(line.tli, start),
        ranges=_ranges(lines[: index + 1], start, line.end),
        then=state_at_start(layout, lines[index + 1]),
    )


def _ranges(lines: Sequence[Timeline], start: Lsn, end: Lsn) -> tuple[WalRange, ...]:
    """Share out `start` up to `end` among the timelines whose bytes they are."""
    ranges = []
    for line in lines:
        first = max(start, line.start)
        last = end if line.end is None else min(end, line.end)
        if first < last:
            ranges.append(WalRange(line.tli, first, last))
    assert sum(piece.end - piece.start for piece in ranges) == end - start
    return tuple(ranges)
