"""What RocksDB's failures mean to a caller of the page store.

rocksdict raises plain `Exception`s with RocksDB's status as text, so the text has to be read, here
and nowhere else. What is not of RocksDB passes as it is.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from rocksdict import DbClosedError

from .page_store import DamagedError, StoreBrokenError, StoreError, StoreFullError

# Both words of RocksDB ("IO error: No space left on device", "Space limit reached").
_FULL: Final = ("No space left", "Space limit", "NoSpace", "Disk quota exceeded")
_DAMAGED: Final = ("Corruption", "checksum mismatch", "Bad table magic", "corrupted")


@contextmanager
def rocks_errors(what: str) -> Iterator[None]:
    """Turn failures of RocksDB into those of the page store; `what` says what was being done."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # rocksdict raises nothing narrower
        raise_store_error(what, error)


def raise_store_error(what: str, error: Exception) -> NoReturn:
    """Raise what a failure means to the caller; `error` itself if it is not one of RocksDB."""
    translated = store_error(what, error)
    try:
        if translated is None:
            raise error
        raise translated from error
    finally:
        # Or the error, its traceback and this frame would hold each other, and with them the
        # iterators of the frames in between, which keep the database open and its files alive.
        del translated, error


def is_file_lost(error: Exception) -> bool:
    """Whether RocksDB misses one of its own files."""
    return isinstance(error, StoreError) and "No such file" in str(error)


def store_error(what: str, error: Exception) -> StoreError | None:
    """Return what the caller has to know; None if the failure is not one of RocksDB or the disk."""
    text = str(error)
    if isinstance(error, OSError):
        is_full, is_damage = error.errno in (errno.ENOSPC, errno.EDQUOT), False
    elif isinstance(error, DbClosedError):
        return StoreBrokenError(f"{what}: the page store is closed")
    elif type(error) is Exception:
        is_full = any(word in text for word in _FULL)
        is_damage = any(word in text for word in _DAMAGED)
    else:
        return None
    if is_full:
        return StoreFullError(f"{what}: {text}; make room, then try again")
    if is_damage:
        return DamagedError(f"{what}: {text}; get it from another node, and rebuild the store")
    return StoreBrokenError(f"{what}: {text}; check the disk, or rebuild the store")
