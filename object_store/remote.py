"""Objects in S3, Google Cloud Storage or Azure, through obstore's synchronous calls.

Only the synchronous calls, in threads of the caller: a process that ends right after an
asynchronous one is aborted by the library's own threads, two times in three.

Two clients of the same bucket are used. Reads and deletes are repeated by the client itself, as
often as its settings say. Creations are not: if the answer to the first attempt is lost, the second
finds the name taken, and the caller would be told that somebody else was faster. So that call ends
with `StoreBusyError`, and the caller, who knows what to make of it, puts again.
"""

import contextlib
import re
import secrets
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    JoinError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store
from obstore.store import MemoryStore as ObstoreMemory

from fabric.frames import Payload

from .interface import (
    LIST_COUNT_MAX,
    OBJECT_BYTES_MAX,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    ObjectRangeError,
    ObjectStore,
    StoreBusyError,
    StoreError,
    check_listing,
    check_range,
    checked_data,
    checked_name,
)

if TYPE_CHECKING:
    from obstore import ObjectMeta  # not importable at run time

Client: TypeAlias = S3Store | GCSStore | AzureStore | ObstoreMemory

PROBE_FOLDER: Final = "create-only-probe"
_REASON_CHARACTERS_MAX: Final = 300
_QUERY: Final = re.compile(r"\?\S*")  # of an address: Azure's tokens are in it


class RemoteStore:
    """Implements `ObjectStore`. `writer` must not repeat a request by itself; `reader` may."""

    def __init__(self, *, reader: Client, writer: Client) -> None:
        self._reader = reader
        self._writer = writer

    def put_new(self, name: str, data: Payload) -> None:
        """One request; an object above the library's part size is not split."""
        content = b"".join(checked_data(data))
        checked_name(name)
        with _explained(f"store {name}"):
            try:
                obstore.put(self._writer, name, content, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                raise ObjectExistsError(f"{name} exists already") from None
            except FileNotFoundError as error:
                raise StoreError(f"cannot store {name}: there is no such bucket") from error

    def get(self, name: str) -> bytes:
        """One request for an object of any size."""
        checked_name(name)
        with _explained(f"read {name}"):
            result = obstore.get(self._reader, name)
            if result.meta["size"] > OBJECT_BYTES_MAX:
                size_bytes = result.meta["size"]
                raise StoreError(f"{name} has {size_bytes} bytes: it is not an object of ours")
            return bytes(result.bytes())

    def get_range(self, name: str, start: int, size_bytes: int) -> bytes:
        """One request; a second one, for the size, when the first fails."""
        check_range(start, size_bytes)
        checked_name(name)
        with _explained(f"read {name}"):
            try:
                content = obstore.get_range(self._reader, name, start=start, length=size_bytes)
            except GenericError:
                # What lies wholly behind the end has no error of its own.
                self._refuse_short(name, start + size_bytes)
                raise
            if len(content) != size_bytes:
                self._refuse_short(name, start + size_bytes)
                raise StoreBusyError(f"cannot read {name}: the answer was cut short")
            return bytes(content)

    def list(
        self, prefix: str, *, after: str = "", count_max: int = LIST_COUNT_MAX
    ) -> list[ObjectInfo]:
        """As many pages as are needed."""
        check_listing(prefix, count_max)
        listing: list[ObjectInfo] = []
        with _explained(f"list {prefix or 'all objects'}"):
            folder, offset = prefix.removesuffix("/") or None, after or None
            for page in obstore.list(self._reader, folder, offset=offset, chunk_size=count_max):
                listing += _infos(page, prefix, after)
                if len(listing) >= count_max:
                    break
        if any(one.name >= other.name for one, other in pairwise(listing)):
            raise StoreError(f"the store lists {prefix} in no order: use an ordinary bucket")
        return listing[:count_max]

    def delete(self, name: str) -> None:
        """One request."""
        checked_name(name)
        with _explained(f"delete {name}"), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._reader, name)

    def _refuse_short(self, name: str, end: int) -> None:
        size_bytes = obstore.head(self._reader, name)["size"]
        if end > size_bytes:
            raise ObjectRangeError(f"{name} has only {size_bytes} bytes")


def probe_create_only(store: ObjectStore) -> None:
    """Raise StoreError if the store lets an object be overwritten, as some imitations of S3 do.

    Everything that is written once relies on it. An account that may not delete leaves a small
    object behind at each probe.
    """
    name = f"{PROBE_FOLDER}/{secrets.token_hex(16)}"
    store.put_new(name, b"first")
    try:
        store.put_new(name, b"second")
    except ObjectExistsError:
        return
    else:
        raise StoreError(
            "the object store overwrites objects silently: it ignores If-None-Match, "
            "so it cannot be used; take one that honours conditional writes"
        )
    finally:
        with contextlib.suppress(StoreError):
            store.delete(name)


def _infos(page: "Sequence[ObjectMeta]", prefix: str, after: str) -> Iterator[ObjectInfo]:
    for meta in page:
        # Others' objects in our bucket may have names that ours cannot have.
        name = meta["path"]
        if name.startswith(prefix) and name > after:
            with contextlib.suppress(ValueError):
                yield ObjectInfo(checked_name(name), meta["size"])


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what the library says into what the caller must do."""
    try:
        yield
    except FileNotFoundError:
        raise ObjectMissingError(f"cannot {what}: there is no such object") from None
    except (BaseError, OSError) as error:
        _raise_explained(what, error)


def _raise_explained(what: str, error: Exception) -> NoReturn:
    reason = _reason(error)
    # `from None`: the library's own text may hold addresses with tokens in them.
    match error:
        case PermissionDeniedError() | UnauthenticatedError():
            raise StoreError(f"cannot {what}: check the credentials: {reason}") from None
        case NotSupportedError():
            raise StoreError(f"cannot {what}: the store does not offer it: {reason}") from None
        case GenericError() | JoinError() | OSError():
            raise StoreBusyError(f"cannot {what} now: {reason}") from None
        case _:
            raise StoreError(f"cannot {what}: {reason}") from None


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return _QUERY.sub("", lines[0])[:_REASON_CHARACTERS_MAX]
