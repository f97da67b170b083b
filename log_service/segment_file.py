"""One segment on disk: walk its drains, write to it, cut it, seal it.

The functions here take an open file and the segment's header or index. They know no threads: the
writer's are called by one thread, and a walker checks every byte that it returns, so it may run
while the file is written, cut or recycled; then it ends with a BadDrainError at worst.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from .disk_files import LogDirectory, OpenFile
from .record import Kind, Record, RecordError, decode_records
from .segment import (
    ALIGNMENT_BYTES,
    DRAIN_BODY_BYTES_MAX,
    DRAIN_HEADER,
    DRAIN_MAGIC,
    FOOTER_BYTES,
    HEADER_BYTES,
    Buffer,
    Drain,
    Footer,
    SegmentHeader,
    aligned,
    drain_buffers,
    split_into_drains,
)
from .segment_index import SegmentIndex, WalPosition, WrittenDrain, end_of_wal

# Holds the largest drain; what a reader wants is often as much.
WINDOW_BYTES: Final = 256 * 1024
SEARCH_BYTES: Final = 1024 * 1024
assert DRAIN_HEADER.size + DRAIN_BODY_BYTES_MAX <= WINDOW_BYTES
assert SEARCH_BYTES % ALIGNMENT_BYTES == 0


class BadDrainError(Exception):
    """There is no sound drain at `offset`: the end of the log, a torn tail, damage, or recycled."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class FoundDrain:
    """A sound drain: every checksum was right and its entries follow one another."""

    drain: Drain
    records: list[Record]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a segment ends after a cut; the drain that straddled it gets a new header."""

    tail: int
    wal_end: WalPosition
    shortened: Drain | None


def walk(file: OpenFile, header: SegmentHeader, offset: int, end: int) -> Iterator[FoundDrain]:
    """Yield the drains from `offset` up to `end`; BadDrainError where there is none."""
    window, base = memoryview(b""), offset
    while offset + DRAIN_HEADER.size <= end:
        if offset + DRAIN_HEADER.size > base + len(window):
            window, base = _window(file, offset, end), offset
        drain = None
        if len(window) - (offset - base) >= DRAIN_HEADER.size:
            drain = Drain.decode(window, offset - base, header, offset)
        if drain is None:
            raise BadDrainError(offset, "there is no drain header")
        body = offset + DRAIN_HEADER.size
        if body + drain.body_bytes > base + len(window):
            window, base = _window(file, offset, end), offset
        yield FoundDrain(drain, _records(drain, window[body - base :][: drain.body_bytes]))
        offset = drain.end


def find_drain_headers(file: OpenFile, header: SegmentHeader, offset: int) -> Iterator[Drain]:
    """Yield every drain header of this segment at or after `offset`, whatever surrounds it."""
    offset = aligned(offset)
    while offset < header.segment_bytes:
        data = file.read(SEARCH_BYTES, offset)
        at = data.find(DRAIN_MAGIC)
        while at >= 0:
            if at % ALIGNMENT_BYTES == 0 and at + DRAIN_HEADER.size <= len(data):
                drain = Drain.decode(data, at, header, offset + at)
                if drain is not None:
                    yield drain
            at = data.find(DRAIN_MAGIC, at + 1)
        offset += SEARCH_BYTES


def create_segment(directory: LogDirectory, spare: str, header: SegmentHeader) -> None:
    """Turn a spare into the segment of this header, durably: it exists only with its header."""
    file = directory.open(spare, os.O_WRONLY)
    file.write([header.encode().ljust(HEADER_BYTES, b"\0")], 0)
    file.sync_data()
    directory.rename(spare, header.file_name)
    directory.sync()


def write_drains(
    file: OpenFile,
    index: SegmentIndex,
    records: Sequence[Record],
    *,
    generation: int,
    durable_index: int,
) -> list[WrittenDrain]:
    """Write records behind the tail with one system call; return the drains, to be noted."""
    offset = index.tail
    drains: list[WrittenDrain] = []
    buffers: list[Buffer] = []
    for part in split_into_drains(records):
        body_bytes = 0
        for record in part:
            body_bytes += record.size_bytes
        drain = Drain(
            body_bytes=body_bytes,
            count=len(part),
            first_index=part[0].index,
            durable_index=durable_index,
            generation=generation,
            offset=offset,
        )
        buffers += drain_buffers(drain, index.header, part)
        end = drain.end
        drains.append((offset, end, part))
        offset = end
    file.write(buffers, index.tail)
    return drains


def seal(file: OpenFile, index: SegmentIndex, *, generation: int) -> None:
    """Write the footer and make the whole segment durable."""
    footer = index.encode_footer(generation=generation)
    file.write([footer], index.header.segment_bytes - len(footer))
    file.sync_data()


def read_footer(file: OpenFile, header: SegmentHeader) -> Footer | None:
    """Return this segment's footer, without its tables; None if there is none."""
    footer = Footer.decode(read_footer_bytes(file, header, FOOTER_BYTES))
    if footer is None or footer.member != header.member:
        return None
    return footer if footer.first_index == header.first_index else None


def read_footer_bytes(file: OpenFile, header: SegmentHeader, size_bytes: int) -> bytes:
    """Return the last bytes of a segment."""
    return file.read(size_bytes, header.segment_bytes - size_bytes)


def load_sealed(file: OpenFile, header: SegmentHeader, footer: Footer) -> SegmentIndex | None:
    """Make the index of a sealed segment of its footer; None if a checksum is wrong."""
    size_bytes = footer.table_bytes + FOOTER_BYTES
    if size_bytes > header.segment_bytes - HEADER_BYTES:
        return None
    data = memoryview(read_footer_bytes(file, header, size_bytes))
    tables, end = data[: footer.table_bytes], data[footer.table_bytes :]
    if not Footer.is_sound(end, tables):
        return None
    return SegmentIndex.from_footer(header, footer, tables)


def find_cut(file: OpenFile, index: SegmentIndex, at_index: int) -> Cut:
    """Find where the segment ends when it is cut before an entry that is in it."""
    offset, _, wal_end = index.before_index(at_index)
    for found in walk(file, index.header, offset, index.tail):
        kept = [record for record in found.records if record.index < at_index]
        wal_end = wal_end_after(kept, wal_end)
        if len(kept) < len(found.records):
            return _cut_of(found.drain, kept, wal_end)
    raise BadDrainError(index.tail, f"entry {at_index} is missing")


def write_cut(file: OpenFile, header: SegmentHeader, cut: Cut) -> None:
    """Make the cut durable.

    The new header of a drain that straddles the cut is in one sector, so that a crash leaves the
    old one or the new one; its records stay as they are.
    """
    if cut.shortened is not None:
        file.write([cut.shortened.encode(header)], cut.shortened.offset)
    if read_footer(file, header) is not None:
        file.write([bytes(FOOTER_BYTES)], header.segment_bytes - FOOTER_BYTES)
    file.sync_data()


def wal_end_after(records: Sequence[Record], wal_end: WalPosition) -> WalPosition:
    """Return the WAL position that is reached by records that follow `wal_end`."""
    for record in reversed(records):
        if record.kind == Kind.WAL:
            return end_of_wal(record)
    return wal_end


def _cut_of(drain: Drain, kept: Sequence[Record], wal_end: WalPosition) -> Cut:
    if not kept:
        return Cut(drain.offset, wal_end, None)
    body_bytes = sum(record.size_bytes for record in kept)
    shortened = msgspec.structs.replace(drain, body_bytes=body_bytes, count=len(kept))
    return Cut(shortened.end, wal_end, shortened)


def _window(file: OpenFile, offset: int, end: int) -> memoryview:
    return memoryview(file.read(min(WINDOW_BYTES, end - offset), offset))


def _records(drain: Drain, body: memoryview) -> list[Record]:
    if len(body) < drain.body_bytes:
        raise BadDrainError(drain.offset, "the drain is cut short")
    try:
        records = list(decode_records(body))
    except RecordError as error:
        raise BadDrainError(drain.offset, str(error)) from error
    if len(records) != drain.count or records[0].index != drain.first_index:
        raise BadDrainError(drain.offset, "the drain holds other records than its header says")
    return records
