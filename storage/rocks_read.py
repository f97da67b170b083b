"""Reading versions of pages: one seek for a single page, one walk for many.

    seek to (block, seq)  ──►  the newest version at or before the cut lies there, or there is none
    next                  ──►  older versions of it, newer ones of the next block, then the wanted

What is newer or older than wanted is stepped over while it is little, and sought over when it is
not. Every value is checked; a version that is not there is damage (every block of a cut has one).
"""

from collections.abc import Iterator
from typing import Final

from rocksdict import RdictIter

from sqlnode.pagefault.block_map import Pages

from .page_store import DamagedError
from .rocks_database import RocksDatabase
from .rocks_errors import raise_store_error
from .rocks_keys import PREFIX_BYTES, page_key, seq_of_page_key
from .rocks_values import ZERO_PAGE, opened_page

# A step costs 1-2 us, a seek 10-20 us.
_STEPS_BEFORE_SEEK: Final = 6


def read_pages(
    database: RocksDatabase, branch: int, file_id: int, *, seq: int, first: int, blocks: int
) -> Pages:
    """Return consecutive pages as a cut has them. DamagedError: one of them cannot be given."""
    try:
        if blocks == 1:
            return _read_one(database, branch, file_id, seq, first)
        iterator = database.range_iterator()
        walk = walk_pages(iterator, branch, file_id, seq=seq, first=first, blocks=blocks)
        return b"".join([ZERO_PAGE if page is None else page for page in walk])
    except Exception as error:  # noqa: BLE001  # see `rocks_errors`, which costs 2 us
        what = f"reading {blocks} blocks from {first} on of file {file_id}"
        raise_store_error(what, error)


def _read_one(database: RocksDatabase, branch: int, file_id: int, seq: int, block: int) -> bytes:
    wanted = page_key(branch, file_id, block, seq)
    iterator = database.page_iterator()
    iterator.seek(wanted)
    key = iterator.key()
    if key is None or key[:PREFIX_BYTES] != wanted[:PREFIX_BYTES]:
        raise _missing(iterator, file_id, block, seq)
    page = opened_page(key, iterator.value())
    return ZERO_PAGE if page is None else bytes(page)


def walk_pages(
    iterator: RdictIter, branch: int, file_id: int, *, seq: int, first: int, blocks: int
) -> Iterator[memoryview | None]:
    """Yield consecutive pages as a cut has them; None for zeros. DamagedError ends it."""
    wanted = page_key(branch, file_id, first, seq)
    iterator.seek(wanted)
    for block in range(first, first + blocks):
        wanted = page_key(branch, file_id, block, seq)
        steps = 0
        key = iterator.key()
        while key is not None and key < wanted:
            if steps < _STEPS_BEFORE_SEEK:
                iterator.next()
            else:
                iterator.seek(wanted)
            steps += 1
            key = iterator.key()
        if key is None or not key.startswith(wanted[:PREFIX_BYTES]):
            raise _missing(iterator, file_id, block, seq)
        yield opened_page(key, iterator.value())
        iterator.next()


def versions_of_page(
    iterator: RdictIter, branch: int, file_id: int, block: int, *, after: int, upto: int
) -> list[bytes]:
    """Return the keys of a page's versions in (after, upto], newest first."""
    wanted = page_key(branch, file_id, block, upto)
    iterator.seek(wanted)
    found: list[bytes] = []
    key = iterator.key()
    while key is not None and key[:PREFIX_BYTES] == wanted[:PREFIX_BYTES]:
        if seq_of_page_key(key) <= after:
            return found
        found.append(key)
        iterator.next()
        key = iterator.key()
    if key is None:
        iterator.status()
    return found


def _missing(iterator: RdictIter, file_id: int, block: int, seq: int) -> DamagedError:
    iterator.status()  # raises RocksDB's own reason, if it has one
    return DamagedError(
        f"block {block} of file {file_id} has no version at or before cut {seq}; "
        "get it from another node, and rebuild the store"
    )
