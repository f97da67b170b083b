"""The system calls of the log on disk: whole reads and writes, syncs, a directory that is locked.

Every OSError becomes an error that says what the caller must do (disk_errors.py). A failed sync is
final: the kernel may have marked the lost pages clean, so a second sync would lie.
"""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .disk_errors import DiskFullError, DiskReadError, FatalDiskError, LogError
from .segment import Buffer

IOV_MAX: Final = 1024  # of Linux
ZEROS: Final = bytes(1024 * 1024)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class OpenFile:
    """A descriptor that is closed when its last user, maybe a reader in a thread, lets go of it."""

    __slots__ = ("fd", "path")

    def __init__(self, path: Path, flags: int, *, dir_fd: int | None = None) -> None:
        name = path if dir_fd is None else path.name
        self.fd = -1
        self.path = path
        self.fd = os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    @property
    def size_bytes(self) -> int:
        """Return the length of the file."""
        return os.fstat(self.fd).st_size

    def read(self, size_bytes: int, offset: int) -> bytes:
        """Return the bytes there, fewer only at the end of the file."""
        try:
            data = os.pread(self.fd, size_bytes, offset)
            while len(data) < size_bytes:
                more = os.pread(self.fd, size_bytes - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise DiskReadError(
                f"{self.path} cannot be read at offset {offset}: {error.strerror}; "
                "check the disk, and replace this replica if that repeats"
            ) from error
        return data

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of it, with one system call unless there are very many pieces."""
        for start in range(0, len(buffers), IOV_MAX):
            part = buffers[start : start + IOV_MAX]
            size_bytes = sum(map(len, part))
            written = self._writev(part, offset)
            if written < size_bytes:  # the disk is about to be full; the next call says so
                rest = memoryview(b"".join(part))
                while written < size_bytes:
                    written += self._writev([rest[written:]], offset + written)
            offset += size_bytes

    def sync_data(self) -> None:
        """Make what was written durable."""
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            raise FatalDiskError(
                f"{self.path} cannot be synced: {error.strerror}; the process must end"
            ) from error

    def _writev(self, buffers: Sequence[Buffer], offset: int) -> int:
        try:
            return os.pwritev(self.fd, buffers, offset)
        except OSError as error:
            raise _write_error(self.path, error) from error


class LogDirectory:
    """A directory; a log's is locked against every other process for as long as it is open."""

    __slots__ = ("_file", "path")

    def __init__(self, path: Path, *, is_locked: bool = True) -> None:
        self.path = path
        try:
            self._file = OpenFile(path, os.O_RDONLY | os.O_DIRECTORY)
            if is_locked:
                fcntl.flock(self._file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LogError(f"{path} is in use by another process: stop that one first") from error
        except OSError as error:
            raise LogError(f"{path} cannot be opened: {error.strerror}") from error

    def open(self, name: str, flags: int) -> OpenFile:
        """Open a file of this directory; it is created where the flags ask for that."""
        try:
            return OpenFile(self.path / name, flags, dir_fd=self._file.fd)
        except FileNotFoundError as error:
            raise LogError(f"{self.path / name} is missing") from error
        except OSError as error:
            if flags & os.O_CREAT:
                raise _write_error(self.path / name, error) from error
            raise DiskReadError(f"{self.path / name}: {error.strerror}") from error

    def open_to_read(self, name: str) -> OpenFile:
        """Open a file of this directory that is only read."""
        return self.open(name, os.O_RDONLY)

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(os.listdir(self._file.fd))

    def rename(self, old: str, new: str) -> None:
        """Rename a file, over an existing one; durable after `sync`."""
        try:
            os.rename(old, new, src_dir_fd=self._file.fd, dst_dir_fd=self._file.fd)
        except OSError as error:
            raise _write_error(self.path / new, error) from error

    def unlink(self, name: str) -> None:
        """Remove a file; durable after `sync`."""
        try:
            os.unlink(name, dir_fd=self._file.fd)
        except OSError as error:
            raise _write_error(self.path / name, error) from error

    def sync(self) -> None:
        """Make new names and removed ones durable."""
        try:
            os.fsync(self._file.fd)
        except OSError as error:
            raise FatalDiskError(
                f"{self.path} cannot be synced: {error.strerror}; the process must end"
            ) from error

    def unlock(self) -> None:
        """Let another process, or this one, open the log."""
        fcntl.flock(self._file.fd, fcntl.LOCK_UN)

    def replace(self, name: str, data: Buffer) -> None:
        """Give a file new content, as a whole or not at all, durably."""
        new = f"{name}.new"
        try:
            file = self.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            file.write([data], 0)
        except DiskFullError:
            if new in self.names():
                self.unlink(new)
            raise
        file.sync_data()
        self.rename(new, name)
        self.sync()


def _write_error(path: Path, error: OSError) -> LogError:
    if error.errno in _FULL:
        return DiskFullError(f"{path}: {error.strerror}; free some space, then try again")
    return FatalDiskError(f"{path} cannot be written: {error.strerror}; the process must end")
