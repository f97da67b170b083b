"""Records that Raft could have made, and a disk that crashes; for the tests of the log on disk.

`CrashDisk` takes the place of the module `os` in `disk_files`: it does what it is told, remembers
what a power failure could take back (pages since their file's last sync, names since their
directory's), ends the "process" at a chosen system call, and makes a copy of the directory as a
machine might find it afterwards.
"""

import hashlib
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from log_service import disk_files
from log_service.disk_settings import SEGMENT_BYTES_MIN, DiskSettings
from log_service.group_log import GroupLog
from log_service.log_state import LogStart
from log_service.record import Kind, Record, make_record
from log_service.segment_index import WalPosition, end_of_wal

MEMBER = 0x1234_5678_9ABC
SMALL = DiskSettings(segment_bytes=SEGMENT_BYTES_MIN)
PAGE_BYTES = 4096
EMPTY = LogStart(index=0, term=0, state=b"nothing yet")


def body_of(index: int, term: int, size_bytes: int) -> bytes:
    """Bytes that say which entry they are of, and compress badly."""
    block = hashlib.sha256(f"{index}/{term}".encode()).digest()
    return (block * (size_bytes // len(block) + 1))[:size_bytes]


def next_record(
    before: tuple[int, int],
    wal_end: WalPosition,
    *,
    term: int,
    size_bytes: int = 100,
    kind: Kind = Kind.WAL,
    new_timeline: bool = False,
) -> Record:
    """The entry that a leader of `term` makes behind the entry `before`, (index, term)."""
    tli, lsn = wal_end if wal_end[0] else (1, 0x1000000)
    if new_timeline:
        tli, lsn = tli + 1, max(0, lsn - 50)
    index = before[0] + 1
    return make_record(
        index=index,
        term=term,
        prev_term=before[1],
        kind=kind,
        tli=tli if kind == Kind.WAL else 0,
        lsn=lsn if kind == Kind.WAL else 0,
        body=body_of(index, term, size_bytes),
    )


def wal_end_of(records: Sequence[Record]) -> WalPosition:
    """Where the WAL of these entries ends."""
    return next((end_of_wal(r) for r in reversed(records) if r.kind == Kind.WAL), (0, 0))


def run_of(
    count: int, *, after: Sequence[Record] = (), term: int = 1, size_bytes: int = 100
) -> list[Record]:
    """So many WAL entries of one term behind others."""
    records = list(after)
    for _ in range(count):
        before = (records[-1].index, records[-1].term) if records else (0, 0)
        records.append(next_record(before, wal_end_of(records), term=term, size_bytes=size_bytes))
    return records[len(after) :]


def make_log(
    directory: Path, settings: DiskSettings = SMALL, *, snapshot: LogStart = EMPTY
) -> GroupLog:
    """An empty log."""
    return GroupLog.create(directory, settings, member=MEMBER, snapshot=snapshot)


def write(log: GroupLog, records: Sequence[Record], *, at_once: int = 1) -> None:
    """Append in drains of so many records, each of them synced."""
    for start in range(0, len(records), at_once):
        log.append(records[start : start + at_once])
        log.sync()


def everything(log: GroupLog) -> list[Record]:
    """All entries of a log, read in several pieces."""
    records: list[Record] = []
    index = log.first_index
    while index <= log.last_index:
        records += log.read(index, log.last_index, 300_000)
        index = records[-1].index + 1
    return records


def segment_paths(directory: Path) -> list[Path]:
    """The files of the segments, in order."""
    return sorted(directory.glob("*.seg"))


class Crash(BaseException):
    """The power is gone; nothing after this happens."""


@dataclass
class CrashDisk:
    """The module `os` with a memory of what is not durable."""

    directory: Path
    inodes: Path  # holds a second name of every file, so that removed ones can come back
    calls_left: int | None = None  # system calls that change something, until the crash
    names: dict[str, int] = field(default_factory=dict)
    _pending: list[tuple[Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)
    _before: dict[tuple[int, int], bytes] = field(default_factory=dict)  # (inode, page)

    def __post_init__(self) -> None:
        self.inodes.mkdir(parents=True)
        for path in self.directory.iterdir() if self.directory.exists() else ():
            self._link(path.name)
        self.settle()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """Open a file, and remember one that is created."""
        fd = os.open(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_CREAT:
            self._link(os.fspath(path))
        return fd

    def pwritev(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """Write, and remember what the pages were when they were last synced."""
        inode = os.fstat(fd).st_ino
        end = offset + sum(map(len, buffers))
        for page in range(offset // PAGE_BYTES, -(-end // PAGE_BYTES)):
            if (inode, page) not in self._before:
                with (self.inodes / str(inode)).open("rb") as file:
                    file.seek(page * PAGE_BYTES)
                    self._before[inode, page] = file.read(PAGE_BYTES).ljust(PAGE_BYTES, b"\0")
        written = os.pwritev(fd, buffers, offset)
        self._count()
        return written

    def fdatasync(self, fd: int) -> None:
        """Forget what the pages of this file were."""
        self._count()
        inode = os.fstat(fd).st_ino
        for key in [key for key in self._before if key[0] == inode]:
            del self._before[key]

    def fsync(self, fd: int) -> None:
        """Make the names durable."""
        self._count()
        assert stat.S_ISDIR(os.fstat(fd).st_mode), "files are synced by fdatasync"
        self.settle()

    def rename(self, old: str, new: str, **dirs: int) -> None:
        """Rename; the old name may come back."""
        os.rename(old, new, **dirs)
        self._pending.append((_renamed, (old, new)))
        self._count()

    def unlink(self, name: str, **dirs: int) -> None:
        """Remove; the file may come back."""
        os.unlink(name, **dirs)
        self._pending.append((dict.pop, (name,)))
        self._count()

    def settle(self) -> None:
        """Make the names durable."""
        for change, arguments in self._pending:
            change(self.names, *arguments)
        self._pending.clear()

    def leave(self, rng: random.Random, target: Path) -> None:
        """Make the directory as the crash may have left it."""
        names = dict(self.names)
        for change, arguments in self._pending[: rng.randint(0, len(self._pending))]:
            change(names, *arguments)
        lost = self._lost_pages(rng)
        target.mkdir()
        for name, inode in names.items():
            data = bytearray((self.inodes / str(inode)).read_bytes())
            for page in (page for of, page in lost if of == inode):
                start = page * PAGE_BYTES
                data[start : start + PAGE_BYTES] = self._before[inode, page]
            (target / name).write_bytes(data)

    def _lost_pages(self, rng: random.Random) -> list[tuple[int, int]]:
        pages = list(self._before)
        match rng.randrange(4):
            case 0:
                return []
            case 1:
                return pages
            case 2:  # all from some page on, in the order in which they were first written
                return pages[rng.randint(0, len(pages)) :]
            case _:
                return [page for page in pages if rng.random() < 0.5]

    def _link(self, name: str) -> None:
        inode = (self.directory / name).stat().st_ino
        if not (self.inodes / str(inode)).exists():
            os.link(self.directory / name, self.inodes / str(inode))
        self._pending.append((dict.__setitem__, (name, inode)))

    def _count(self) -> None:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Crash


def _renamed(names: dict[str, int], old: str, new: str) -> None:
    names[new] = names.pop(old)


class Machine:
    """A directory whose machine can lose its power; each life has a directory of its own."""

    def __init__(self, base: Path, rng: random.Random) -> None:
        self._base = base
        self._rng = rng
        self._life = 0
        self.directory = base / "0"
        self.disk = CrashDisk(self.directory, base / "inodes-0")

    @contextmanager
    def running(self, calls_left: int | None = None) -> Iterator[None]:
        """Let the log's system calls go to this machine."""
        self.disk.calls_left = calls_left
        with mock.patch.object(disk_files, "os", self.disk):
            yield
        self.disk.calls_left = None

    def crash(self) -> None:
        """Lose the power; `directory` is what is left."""
        self._life += 1
        target = self._base / str(self._life)
        self.disk.leave(self._rng, target)
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.disk.inodes)
        self.directory = target
        self.disk = CrashDisk(target, self._base / f"inodes-{self._life}")
