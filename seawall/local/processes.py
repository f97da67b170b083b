"""Which processes run: by the lock that each holds, the id in it, and a pidfd.

A process of ours holds the lock of a file for as long as it lives, however it ends, and has written
its id and the time of its start into it. A pid alone may name somebody else tomorrow; with the lock
held, the time compared and a pidfd opened in between, it names exactly that process.
"""

import contextlib
import fcntl
import json
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

FILE_BYTES_MAX: Final = 4096
FLOCK: Final = "hhqqi4x"  # struct flock of 64-bit Linux; the lock belongs to the open file
STAT_AFTER_NAME: Final = b") "
STARTED_FIELD: Final = 19  # "starttime", counted from the field behind the name


class ProcessId(msgspec.Struct, frozen=True):
    """One process of this machine, since it was booted."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return the id of a process that exists; OSError if it does not."""
        return cls(pid, _started_ticks(pid))


def _started_ticks(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(STAT_AFTER_NAME) + 2 :].split()[STARTED_FIELD])


@dataclass(frozen=True, slots=True)
class Running:
    """A process that holds a lock. The pidfd is the caller's to close."""

    process: ProcessId
    pidfd: int

    def send(self, number: signal.Signals) -> None:
        """Signal it; harmless if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


def find_running(lock: Path) -> Running | None:
    """Return who holds a lock; None: nobody, or somebody who has not said yet who it is."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if not is_locked(descriptor):
            return None
        process = _decode(os.pread(descriptor, FILE_BYTES_MAX, 0))
        if process is None:
            return None
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return None
        if _is_same(process) and is_locked(descriptor):
            return Running(process, pidfd)
        os.close(pidfd)
        return None
    finally:
        os.close(descriptor)


def take_lock(path: Path, *, before: Callable[[], object] | None = None) -> int | None:
    """Lock a file and write our process id into it; the descriptor, or None: another one has it.

    Nobody that we start inherits it; a fork does. `before` is done between the two.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return None
    if before is not None:
        before()
    write_process(descriptor)
    return descriptor


def write_process(descriptor: int) -> None:
    """Say in a locked file that it is this process that runs."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, msgspec.json.encode(ProcessId.of(os.getpid())) + b"\n", 0)


def is_locked(descriptor: int) -> bool:
    """Whether somebody else holds the lock of a file. Only looks: it is in nobody's way."""
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_RDLCK))
    (kind, *_) = struct.unpack(FLOCK, found)
    return int(kind) != fcntl.F_UNLCK


def _flock(kind: int) -> bytes:
    return struct.pack(FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def running_pid(lock: Path) -> int | None:
    """Return the pid of who holds a lock."""
    found = find_running(lock)
    if found is None:
        return None
    os.close(found.pidfd)
    return found.process.pid


def _decode(content: bytes) -> ProcessId | None:
    try:
        return msgspec.json.decode(content, type=ProcessId)
    except msgspec.DecodeError:
        return None  # it is being written


def _is_same(process: ProcessId) -> bool:
    try:
        return _started_ticks(process.pid) == process.started_ticks
    except (OSError, ValueError):
        return False


def has_said(said: Path, event: str) -> bool:
    """Whether a node has printed the line in which it tells that it is ready."""
    try:
        lines = said.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return False
    return any(_event_of(line) == event for line in lines)


def _event_of(line: bytes) -> object:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found.get("event") if isinstance(found, dict) else None
