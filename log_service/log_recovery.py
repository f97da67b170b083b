"""What a restart finds: which segments are the log, where it ends, and whether anything is
missing.

The flow: what an interrupted trim, cut or reset left behind is set aside; full segments are taken
by their footers; the last one is scanned; then the end that was found is compared with what is
known to have been durable. Where the last segment stops being sound there is either a torn tail,
which nobody was ever told of, or damage. It is damage if the entry there was durable, by the word
of `state` or of a later drain of the same generation.

Nothing is changed on disk before everything was found sound. Then the end is made durable (it may
be in the page cache only) and a new generation begins, so that no byte behind it can ever come
back."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from .disk_errors import CorruptLogError
from .disk_files import LogDirectory, OpenFile
from .log_state import LogStart, LogState, SavedStart
from .segment import HEADER_BYTES, SegmentHeader, first_index_of_name
from .segment_file import (
    BadDrainError,
    Cut,
    FoundDrain,
    find_cut,
    find_drain_headers,
    load_sealed,
    read_footer,
    seal,
    walk,
    write_cut,
)
from .segment_index import SegmentIndex, broken_link


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What the opening of a log did."""

    segments: int
    scanned_bytes: int
    torn_bytes: int  # of drains behind the end, none of which was ever acknowledged
    removed: tuple[str, ...]  # segments that no longer were of the log


@dataclass(slots=True)
class Segment:
    """One segment of an open log. Only the last may be unsealed."""

    index: SegmentIndex
    is_sealed: bool

    @property
    def name(self) -> str:
        """Name its file."""
        return self.index.header.file_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The log as it is, and its state, to be saved before anything is appended."""

    state: LogState
    segments: list[Segment]
    report: RecoveryReport


@dataclass(frozen=True, slots=True)
class Scan:
    """The end of an unsealed segment."""

    index: SegmentIndex
    torn_bytes: int
    cut: Cut | None = None  # a cut that a crash interrupted, to be finished


def recover(directory: LogDirectory, state: LogState, saved: SavedStart) -> Recovered:
    """Find the log in its directory; CorruptLogError if something durable is not there."""
    if saved.member != state.member:
        raise CorruptLogError.at(directory.path, 0, "state and start are of different members")
    state = state.after_reset(saved)  # a reset that was interrupted counts
    headers, removed = live_headers(directory, state, saved)
    scans: list[Scan] = []
    segments: list[Segment] = []
    for number, header in enumerate(headers):
        following = headers[number + 1] if number + 1 < len(headers) else None
        segment, scan = _load(directory, header, state, following)
        segments.append(segment)
        if scan is not None:
            scans.append(scan)
    if segments and segments[-1].index.last_index < segments[-1].index.first_index:
        # It would count as cut off in the next generation, with what is appended to it.
        removed.append(segments.pop().name)
        scans.pop()
    check_range(directory, [segment.index for segment in segments], state, saved.start)
    last_index = segments[-1].index.last_index if segments else saved.start.index
    for name in removed:
        directory.unlink(name)
    _settle(directory, segments, scans)
    report = RecoveryReport(
        segments=len(segments),
        scanned_bytes=sum(scan.index.tail - HEADER_BYTES for scan in scans),
        torn_bytes=sum(scan.torn_bytes for scan in scans),
        removed=tuple(removed),
    )
    state = replace(
        state,
        generation=state.generation + 1,
        cut_index=last_index + 1,
        durable_index=last_index,
    )
    return Recovered(state=state, segments=segments, report=report)


def read_header(file: OpenFile, name: str) -> SegmentHeader:
    """Read the header of a segment's file and check it against the file."""
    header = SegmentHeader.decode(file.read(HEADER_BYTES, 0))
    if header is None or header.file_name != name:
        raise CorruptLogError.at(file.path, 0, "the header of the segment is damaged")
    if header.segment_bytes != file.size_bytes:
        raise CorruptLogError.at(file.path, file.size_bytes, "the file has not its full length")
    return header


def scan(
    file: OpenFile,
    header: SegmentHeader,
    state: LogState,
    following: SegmentHeader | None,
    visit: Callable[[FoundDrain], None] = lambda _: None,
) -> Scan:
    """Find the end of a segment by its drains; CorruptLogError if durable entries come after it."""
    index = SegmentIndex(header)
    what = "it ends"
    try:
        for found in walk(file, header, HEADER_BYTES, header.segment_bytes):
            if following is not None and found.drain.first_index >= following.first_index:
                break  # left from before a cut, after which the next segment begins
            broken = _not_next(index, found, state)
            if broken is not None:
                what = broken
                break
            index.note(found.drain.offset, found.drain.end, found.records)
            visit(found)
            if found.drain.first_index < state.cut_index <= found.drain.last_index:
                return _cut_while_scanning(file, index, state.cut_index)
    except BadDrainError as error:
        what = str(error)
    if following is not None:
        check_following(file, index, following)
        return Scan(index, 0)
    return Scan(index, _torn_bytes(file, index, state, what))


def _not_next(index: SegmentIndex, found: FoundDrain, state: LogState) -> str | None:
    """Say why a sound drain is not of the log; None if it is its next one."""
    first, generation = found.drain.first_index, found.drain.generation
    is_settled = first < state.cut_index
    if generation >= state.generation if is_settled else generation != state.generation:
        return "the drain there is left from before a cut"
    return broken_link(
        found.records, index=index.last_index, term=index.last_term, wal_end=index.wal_end
    )


def _cut_while_scanning(file: OpenFile, index: SegmentIndex, at_index: int) -> Scan:
    cut = find_cut(file, index, at_index)
    index.cut(at_index, cut.tail, cut.wal_end)
    return Scan(index, 0, cut)


def _torn_bytes(file: OpenFile, index: SegmentIndex, state: LogState, what: str) -> int:
    """Return how much was torn off behind the end; CorruptLogError if that was durable."""
    wanted, end = index.last_index + 1, index.tail
    durable_index = state.durable_index
    for drain in find_drain_headers(file, index.header, index.tail):
        if drain.generation == state.generation and drain.first_index >= wanted:
            durable_index = max(durable_index, drain.durable_index)
            end = max(end, drain.end)
    if wanted <= durable_index:
        raise CorruptLogError.at(
            file.path,
            index.tail,
            f"entry {wanted} is damaged ({what}), although entries up to {durable_index} "
            "were durable",
        )
    return end - index.tail


def live_headers(
    directory: LogDirectory, state: LogState, saved: SavedStart
) -> tuple[list[SegmentHeader], list[str]]:
    """Return the headers of the log's segments, and the names of those that are no longer in it."""
    names = [name for name in directory.names() if first_index_of_name(name) is not None]
    names, removed = _without_trimmed(names, saved.start.index)
    headers: list[SegmentHeader] = []
    for name in names:
        header = read_header(directory.open_to_read(name), name)
        if header.member != state.member:
            raise CorruptLogError.at(directory.path / name, 0, "it belongs to another member")
        is_cut = header.first_index >= state.cut_index and header.generation < state.generation
        if is_cut or header.generation < saved.generation:
            removed.append(name)
        else:
            headers.append(header)
    return headers, removed


def _without_trimmed(names: list[str], start_index: int) -> tuple[list[str], list[str]]:
    """Split off the segments that end at or before the start: the next one begins there."""
    for number in range(len(names) - 1, 0, -1):
        first_index = first_index_of_name(names[number])
        if first_index is not None and first_index <= start_index + 1:
            return names[number:], names[:number]
    return names, []


def _load(
    directory: LogDirectory,
    header: SegmentHeader,
    state: LogState,
    following: SegmentHeader | None,
) -> tuple[Segment, Scan | None]:
    """Make the index of one segment, by its footer or by a scan.

    The footer of the last segment is worth nothing: the crash may have come while it was being
    written, and have kept it but not the drains before it.
    """
    file = directory.open_to_read(header.file_name)
    footer = None if following is None else read_footer(file, header)
    if footer is not None and following is not None:
        index = load_sealed(file, header, footer)
        if index is not None and not footer.is_stale(state.cut_index, state.generation):
            check_following(file, index, following)
            return Segment(index, is_sealed=True), None
    scanned = scan(file, header, state, following)
    return Segment(scanned.index, is_sealed=following is not None), scanned


def check_following(file: OpenFile, index: SegmentIndex, following: SegmentHeader) -> None:
    """Refuse a segment that does not end where the next one begins."""
    if (index.last_index + 1, index.last_term) != (following.first_index, following.prev_term):
        raise CorruptLogError.at(
            file.path,
            index.tail,
            f"the segment ends with entry {index.last_index} of term {index.last_term}, the next "
            f"one follows entry {following.first_index - 1} of term {following.prev_term}",
        )


def check_range(
    directory: LogDirectory, indexes: list[SegmentIndex], state: LogState, start: LogStart
) -> None:
    """Compare the range that was found with what must be there."""
    last_index = indexes[-1].last_index if indexes else start.index
    durable_index = max(state.durable_index, start.index)
    what = ""
    if last_index < durable_index:
        what = f"the log ends with entry {last_index}, but entry {durable_index} was durable"
    elif indexes and indexes[0].first_index > start.index + 1:
        what = f"entries {start.index + 1} .. {indexes[0].first_index - 1} are missing"
    elif indexes:
        term = next(i.term_at(start.index) for i in indexes if i.last_index >= start.index)
        if term != start.term:
            what = f"entry {start.index} is of term {term}, the start says {start.term}"
    if what:
        raise CorruptLogError.at(directory.path, 0, what)


def _settle(directory: LogDirectory, segments: list[Segment], scans: list[Scan]) -> None:
    """Finish what a crash interrupted, and make durable what was found."""
    for scanned in scans:
        header = scanned.index.header
        file = directory.open(header.file_name, os.O_RDWR)
        if scanned.index is segments[-1].index:
            cut = scanned.cut or Cut(scanned.index.tail, scanned.index.wal_end, None)
            write_cut(file, header, cut)
        else:
            seal(file, scanned.index, generation=header.generation)
    directory.sync()
