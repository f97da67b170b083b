"""The format of a segment file: header, drains, footer. Pure; docs/formats/log_segment.md.

A segment is a file of fixed size that holds consecutive entries of one group's log. Behind its
header come drains: what one append wrote, or a part of it. A drain is a header of 64 bytes and
then records as they are (record.py). Drains begin at multiples of 64, so that a drain's header
lies within one sector of any disk and is either old or new after a crash, never half of each.

A drain is whole or it is nothing: it ends the log if one of its records is damaged. What it knows
about others is what tells a torn tail from damage: `durable_index` is the highest entry that was
synced when the drain was written, and `generation` grows with each opening, cut and restart from a
snapshot, so that what an earlier one left behind the end of the log is never taken for its
continuation.

The footer is written when a segment is full ("sealed"), at the end of the file, and spares the
next start a scan. Without a valid one the segment is scanned."""

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from .record import HEADER_BYTES as RECORD_HEADER_BYTES
from .record import RECORD_BODY_BYTES_MAX, Record

VERSION: Final = 1
ALIGNMENT_BYTES: Final = 64
HEADER_BYTES: Final = 4096  # a page of its own: nothing of it is written again
MARK_EVERY_BYTES: Final = 64 * 1024
# A drain is closed by the record that brings it here, so that a reader never needs much at once.
DRAIN_BODY_BYTES_ENOUGH: Final = 64 * 1024
DRAIN_BODY_BYTES_MAX: Final = DRAIN_BODY_BYTES_ENOUGH + RECORD_HEADER_BYTES + RECORD_BODY_BYTES_MAX

SEGMENT_MAGIC: Final = b"SWLOGSEG"
DRAIN_MAGIC: Final = b"\xabSWD"
FOOTER_MAGIC: Final = b"SWLOGEND"
CRC: Final = struct.Struct(">I")

# magic, crc, version | member, first_index, prev_term, generation, tli, lsn, segment_bytes
_HEADER: Final = struct.Struct(">8sII7Q")
# magic, crc, body_bytes, count | first_index, durable_index, generation, offset, segment, member
DRAIN_HEADER: Final = struct.Struct(">4sIII6Q")
_DRAIN_PREFIX: Final = struct.Struct(">4sI")  # the same in two parts: the second has a checksum
_DRAIN_REST: Final = struct.Struct(">II6Q")
# magic, crc, marks, runs, specials | first_index, last_index, last_term, tail, generation, tli,
# lsn, member
_FOOTER: Final = struct.Struct(">8sIIII8Q")
FOOTER_BYTES: Final = _FOOTER.size
MARK_BYTES: Final = 24  # index 8, lsn 8, offset 4, tli 4
RUN_BYTES: Final = 16  # first index, term
SPECIAL_BYTES: Final = 8  # index
# What a drain of one record takes besides the record, at most.
DRAIN_EXTRA_BYTES: Final = DRAIN_HEADER.size + ALIGNMENT_BYTES - 1 + MARK_BYTES

_NAME: Final = re.compile(r"([0-9a-f]{16})\.seg", re.ASCII)
_PADDING: Final = bytes(ALIGNMENT_BYTES)

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """What a segment begins with: whose it is, and what came before it."""

    member: int
    first_index: int
    prev_term: int  # of the entry before the first
    generation: int
    tli: int  # of the last WAL before, and where it ended; 0, 0: not known
    lsn: int
    segment_bytes: int

    def encode(self) -> bytes:
        """Return the bytes for the beginning of the file."""
        numbers = (self.member, self.first_index, self.prev_term, self.generation)
        position = (self.tli, self.lsn, self.segment_bytes)
        return _with_crc(_HEADER.pack(SEGMENT_MAGIC, 0, VERSION, *numbers, *position), 8)

    @classmethod
    def decode(cls, data: Buffer) -> "SegmentHeader | None":
        """Read a header; None if these bytes are not one of this version."""
        if len(data) < _HEADER.size:
            return None
        magic, _, version, *numbers = _HEADER.unpack_from(data)
        if magic != SEGMENT_MAGIC or version != VERSION or not _is_sound(data[: _HEADER.size], 8):
            return None
        member, first_index, prev_term, generation, tli, lsn, segment_bytes = numbers
        return cls(
            member=member,
            first_index=first_index,
            prev_term=prev_term,
            generation=generation,
            tli=tli,
            lsn=lsn,
            segment_bytes=segment_bytes,
        )

    @property
    def file_name(self) -> str:
        """Name the file: its first index, so that names sort as the log does."""
        return f"{self.first_index:016x}.seg"


def first_index_of_name(name: str) -> int | None:
    """Return the first index of the segment of this name; None if it is no segment's."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1], 16)


# A msgspec.Struct for the reason that a record is one.
class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """The header of a drain, without magic and checksum."""

    body_bytes: int
    count: int
    first_index: int
    durable_index: int
    generation: int
    offset: int

    @property
    def last_index(self) -> int:
        """Return the index of its last record."""
        return self.first_index + self.count - 1

    @property
    def end(self) -> int:
        """Return where the next drain begins."""
        body_end = self.offset + DRAIN_HEADER.size + self.body_bytes
        return body_end + -body_end % ALIGNMENT_BYTES

    def encode(self, header: SegmentHeader) -> bytes:
        """Return the 64 bytes, bound to one place of one segment of one member."""
        rest = _DRAIN_REST.pack(
            self.body_bytes,
            self.count,
            self.first_index,
            self.durable_index,
            self.generation,
            self.offset,
            header.first_index,
            header.member,
        )
        return _DRAIN_PREFIX.pack(DRAIN_MAGIC, zlib.crc32(rest)) + rest

    @classmethod
    def decode(cls, data: Buffer, at: int, header: SegmentHeader, offset: int) -> "Drain | None":
        """Read the header at `data[at:]`, which is at `offset` of the segment; None: no header."""
        magic, _, body_bytes, count, first_index, durable_index, *place = DRAIN_HEADER.unpack_from(
            data, at
        )
        generation, *identity = place
        if magic != DRAIN_MAGIC or not _is_sound(data[at : at + DRAIN_HEADER.size], 4):
            return None
        if identity != [offset, header.first_index, header.member]:
            return None  # a recycled segment, or bytes that landed in the wrong place
        if not (count > 0 and 0 < body_bytes <= DRAIN_BODY_BYTES_MAX):
            return None
        return cls(
            body_bytes=body_bytes,
            count=count,
            first_index=first_index,
            durable_index=durable_index,
            generation=generation,
            offset=offset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """The fixed end of a sealed segment; the tables of `table_bytes` come just before it."""

    marks: int
    runs: int
    specials: int
    first_index: int
    last_index: int
    last_term: int
    tail: int
    generation: int
    tli: int
    lsn: int
    member: int

    @property
    def table_bytes(self) -> int:
        """Return the size of the tables before it."""
        return self.marks * MARK_BYTES + self.runs * RUN_BYTES + self.specials * SPECIAL_BYTES

    def is_stale(self, cut_index: int, generation: int) -> bool:
        """Whether a cut has taken away entries that the footer tells of."""
        return self.last_index >= cut_index and self.generation != generation

    def encode(self, tables: bytes) -> bytes:
        """Return tables and footer, to be written up to the end of the file."""
        assert len(tables) == self.table_bytes, "the counts do not describe the tables"
        counts = (self.marks, self.runs, self.specials)
        log = (self.first_index, self.last_index, self.last_term, self.tail, self.generation)
        body = _FOOTER.pack(FOOTER_MAGIC, 0, *counts, *log, self.tli, self.lsn, self.member)
        crc = zlib.crc32(tables, zlib.crc32(body[12:]))
        return tables + body[:8] + CRC.pack(crc) + body[12:]

    @classmethod
    def decode(cls, data: Buffer) -> "Footer | None":
        """Read the last `FOOTER_BYTES` of a file; its checksum is checked with the tables."""
        magic, _, marks, runs, specials, *log, tli, lsn, member = _FOOTER.unpack(data)
        if magic != FOOTER_MAGIC:
            return None
        first_index, last_index, last_term, tail, generation = log
        return cls(
            marks=marks,
            runs=runs,
            specials=specials,
            first_index=first_index,
            last_index=last_index,
            last_term=last_term,
            tail=tail,
            generation=generation,
            tli=tli,
            lsn=lsn,
            member=member,
        )

    @staticmethod
    def is_sound(footer: Buffer, tables: Buffer) -> bool:
        """Compare the checksum of footer and tables."""
        crc: int = CRC.unpack_from(footer, 8)[0]
        return crc == zlib.crc32(tables, zlib.crc32(footer[12:]))


def aligned(offset: int) -> int:
    """Return the first place at or after `offset` where a drain may begin."""
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def split_into_drains(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Cut records into drains that are small enough to be read in one go."""
    drains: list[Sequence[Record]] = []
    start = size_bytes = 0
    for number, record in enumerate(records, 1):
        size_bytes += record.size_bytes
        if size_bytes >= DRAIN_BODY_BYTES_ENOUGH:
            drains.append(records[start:number])
            start, size_bytes = number, 0
    if start < len(records):
        drains.append(records[start:])
    return drains


def drain_buffers(drain: Drain, header: SegmentHeader, records: Sequence[Record]) -> list[Buffer]:
    """Return what is to be written at `drain.offset`: header, records, padding."""
    buffers: list[Buffer] = [drain.encode(header)]
    for record in records:
        buffers.append(record.header)
        buffers.append(record.body)
    padding_bytes = -drain.body_bytes % ALIGNMENT_BYTES
    if padding_bytes:
        buffers.append(_PADDING[:padding_bytes])
    return buffers


def _with_crc(packed: bytes, at: int) -> bytes:
    """Put the checksum of what follows it at `at`, where the magic ends."""
    rest = packed[at + CRC.size :]
    return packed[:at] + CRC.pack(zlib.crc32(rest)) + rest


def _is_sound(data: Buffer, at: int) -> bool:
    crc: int = CRC.unpack_from(data, at)[0]
    return crc == zlib.crc32(data[at + CRC.size :])
