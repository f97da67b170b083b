"""Put a branch's WAL into the object store, find what is there, and read it back.

    state = archived_upto(store, layout, history, ...)     # once, by a new leader
    for item in plan_archive(layout, state, ...):          # whenever WAL was committed
        upload(store, item, read)
        state = item.then

The plan (archive_plan.py) decides; here is what waits for disks and networks, to be called in a
thread. Nothing is ever overwritten: if an object exists already, an earlier leader, or an attempt
whose answer was lost, has stored it, and its bytes must be the same. Other bytes mean that the
branch has two histories, or that two branches share a place: `ArchiveConflictError`, and a human
must look. Besides it there are the store's own errors (object_store/interface.py).

There is one uploader of a branch at a time as a rule, the leader; two do no harm.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias, assert_never

from fabric.frames import Buffer, byte_count
from fabric.lsn import Lsn, Tli, parse_wal_file_name
from object_store.interface import (
    LIST_COUNT_MAX,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    ObjectStore,
    StoreBusyError,
)

from .archive_plan import (
    PARTIAL,
    ArchiveItem,
    ArchiveLayout,
    ArchiveState,
    HistoryItem,
    SegmentItem,
    Timeline,
    WalRange,
    first_state,
    state_at_start,
    timelines,
)
from .history import TimelineHistory

READ_BYTES: Final = 1024 * 1024  # asked of the log at once

ReadWal: TypeAlias = Callable[[Tli, Lsn, int], Buffer]
"""WAL of a timeline from a position on: at least a byte, at most so many, never to change."""


class ArchiveConflictError(Exception):
    """The archive has other bytes than ours under a name; nothing is changed: a human must look."""


class ArchiveDamagedError(Exception):
    """An object of the archive is not what its name says: a human must look."""


def archived_upto(
    store: ObjectStore,
    layout: ArchiveLayout,
    history: TimelineHistory,
    *,
    start: Lsn,
    committed: Lsn,
) -> ArchiveState:
    """Look how far the archive reaches without a gap from `start` on, the oldest WAL in the log.

    Names and sizes are believed, but for those of the last object: it counts as not archived, so
    that the next upload compares it with the log. A place that holds the archive of another branch
    is noticed by that, before anything of ours is trimmed. What lies behind a gap is planned
    again too, and found to be there already.
    """
    state = first_state(layout, history, start)
    lines = [line for line in timelines(layout, history) if line.tli >= state.tli]
    begin = state.upto
    for index, line in enumerate(lines):
        if index:
            begin = state_at_start(layout, line).upto
        end = committed if line.end is None else line.end
        if line.start >= end:
            continue  # it wrote nothing, so it has no segment that could tell
        upto, has_partial = _reach(store, layout, line, begin=begin, end=end)
        if has_partial or upto > begin:
            last = upto if has_partial else upto - layout.segment_bytes
            if last >= start:
                state = ArchiveState(tli=line.tli, upto=last)
            elif has_partial:
                state = state_at_start(layout, lines[index + 1])
            else:
                state = ArchiveState(tli=line.tli, upto=upto)
        if not has_partial and upto < end:
            break
    return state


def upload(store: ObjectStore, item: ArchiveItem, read: ReadWal) -> None:
    """Archive one item; when it returns the object is durable. Repeating it is harmless."""
    match item:
        case SegmentItem():
            content = [piece for wal in item.ranges for piece in _pieces(wal, read)]
        case HistoryItem():
            content = [item.content]
        case _:
            assert_never(item)
    try:
        store.put_new(item.name, content)
    except ObjectExistsError:
        _compare(store, item.name, content)


class ArchiveReader:
    """Reads WAL that the log nodes have trimmed, along one history."""

    def __init__(self, store: ObjectStore, layout: ArchiveLayout, history: TimelineHistory) -> None:
        self._store = store
        self._layout = layout
        self._lines = {line.tli: line for line in timelines(layout, history)}

    def read(self, tli: Tli, lsn: Lsn, bytes_max: int) -> bytes:
        """Return contiguous WAL from `lsn`: at least a byte, at most `bytes_max`.

        It ends with the segment or the timeline at the latest, so go on from where it ended. Bytes
        from before `tli` began are its ancestors'. ObjectMissingError: not archived (yet).
        """
        line = self._line_of(tli, lsn)
        start = lsn.segment_start(self._layout.segment_bytes)
        end = start + self._layout.segment_bytes
        name = self._layout.segment(line.tli, lsn)
        if line.end is not None and line.end < end:
            end = line.end
            name = self._layout.partial(line.tli, lsn)
        return self._store.get_range(name, lsn - start, min(bytes_max, end - lsn))

    def _line_of(self, tli: Tli, lsn: Lsn) -> Timeline:
        line = self._lines.get(tli)
        if line is None or (line.end is not None and lsn >= line.end):
            raise ValueError(f"there is no byte {lsn} of timeline {tli:d} in this history")
        return next(line for line in self._lines.values() if line.end is None or lsn < line.end)


def restore_segment(store: ObjectStore, name: str, path: Path, *, segment_bytes: int) -> None:
    """Write a segment file, all of it or nothing; a partial one is filled up with zeros.

    `name` is the object's. ArchiveDamagedError: the object has not the size of a segment.
    """
    is_partial = name.endswith(PARTIAL)
    parse_wal_file_name(name.rpartition("/")[2].removesuffix(PARTIAL), segment_bytes)
    content = store.get(name)
    if len(content) > segment_bytes or (len(content) < segment_bytes and not is_partial):
        raise ArchiveDamagedError(
            f"{name} has {len(content)} bytes, a segment has {segment_bytes}: look for a copy of it"
        )
    temporary = path.with_name(path.name + ".restoring")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.truncate(segment_bytes)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _reach(
    store: ObjectStore, layout: ArchiveLayout, line: Timeline, *, begin: Lsn, end: Lsn
) -> tuple[Lsn, bool]:
    """Return where the whole segments from `begin` on end, and whether a partial one follows."""
    upto = begin
    for info in _listed(store, layout, line.tli, begin):
        is_whole = end - upto >= layout.segment_bytes
        if not is_whole and line.end is None:
            break
        name_of = layout.segment if is_whole else layout.partial
        name = name_of(line.tli, upto)
        if info.name > name:
            break
        if info == ObjectInfo(name, layout.segment_bytes if is_whole else end - upto):
            if not is_whole:
                return upto, True
            upto += layout.segment_bytes
    return upto, False


def _listed(
    store: ObjectStore, layout: ArchiveLayout, tli: Tli, begin: Lsn
) -> Iterator[ObjectInfo]:
    # All but the last character: a few names before the first one are listed, and it itself.
    after = layout.segment(tli, begin)[:-1]
    while True:
        page = store.list(layout.folder(tli), after=after)
        yield from page
        if len(page) < LIST_COUNT_MAX:
            return
        after = page[-1].name


def _pieces(wal: WalRange, read: ReadWal) -> Iterator[Buffer]:
    position = wal.start
    while position < wal.end:
        wanted_bytes = min(READ_BYTES, wal.end - position)
        piece = read(wal.tli, position, wanted_bytes)
        assert 0 < byte_count(piece) <= wanted_bytes, "the log returned more or less than asked for"
        yield piece
        position += byte_count(piece)


def _compare(store: ObjectStore, name: str, content: list[Buffer]) -> None:
    try:
        existing = memoryview(store.get(name))
    except ObjectMissingError as error:
        raise StoreBusyError(f"{name} vanished while it was archived: try again") from error
    for piece in content:
        size_bytes = byte_count(piece)
        if existing[:size_bytes] != memoryview(piece).cast("B"):
            break
        existing = existing[size_bytes:]
    else:
        if not existing:
            return
    raise ArchiveConflictError(
        f"{name} is in the archive with other bytes: this branch, or another one of its name, has "
        "two histories; find out which is right before you move that object away"
    )
