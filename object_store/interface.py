"""What an object store is: five methods, what they promise, and what can become of a call.

An object has a name and some bytes, is written once, whole or not at all, and never changes. So
nobody has to lock: of several writers of one name exactly one succeeds, and whoever lost looks at
what the winner wrote. Stores are used by threads, any number of them at once; every method waits.

    ObjectStoreError
    ├── ObjectExistsError    the name is taken: compare what is there, or choose another name
    ├── ObjectMissingError   there is no such object
    ├── ObjectRangeError     the object ends before the range does: ask for what it has
    ├── StoreBusyError       retry after a pause: the store is unreachable, overloaded or full
    └── StoreError           give up: a human must look (permissions, a missing bucket, damage)

After `StoreBusyError` an object may or may not have been stored. Put it again: `ObjectExistsError`
then means that the first attempt, or another writer, has stored it; its bytes tell which.

A name is one or more segments of `A-Z a-z 0-9 . _ -`, separated by single slashes; no segment
begins with a dot, and no name may be the folder of another. ValueError: fix the name or the range.
"""

import re
from dataclasses import dataclass
from typing import Final, Protocol

from fabric.frames import Payload

NAME_CHARACTERS_MAX: Final = 512  # half of what S3 takes, which leaves room for a prefix
SEGMENT_CHARACTERS_MAX: Final = 200  # file systems end at 255
OBJECT_BYTES_MAX: Final = 1 << 30  # the largest WAL segment; the clouds take 5 GiB in one request
LIST_COUNT_MAX: Final = 1000

_SEGMENT: Final = rf"(?!\.)[A-Za-z0-9._-]{{1,{SEGMENT_CHARACTERS_MAX}}}"
_NAME: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*", re.ASCII)


class ObjectStoreError(Exception):
    """A call that a store did not carry out."""


class ObjectExistsError(ObjectStoreError):
    """The name is taken: compare what is there, or choose another name."""


class ObjectMissingError(ObjectStoreError):
    """There is no object of that name."""


class ObjectRangeError(ObjectStoreError):
    """The object ends before the range does."""


class StoreBusyError(ObjectStoreError):
    """Retry after a pause; a put may nevertheless have been carried out."""


class StoreError(ObjectStoreError):
    """Repeating the call does not help: a human must look."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing."""

    name: str
    size_bytes: int


class ObjectStore(Protocol):
    """Named bytes, written once."""

    def put_new(self, name: str, data: Payload) -> None:
        """Store an object under a name that no object has; durable when it returns.

        ObjectExistsError: the name was taken before this call, and that object is durable.
        """

    def get(self, name: str) -> bytes:
        """Return all of an object. ObjectMissingError if there is none."""

    def get_range(self, name: str, start: int, size_bytes: int) -> bytes:
        """Return exactly `size_bytes`, at least one, from `start` on, or raise ObjectRangeError."""

    def list(
        self, prefix: str, *, after: str = "", count_max: int = LIST_COUNT_MAX
    ) -> list[ObjectInfo]:
        """Return the objects of a folder and all folders below it, ascending by name.

        `prefix` is empty or ends with a slash. Only names greater than `after`, which need not
        exist, are listed: pass the last name of a full answer to get the next part. An object
        that is listed is durable.
        """

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""


def checked_name(name: str) -> str:
    """Return a name that every store can hold; refuse any other."""
    if len(name) > NAME_CHARACTERS_MAX or _NAME.fullmatch(name) is None:
        raise ValueError(
            f"an object name is at most {NAME_CHARACTERS_MAX} characters: segments of letters, "
            f"digits, '.', '_' and '-', which do not begin with '.', not {name[:80]!r}"
        )
    return name


def checked_data(data: Payload) -> list[memoryview]:
    """Return the pieces of an object as bytes, none of them empty; refuse an object too large."""
    pieces = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    views = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
    if sum(map(len, views)) > OBJECT_BYTES_MAX:
        raise ValueError(f"an object has at most {OBJECT_BYTES_MAX} bytes: split it")
    return views


def check_range(start: int, size_bytes: int) -> None:
    """Refuse a range that no object can have."""
    if start < 0 or not 1 <= size_bytes <= OBJECT_BYTES_MAX:
        raise ValueError(f"there is no range of {size_bytes} bytes from {start}")


def check_listing(prefix: str, count_max: int) -> None:
    """Refuse a prefix that is no folder, and a count outside the limits."""
    if prefix:
        if not prefix.endswith("/"):
            raise ValueError(f"a prefix is empty or ends with '/', unlike {prefix[:80]!r}")
        checked_name(prefix[:-1])
    if not 1 <= count_max <= LIST_COUNT_MAX:
        raise ValueError(f"a listing has 1 to {LIST_COUNT_MAX} objects, not {count_max}")
