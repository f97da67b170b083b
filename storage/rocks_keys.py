"""Keys of the page store in RocksDB (docs/formats/page_store.md): one ordered space for everything.

    kind u8 | branch u32 | file id u64 | block u32 | 2^64-1 - seq u64      a page version
    kind u8 | branch u32 | seq u64                                        what belongs to a cut

Big-endian, so that the order of keys is the order of numbers. The seq of a page version is
inverted: its versions lie newest first, and one seek to (block, seq) finds the version that a cut
reads. Kinds are ordered so that what a cut says comes before its pages: one sorted file has both.
"""

import struct
from enum import IntEnum
from typing import Final

from fabric.ids import BranchName, CutSeq

SEQ_MAX: Final = 2**64 - 1
BLOCK_MAX: Final = 2**32 - 1


class Kind(IntEnum):
    """What a key stands for; its first byte."""

    FORMAT = 1  # the version of all this
    NEXT_BRANCH = 2  # the number that the next branch gets
    BRANCH = 3  # name -> number
    BASE = 4  # a whole list of files, to which cuts refer
    CUT = 5
    DELTA = 6  # which pages were written in (the cut before, this one]
    DROPPED = 7  # the cut cannot be read any more and is to be collected
    PAGE = 9


_PAGE: Final = struct.Struct(">BIQIQ")
_OF_CUT: Final = struct.Struct(">BIQ")
_OF_BRANCH: Final = struct.Struct(">BI")
_BLOCK: Final = struct.Struct(">BIQI")

PREFIX_BYTES: Final = _BLOCK.size  # all versions of one page; what the Bloom filters know
FORMAT_KEY: Final = bytes([Kind.FORMAT])
NEXT_BRANCH_KEY: Final = bytes([Kind.NEXT_BRANCH])
BRANCH_PREFIX: Final = bytes([Kind.BRANCH])
KINDS_OF_BRANCH: Final = (Kind.BASE, Kind.CUT, Kind.DELTA, Kind.DROPPED, Kind.PAGE)

_pack_page = _PAGE.pack
_PAGE_KIND: Final = int(Kind.PAGE)  # packing an IntEnum costs three times as much


def page_key(branch: int, file_id: int, block: int, seq: int) -> bytes:
    """Return the key of a version; a seek to it finds the newest version at or before `seq`."""
    return _pack_page(_PAGE_KIND, branch, file_id, block, SEQ_MAX - seq)


def page_prefix(branch: int, file_id: int, block: int) -> bytes:
    """Return what the keys of all versions of a page begin with."""
    return _BLOCK.pack(_PAGE_KIND, branch, file_id, block)


def seq_of_page_key(key: bytes) -> int:
    """Return the cut that wrote the version."""
    inverted: int = _PAGE.unpack(key)[4]
    return SEQ_MAX - inverted


def file_range(branch: int, file_id: int) -> tuple[bytes, bytes]:
    """Return (first key, key behind the last) of all versions of all pages of a file."""
    return page_prefix(branch, file_id, 0), page_prefix(branch, file_id + 1, 0)


def cut_key(kind: Kind, branch: int, seq: int) -> bytes:
    """Return the key of something that belongs to a cut."""
    return _OF_CUT.pack(kind, branch, seq)


def seq_of_cut_key(key: bytes) -> CutSeq:
    """Return the cut that a key of BASE, CUT, DELTA or DROPPED belongs to."""
    return CutSeq(_OF_CUT.unpack(key)[2])


def branch_prefix(kind: Kind, branch: int) -> bytes:
    """Return what all keys of a kind begin with in one branch."""
    return _OF_BRANCH.pack(kind, branch)


def branch_name_key(name: BranchName) -> bytes:
    """Return the key under which a branch's number stands."""
    return BRANCH_PREFIX + name.encode()


def branch_of_key(key: bytes) -> int | None:
    """Return the number of the branch that a key belongs to; None: to none, or it names one."""
    if len(key) < _OF_BRANCH.size or key[0] not in KINDS_OF_BRANCH:
        return None
    number: int = _OF_BRANCH.unpack_from(key)[1]
    return number


def behind(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with `prefix`."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")
