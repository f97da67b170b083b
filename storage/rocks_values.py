"""Values of the page store in RocksDB (docs/formats/page_store.md), with their checksums.

Every value is 8 bytes of XXH3 over its body, seeded with the hash of its key, and then the body. So
a value that was changed, or that stands under a key that is not its own, is found when it is read.
RocksDB has checksums of its own, of blocks of its files; these hold from the hand of who wrote a
page to the hand of who reads it, through caches and compactions.

The body of a page is the page, or empty if the page is zeros. The others are msgpack arrays.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from fabric.ids import CutSeq
from fabric.lsn import Lsn, Tli
from sqlnode.pagefault.block_map import BLOCK_BYTES

from .cut import Cut, StoredFile
from .page_store import DamagedError

FORMAT_VERSION: Final = 1
CHECKSUM_BYTES: Final = 8
ZERO_PAGE: Final = bytes(BLOCK_BYTES)

_PAGE_VALUE_BYTES: Final = CHECKSUM_BYTES + BLOCK_BYTES

Record = TypeVar("Record")
FileEntry = tuple[int, int]  # file id, blocks


class CutHead(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of a cut's record: all that has to be known of every cut."""

    tli: int
    lsn: int
    redo: int
    taken_at_s: float
    base: int  # the cut whose BASE this one is told against
    next_file_id: int

    def cut(self, seq: CutSeq) -> Cut:
        """Return it as the rest of the node knows it."""
        return Cut(
            seq=seq,
            tli=Tli(self.tli),
            lsn=Lsn(self.lsn),
            redo=Lsn(self.redo),
            taken_at_s=self.taken_at_s,
        )


class CutRecord(CutHead, frozen=True, array_like=True):
    """A cut: what it is, and how its files differ from those of its base (None: not there)."""

    files: dict[str, FileEntry | None]
    small_files: dict[str, bytes | None]
    directories: list[str] | None  # None: as in the base


class BaseRecord(msgspec.Struct, frozen=True, array_like=True):
    """The files of a cut, whole."""

    files: dict[str, FileEntry]
    small_files: dict[str, bytes]
    directories: list[str]


class DeltaRecord(msgspec.Struct, frozen=True, array_like=True):
    """Pages that were written: for each file id pairs of (first block, blocks), ascending."""

    runs: dict[int, list[int]]


def sealed(key: bytes, body: bytes) -> bytes:
    """Return the value to store under `key`."""
    return xxh3_64_digest(body, xxh3_64_intdigest(key)) + body


def sealed_page(key: bytes, page: bytes | memoryview) -> bytes:
    """Return the value of a page; one of zeros takes no room."""
    return sealed(key, b"" if page == ZERO_PAGE else bytes(page))


def opened(key: bytes, value: bytes) -> memoryview:
    """Return the body of a value. DamagedError: it is not what was stored under this key."""
    body = memoryview(value)[CHECKSUM_BYTES:]
    if xxh3_64_digest(body, xxh3_64_intdigest(key)) != value[:CHECKSUM_BYTES]:
        raise DamagedError(f"the value of key {key.hex()} is damaged; rebuild the store")
    return body


def opened_page(key: bytes, value: bytes) -> memoryview | None:
    """Return a page, None if it is zeros. DamagedError: it is not what was stored."""
    body = opened(key, value)
    if len(value) == _PAGE_VALUE_BYTES:
        return body
    if len(value) == CHECKSUM_BYTES:
        return None
    raise DamagedError(f"the page of key {key.hex()} has {len(body)} bytes; rebuild the store")


def encoded(key: bytes, record: msgspec.Struct | int) -> bytes:
    """Return the value of a record."""
    return sealed(key, msgspec.msgpack.encode(record))


def decoded(key: bytes, value: bytes, kind: type[Record]) -> Record:
    """Return a record of a value. DamagedError: it is none."""
    body = opened(key, value)
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise DamagedError(f"the record of key {key.hex()} cannot be read ({error})") from error


def file_entries(files: Mapping[str, StoredFile]) -> dict[str, FileEntry]:
    """Return files as records hold them."""
    return {path: (file.file_id, file.blocks) for path, file in files.items()}


def stored_files(entries: Mapping[str, FileEntry]) -> dict[str, StoredFile]:
    """Return files of a record."""
    return {path: StoredFile(path, *entry) for path, entry in entries.items()}


def runs_of(blocks: Sequence[int]) -> list[int]:
    """Return ascending block numbers as pairs of (first, count), one behind the other."""
    runs: list[int] = []
    end = -1
    for block in blocks:
        if block == end:
            runs[-1] += 1
        else:
            runs += (block, 1)
        end = block + 1
    return runs


def blocks_of(runs: Sequence[int]) -> list[int]:
    """Return the block numbers of pairs of (first, count)."""
    return [
        block
        for first, count in zip(runs[::2], runs[1::2], strict=True)
        for block in range(first, first + count)
    ]
