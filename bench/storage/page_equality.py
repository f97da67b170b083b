"""Whether pages, and data directories, are the same but for what the WAL does not have: hint bits.

Whoever reads a tuple may note in it how its transactions ended, and a page that is dirty anyway is
written with the note; its checksum differs then. A tuple that is moved when its page is pruned
leaves its bytes behind in free space, and its notes with them: the same bits may differ there,
wherever a tuple can have had them. This is what PostgreSQL's own `wal_consistency_checking` masks,
and less: all other bits of free space and of a page's header have to be equal here. Only heap pages
have such bits on a server that replays, and a frozen tuple has only those of its end.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlnode.directory_source import describe_directory
from sqlnode.pagefault.block_map import BLOCK_BYTES as PAGE_BYTES

HEADER_BYTES: Final = 24
RELATION_FOLDERS: Final = ("base/", "global/", "pg_tblspc/")

XMIN_HINTS: Final = 0x0300  # both of them: frozen
XMAX_HINTS: Final = 0x0C00

_CHECKSUM: Final = slice(8, 10)
_BOUNDS: Final = struct.Struct("<HHH")  # lower, upper, special; at 12
_ITEM: Final = struct.Struct("<I")  # offset 15 bits, state 2, length 15
_NORMAL: Final = 1
_INFOMASK: Final = 20  # in a tuple
_TUPLE_ALIGNMENT: Final = 8
_HINTS_BYTE: Final = (_INFOMASK + 1) % _TUPLE_ALIGNMENT  # where both kinds of hints are
_NO_HINTS: Final = 0xFF & ~((XMIN_HINTS | XMAX_HINTS) >> 8)
_TUPLE_BYTES_MIN: Final = 23


def directory_differences(have: Path, want: Path) -> list[str]:
    """Compare what a cut gives with a data directory at rest, hint bits aside.

    Free space maps are left out: they are not in the WAL, and PostgreSQL mends them as it goes.
    """
    have_files = {file.path: file.blocks for file in describe_directory(have).files}
    want_files = {file.path: file.blocks for file in describe_directory(want).files}
    compared = [
        path
        for path in sorted(have_files.keys() | want_files.keys())
        if "_fsm" not in path and not path.startswith("pg_subtrans/")
    ]
    found = []
    for path in compared:
        if have_files.get(path) != want_files.get(path):
            found.append(f"{path}: {have_files.get(path)} blocks, not {want_files.get(path)}")
            continue
        ours, theirs = (have / path).read_bytes(), (want / path).read_bytes()
        if ours == theirs:
            continue
        found += [
            f"{path}: block {start // PAGE_BYTES} differs"
            for start in range(0, len(theirs), PAGE_BYTES)
            if not is_same_page(
                path, ours[start : start + PAGE_BYTES], theirs[start : start + PAGE_BYTES]
            )
        ]
    return found


def is_same_page(path: str, ours: bytes, theirs: bytes) -> bool:
    """Compare two pages of a file; a checksum may differ only where hint bits do."""
    if ours == theirs:
        return True
    if not path.startswith(RELATION_FOLDERS) or masked(ours) != masked(theirs):
        return False
    return without_checksum(ours) != without_checksum(theirs)


def masked(page: bytes) -> bytes:
    """Return the page without checksum and, if it is of a heap, without hint bits."""
    found = bytearray(without_checksum(page))
    for at in infomasks(page):
        (infomask,) = struct.unpack_from("<H", page, at)
        is_frozen = infomask & XMIN_HINTS == XMIN_HINTS
        hints = XMAX_HINTS if is_frozen else XMIN_HINTS | XMAX_HINTS
        struct.pack_into("<H", found, at, infomask & ~hints)
    lower, upper = free_space(page)
    for at in range(lower + (_HINTS_BYTE - lower) % _TUPLE_ALIGNMENT, upper, _TUPLE_ALIGNMENT):
        found[at] &= _NO_HINTS
    return bytes(found)


def without_checksum(page: bytes) -> bytes:
    """Return the page with a checksum of 0."""
    return page[: _CHECKSUM.start] + bytes(2) + page[_CHECKSUM.stop :]


def free_space(page: bytes) -> tuple[int, int]:
    """Return where the free space of a heap page begins and ends; (0, 0) for other pages.

    Pages of indexes have something at their end, and heap pages have not.
    """
    lower, upper, special = _BOUNDS.unpack_from(page, 12)
    is_heap = special == PAGE_BYTES and HEADER_BYTES <= lower <= upper <= PAGE_BYTES
    return (lower, upper) if is_heap else (0, 0)


def infomasks(page: bytes) -> Iterator[int]:
    """Yield where the tuples of a heap page have their bits; nothing for other pages."""
    lower, _ = free_space(page)
    for item in range(HEADER_BYTES, lower - _ITEM.size + 1, _ITEM.size):
        (pointer,) = _ITEM.unpack_from(page, item)
        offset, state, size_bytes = pointer & 0x7FFF, pointer >> 15 & 3, pointer >> 17
        if (
            state == _NORMAL
            and size_bytes >= _TUPLE_BYTES_MIN
            and offset <= PAGE_BYTES - size_bytes
        ):
            yield offset + _INFOMASK
