"""Writes WAL byte by byte, as PostgreSQL lays it out: pages, records, checkpoints, switches."""

import struct

from fabric.lsn import Lsn, Tli
from sqlnode.control_file import crc32c
from storage.wal_scan import CheckpointFound

SEGMENT_BYTES = 1 << 20
PAGE_BYTES = 8192
START = 3 * SEGMENT_BYTES
XLOG, HEAP = 0, 10
SHUTDOWN, ONLINE, SWITCH = 0x00, 0x10, 0x40


class Writer:
    """Writes records as PostgreSQL does, from the start of a segment."""

    def __init__(self, start: int = START, magic: int = 0xD118) -> None:
        self.start = start
        self.magic = magic
        self.content = bytearray()
        self.before = 0
        self._page_header(0)

    @property
    def end(self) -> int:
        """Where the next record begins, or a page before it."""
        return self.start + len(self.content)

    def record(self, body: bytes, *, manager: int = HEAP, info: int = 0, xid: int = 7) -> int:
        """Append a record; return where it begins."""
        if self.end % PAGE_BYTES == 0:
            self._page_header(0)
        begin = self.end
        self._append(record_bytes(self.before, body, manager=manager, info=info, xid=xid))
        self.before = begin
        self.content += bytes(-self.end % 8)
        return begin

    def checkpoint(self, *, is_shutdown: bool = False, tli: int = 1) -> CheckpointFound:
        """Append a checkpoint record; return what is to be found."""
        if self.end % PAGE_BYTES == 0:
            self._page_header(0)
        redo = self.end if is_shutdown else self.before
        info = SHUTDOWN if is_shutdown else ONLINE
        begin = self.record(checkpoint_body(redo, tli), manager=XLOG, info=info, xid=0)
        return CheckpointFound(
            start=Lsn(begin),
            end=Lsn(self.end),
            redo=Lsn(redo),
            tli=Tli(tli),
            is_shutdown=is_shutdown,
        )

    def switch(self) -> None:
        """Leave the rest of the segment empty."""
        self.record(b"", manager=XLOG, info=SWITCH)
        self.content += bytes(-self.end % SEGMENT_BYTES)

    def fill_page_but(self, left_bytes: int) -> None:
        """Append a record behind which so much is left on the page."""
        room = PAGE_BYTES - self.end % PAGE_BYTES
        size_bytes = room - left_bytes - 24
        if size_bytes < 0:
            size_bytes += PAGE_BYTES - 24
        self.record(bytes(size_bytes))

    def _append(self, data: bytes) -> None:
        while data:
            if self.end % PAGE_BYTES == 0:
                self._page_header(len(data))
            room = PAGE_BYTES - self.end % PAGE_BYTES
            self.content += data[:room]
            data = data[room:]

    def _page_header(self, left_bytes: int) -> None:
        here = self.end
        flags = 1 if left_bytes else 0
        self.content += struct.pack("<HHIQI4x", self.magic, flags, 1, here, left_bytes)
        if here % SEGMENT_BYTES == 0:
            self.content += struct.pack("<QII", 42, SEGMENT_BYTES, PAGE_BYTES)


def checkpoint_body(redo: int, tli: int) -> bytes:
    return b"\xff\x58" + struct.pack("<QII", redo, tli, tli) + bytes(72)


def record_bytes(before: int, body: bytes, *, manager: int, info: int, xid: int) -> bytes:
    head = struct.pack("<IIQBBH", 24 + len(body), xid, before, info, manager, 0)
    return head + struct.pack("<I", crc32c(body + head)) + body
