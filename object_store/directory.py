"""Objects as files below one directory, durable and created atomically.

A put writes a file in `<root>/.incoming`, syncs it, gives it its name with link(2), which fails if
the name is taken, and syncs every directory from there up to the root. So a name leads to nothing
or to a whole object, at any moment and after any crash. Directories that this process has not yet
used are synced too, up to the root: another process may have died before it did so.

What a dead process left in `.incoming` is removed when the store is opened, once it is old enough
to be nobody's work. Other files below the root whose names are no object names are left alone.

The file system must have hard links. Several processes may use one directory at the same time.
"""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Final, NoReturn

from fabric.frames import Payload

from .interface import (
    LIST_COUNT_MAX,
    OBJECT_BYTES_MAX,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    ObjectRangeError,
    StoreBusyError,
    StoreError,
    check_listing,
    check_range,
    checked_data,
    checked_name,
)

INCOMING: Final = ".incoming"
LEFTOVER_AGE_SECONDS: Final = 3600  # no put takes an hour
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700

_PIECES_MAX: Final = 512  # of one writev; Linux takes 1024
_NOTHING_THERE: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class DirectoryStore:
    """Implements `ObjectStore`."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))
        self._incoming = self._root / INCOMING
        self._durable_folders: set[Path] = set()
        with _explained(f"open {self._root}"):
            _make_folders(self._incoming)
            # Whoever made the root may have died before it was durable; if we may not look into
            # the directory above, it was made by somebody else, and long ago.
            with contextlib.suppress(PermissionError):
                _sync_directory(self._root.parent)
            self._sync_up_to_root(self._incoming)
            _remove_leftovers(self._incoming, older_than=time.time() - LEFTOVER_AGE_SECONDS)

    def put_new(self, name: str, data: Payload) -> None:
        """Write, sync, link, sync the directories."""
        path = self._path(name)
        views = checked_data(data)
        with _explained(f"store {name}"):
            temporary = self._incoming / secrets.token_hex(16)
            try:
                _write_durably(temporary, views)
                self._give_name(temporary, path)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()

    def get(self, name: str) -> bytes:
        """Read the whole file."""
        path = self._path(name)
        with _explained(f"read {name}"), _opened(path, name) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > OBJECT_BYTES_MAX:
                raise StoreError(f"{name} has {size_bytes} bytes: it is not an object of ours")
            return _read(file.fileno(), name, 0, size_bytes)

    def get_range(self, name: str, start: int, size_bytes: int) -> bytes:
        """Read a part of the file."""
        check_range(start, size_bytes)
        path = self._path(name)
        with _explained(f"read {name}"), _opened(path, name) as file:
            # Ask before allocating what the caller wants.
            available_bytes = os.fstat(file.fileno()).st_size
            if start + size_bytes > available_bytes:
                raise ObjectRangeError(f"{name} has only {available_bytes} bytes")
            return _read(file.fileno(), name, start, size_bytes)

    def list(
        self, prefix: str, *, after: str = "", count_max: int = LIST_COUNT_MAX
    ) -> list[ObjectInfo]:
        """Walk the directories that may hold names after `after`, in the order of names."""
        check_listing(prefix, count_max)
        listing: list[ObjectInfo] = []
        with _explained(f"list {prefix or 'all objects'}"):
            for info in self._walk(self._root / prefix, prefix, after):
                listing.append(info)
                if len(listing) == count_max:
                    break
        return listing

    def delete(self, name: str) -> None:
        """Unlink the file; its directory stays, since another put may be about to use it."""
        path = self._path(name)
        with _explained(f"delete {name}"):
            try:
                path.unlink()
            except _NOTHING_THERE:
                return
            _sync_directory(path.parent)

    def _path(self, name: str) -> Path:
        return self._root / checked_name(name)

    def _give_name(self, temporary: Path, path: Path) -> None:
        _make_folders(path.parent)
        try:
            os.link(temporary, path)
        except FileExistsError as error:
            if path.is_dir():
                raise StoreError(f"{path} is not an object: move it away") from error
            # Its writer may have died between its link and its sync: promise what we report.
            self._sync_up_to_root(path.parent)
            raise ObjectExistsError(f"{path.relative_to(self._root)} exists already") from None
        self._sync_up_to_root(path.parent)

    def _sync_up_to_root(self, folder: Path) -> None:
        """Make what is in `folder` durable, and at its first use all that leads to it."""
        _sync_directory(folder)
        if folder in self._durable_folders:
            return
        above = folder
        while above != self._root:
            above = above.parent
            _sync_directory(above)
        self._durable_folders.add(folder)

    def _walk(self, folder: Path, prefix: str, after: str) -> Iterator[ObjectInfo]:
        try:
            entries = list(os.scandir(folder))
        except _NOTHING_THERE:
            return
        self._sync_up_to_root(folder)
        # A folder's objects are named with the slash behind it, and sort with it: a.b, a/b, a0.
        for name, entry in sorted((_name_of(entry, prefix), entry) for entry in entries):
            if not _is_object_name(name.removesuffix("/")):
                continue
            if name.endswith("/"):
                if name > after or after.startswith(name):
                    yield from self._walk(folder / entry.name, name, after)
            elif name > after and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    yield ObjectInfo(name, entry.stat(follow_symlinks=False).st_size)


def _name_of(entry: "os.DirEntry[str]", prefix: str) -> str:
    return prefix + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")


def _is_object_name(name: str) -> bool:
    try:
        checked_name(name)
    except ValueError:
        return False
    return True


def _opened(path: Path, name: str) -> FileIO:
    try:
        return FileIO(path)
    except _NOTHING_THERE:
        raise ObjectMissingError(f"there is no object {name}") from None


def _write_durably(path: Path, views: list[memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        views = views.copy()
        while views:
            written = os.writev(descriptor, views[:_PIECES_MAX])
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int, name: str, start: int, size_bytes: int) -> bytes:
    content = bytearray(size_bytes)
    view = memoryview(content)
    done = 0
    while done < size_bytes:
        count = os.preadv(descriptor, [view[done:]], start + done)
        if count == 0:
            raise StoreError(f"{name} shrank while it was read: something else writes here")
        done += count
    return bytes(content)


def _make_folders(folder: Path) -> None:
    # Not os.makedirs: it gives the directories on the way the default mode.
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster
            new.mkdir(DIRECTORY_MODE)
        _sync_directory(new.parent)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(incoming: Path, *, older_than: float) -> None:
    for leftover in list(incoming.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            if leftover.lstat().st_mtime < older_than:
                leftover.unlink()


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what the system says into what the caller must do."""
    try:
        yield
    except OSError as error:
        _raise_explained(what, error)


def _raise_explained(what: str, error: OSError) -> NoReturn:
    reason = os.strerror(error.errno or 0)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            raise StoreBusyError(f"cannot {what}: the disk is full; free some space") from error
        case errno.EMFILE | errno.ENFILE | errno.ENOMEM:
            raise StoreBusyError(f"cannot {what} now: {reason}") from error
        case errno.ENOTDIR | errno.EEXIST:
            raise StoreError(f"cannot {what}: a file is where a directory must be") from error
        case errno.EPERM | errno.ENOTSUP:
            raise StoreError(f"cannot {what}: {reason}; the store needs hard links") from error
        case _:
            raise StoreError(f"cannot {what}: {reason}") from error
