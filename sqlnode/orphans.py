"""Servers that outlived whoever started them: found by their directory, and ended.

They are nobody's children any more, and would go on reading WAL, and serving what may not be true
any more. A pid may be another process's by now, so only a postgres that was started on that very
directory counts.

A *subreaper* gets the orphans of its own children: the backends of a postmaster that was killed.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .postmaster import LOCK_FILE, parse_postmaster_file
from .processes import children_of, ends_within_blocking, kill_tree

KILL_TIMEOUT_S: Final = 10.0  # of a server that nobody owns; takes milliseconds
PR_SET_CHILD_SUBREAPER: Final = 36  # from linux/prctl.h


def end_orphans(data_dirs: Iterable[Path]) -> int:
    """End the servers that run over these directories, and are not ours; how many."""
    return sum(_end_orphan(data_dir) for data_dir in data_dirs)


def _end_orphan(data_dir: Path) -> bool:
    try:
        lock = parse_postmaster_file((data_dir / LOCK_FILE).read_bytes())
        pidfd = -1 if lock is None else os.pidfd_open(lock.pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    if lock is None:
        return False
    try:
        if not _is_postmaster_of(lock.pid, data_dir):
            return False
        _end_tree(lock.pid, pidfd, lock.shared_memory_id)
        return True
    finally:
        os.close(pidfd)


def _is_postmaster_of(pid: int, data_dir: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return [b"-D", os.fsencode(data_dir)] == arguments[1:3]


def _end_tree(pid: int, pidfd: int, shared_memory_id: int | None) -> None:
    end_s = time.monotonic() + KILL_TIMEOUT_S
    with kill_tree(pid, pidfd, shared_memory_id=shared_memory_id) as descendants:
        ends_within_blocking(pidfd, KILL_TIMEOUT_S)
        while descendants.alive() and time.monotonic() < end_s:
            ends_within_blocking(descendants.pidfds[-1], KILL_TIMEOUT_S)


def remove_sockets(run_dir: Path) -> None:
    """Remove the socket, and the socket's lock, of a server that is gone: only whoever starts the
    servers of a directory, and has none now, may do that.

    PostgreSQL takes such a lock for held when any process has the number in it by now. After a
    power cut, and in a container that is started again, some other process does.
    """
    for path in run_dir.glob(".s.PGSQL.*"):
        path.unlink(missing_ok=True)


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends below us, for as long as we live."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children() -> int:
    """Kill and reap all children of this process; how many there were.

    For a subreaper that has reaped its own: what is left are orphans, and each may have children.
    """
    ended = 0
    while pids := children_of(os.getpid()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # a child that is not reaped keeps its number
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        ended += len(pids)
    return ended
