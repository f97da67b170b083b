"""The little of WAL's format that finding a checkpoint needs: pages, record heads, one record.

WAL is a sequence of pages of 8 KiB. Each begins with a header (40 bytes on the first page of a
segment, 24 on the others), and records go on behind it, so a record may have headers in its
middle. A record begins with a head of 24 bytes, at a multiple of 8:

    total length u32 | xid u32 | position of the record before it u64
    info u8 | manager u8 | 2 zeros | CRC-32C u32 of what is behind the head, then of the head

A page's header says whether a record of an earlier page goes on in it, and how many bytes of it are
left. That is what makes `is_record_start` exact: from there on the lengths lead from record to
record, and no bytes that a user has stored can be mistaken for the start of one.

The layouts are those of PostgreSQL 15 to 18 (access/xlog_internal.h, xlogrecord.h,
catalog/pg_control.h); what differs between them is the page's magic. All of it is little-endian.
"""

import struct
from dataclasses import dataclass
from typing import Final

from fabric.lsn import Lsn, Tli
from sqlnode.control_file import crc32c

PAGE_BYTES: Final = 8192
SHORT_HEADER_BYTES: Final = 24
LONG_HEADER_BYTES: Final = 40
ALIGNMENT_BYTES: Final = 8
PAGE_MAGICS: Final = {0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}

_PAGE_HEADER: Final = struct.Struct("<HHIQI")  # magic, flags, timeline, own position, bytes left
# The same, then padding, system identifier, bytes of a segment, bytes of a page.
LONG_HEADER: Final = struct.Struct("<HHIQI4xQII")
assert LONG_HEADER.size == LONG_HEADER_BYTES
LONG_HEADER_FLAG: Final = 0x0002  # XLP_LONG_HEADER
_CONTINUES: Final = 0x0001  # XLP_FIRST_IS_CONTRECORD

RECORD_HEAD: Final = struct.Struct("<IIQBBHI")
_CRC_OFFSET: Final = 20
CHECKPOINT_DATA_HEADER: Final = b"\xff\x58"  # "main data of less than 256 bytes", and its 88 bytes
# redo, timeline, timeline before, full_page_writes; the rest is not ours to know.
_CHECKPOINT: Final = struct.Struct("<QII")
_CHECKPOINT_BYTES: Final = 88
CHECKPOINT_RECORD_BYTES: Final = RECORD_HEAD.size + len(CHECKPOINT_DATA_HEADER) + _CHECKPOINT_BYTES
_XLOG_MANAGER: Final = 0
_SHUTDOWN, _ONLINE = 0x00, 0x10

# How every checkpoint record begins: its length, and no xid, for the checkpointer never has one.
CHECKPOINT_START: Final = struct.pack("<II", CHECKPOINT_RECORD_BYTES, 0)
# What follows 16 bytes behind: info, manager, padding.
CHECKPOINT_KINDS: Final = (struct.pack("<BBH", _ONLINE, 0, 0), struct.pack("<BBH", 0, 0, 0))
KIND_OFFSET: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFound:
    """A checkpoint record: a place at which a redo engine can make a cut."""

    start: Lsn
    end: Lsn  # where replay stands once it has replayed the record
    redo: Lsn
    tli: Tli
    is_shutdown: bool


class WalView:
    """Some contiguous WAL. Positions are plain integers: they are computed with all the time."""

    __slots__ = ("_data", "_segment_mask", "end", "start")

    def __init__(self, start: int, data: bytes, segment_bytes: int) -> None:
        self.start = start
        self.end = start + len(data)
        self._data = data
        self._segment_mask = segment_bytes - 1

    def header_bytes(self, page: int) -> int:
        """Return how long the header of the page that begins here is."""
        return SHORT_HEADER_BYTES if page & self._segment_mask else LONG_HEADER_BYTES

    def record_end(self, at: int, size_bytes: int) -> int:
        """Return where replay stands behind a record of this length that begins at `at`."""
        while size_bytes > (room := PAGE_BYTES - at % PAGE_BYTES):
            size_bytes -= room
            at += room
            at += self.header_bytes(at)
        return at + aligned(size_bytes)

    def record(self, at: int, size_bytes: int) -> bytes | None:
        """Return a record that is all here, without the headers of pages in it.

        None: it does not go on as a record does.
        """
        pieces = []
        while size_bytes > (room := PAGE_BYTES - at % PAGE_BYTES):
            pieces.append(self._bytes(at, room))
            size_bytes -= room
            at += room
            if self._bytes_left(at) != size_bytes:
                return None
            at += self.header_bytes(at)
        pieces.append(self._bytes(at, size_bytes))
        return b"".join(pieces)

    def is_record_start(self, at: int, before: int) -> bool:
        """Whether a record begins at `at`, and `before` is where the one before it does.

        Exact, unless the view begins in the middle of the page: then what is here must not speak
        against it.
        """
        page = at - at % PAGE_BYTES
        if page < self.start:
            return before < self.start or self._next_record(before) == at
        left_bytes = self._bytes_left(page)
        if left_bytes is None:
            return False
        first = page + self.header_bytes(page) + aligned(left_bytes)
        # The answer for nearly all of what only looks like a record, without a walk.
        if before < page or first >= at:
            return before < page and first == at
        if before < first or self._next_record(before) != at:
            return False
        here = first
        while here < before:
            here = self._next_record(here)
        return here == before

    def _next_record(self, at: int) -> int:
        """Return the position behind a record, if that ends on its page; else some later one."""
        (size_bytes,) = struct.unpack_from("<I", self._data, at - self.start)
        # Zeros, as behind the switch to another segment, are no record.
        return at + aligned(size_bytes) if size_bytes >= RECORD_HEAD.size else self.end

    def _bytes_left(self, page: int) -> int | None:
        """Return how much of a record of earlier pages is on this page and the next ones.

        None: there is no page of WAL here.
        """
        magic, flags, _, position, left_bytes = _PAGE_HEADER.unpack_from(
            self._data, page - self.start
        )
        if magic not in PAGE_MAGICS or position != page:
            return None
        return int(left_bytes) if flags & _CONTINUES else 0

    def _bytes(self, at: int, size_bytes: int) -> bytes:
        return self._data[at - self.start : at - self.start + size_bytes]


def checkpoint_at(view: WalView, at: int) -> CheckpointFound | None:
    """Return the checkpoint whose record begins at `at`; all of its bytes are in the view.

    What is cheap comes first, because a user may have stored any number of what looks like one.
    """
    if at % ALIGNMENT_BYTES or at % PAGE_BYTES < view.header_bytes(at - at % PAGE_BYTES):
        return None
    record = view.record(at, CHECKPOINT_RECORD_BYTES)
    if record is None:
        return None
    size_bytes, xid, before, info, manager, padding, crc = RECORD_HEAD.unpack_from(record)
    is_checkpoint = info in {_SHUTDOWN, _ONLINE} and manager == _XLOG_MANAGER and padding == 0
    is_whole = record[RECORD_HEAD.size :].startswith(CHECKPOINT_DATA_HEADER) and xid == 0
    if not (is_checkpoint and is_whole and size_bytes == CHECKPOINT_RECORD_BYTES):
        return None
    redo, tli, _ = _CHECKPOINT.unpack_from(record, RECORD_HEAD.size + len(CHECKPOINT_DATA_HEADER))
    # Nothing happens while a server shuts down, so replay starts with the record itself.
    is_redo_right = redo == at if info == _SHUTDOWN else redo < at
    if not (is_redo_right and tli and before < at and view.is_record_start(at, before)):
        return None
    if crc32c(record[RECORD_HEAD.size :] + record[:_CRC_OFFSET]) != crc:
        return None
    return CheckpointFound(
        start=Lsn(at),
        end=Lsn(view.record_end(at, CHECKPOINT_RECORD_BYTES)),
        redo=Lsn(redo),
        tli=Tli(tli),
        is_shutdown=info == _SHUTDOWN,
    )


def aligned(size_bytes: int) -> int:
    """Return the next multiple of 8: there records begin."""
    return size_bytes + ALIGNMENT_BYTES - 1 & -ALIGNMENT_BYTES
