"""Processes by pidfd: wait for the end of one, and end a postmaster with everything below it.

A pidfd names one process for ever; a pid may name another one tomorrow. It becomes readable when
the process ends, which both select.poll and an event loop can wait for.

`kill_tree` leaves what a power cut leaves, except for shared memory: nobody restarts over the same
data directory to clean it up, so it is removed here.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import resource
import select
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

IPC_RMID = 0  # from linux/ipc.h
SHARED_MEMORY_DIR = Path("/dev/shm")  # noqa: S108  # where shm_open puts its names
DSM_CONTROL_MAGIC = 0x9A503D32.to_bytes(4, "little")  # PG_DYNSHMEM_CONTROL_MAGIC of dsm.c
CONTROL_SEGMENT_BYTES_MAX = 1 << 24  # 40 bytes an entry, five entries a connection
DESCENDANTS_MAX = (
    100_000  # beyond pid_max of most systems; a cycle in what /proc says cannot hang us
)

_STAT = re.compile(r"\d+ \(.*\) \S (?P<parent>\d+) ", re.DOTALL)
_SEGMENT = re.compile(r" /dev/shm/(PostgreSQL\.\d+)$", re.MULTILINE)


async def ends_within(pidfd: int, timeout_s: float) -> None:
    """Wait until the process ends or time is over; without a process (-1) for the time alone."""
    if pidfd < 0:
        await asyncio.sleep(timeout_s)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    # A duplicate, because an event loop keeps one reader a descriptor and several tasks may wait.
    watched = os.dup(pidfd)
    loop.add_reader(watched, ended.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


def ends_within_blocking(pidfd: int, timeout_s: float) -> bool:
    """As `ends_within`, without asyncio; return whether the process has ended."""
    poll = select.poll()
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


@dataclass(slots=True)
class KilledTree:
    """Processes that were killed and may still be dying. A context manager: it owns descriptors."""

    pidfds: list[int]

    def alive(self) -> bool:
        """Whether any of them still exists."""
        while self.pidfds and ends_within_blocking(self.pidfds[-1], 0):
            os.close(self.pidfds.pop())
        return bool(self.pidfds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self.pidfds:
            os.close(self.pidfds.pop())


def kill_tree(pid: int, pidfd: int, *, shared_memory_id: int | None) -> KilledTree:
    """Kill a postmaster that we have not reaped and its descendants; return the latter.

    The postmaster is stopped first: so it neither forks anew nor reaps, and as long as a child is
    not reaped its pid is its own.
    """
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    tree = KilledTree([])
    pids = _descendants(pid)
    segments = set(_mapped_segments([pid, *pids]))
    for descendant in pids:
        with contextlib.suppress(ProcessLookupError):
            tree.pidfds.append(os.pidfd_open(descendant))
    for each in (pidfd, *tree.pidfds):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(each, signal.SIGKILL)
    _remove_shared_memory(segments | _listed_segments(segments), shared_memory_id)
    return tree


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent a process is."""
    return _children()[pid]


def _children() -> defaultdict[int, list[int]]:
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                match = _STAT.match((entry / "stat").read_text(errors="replace"))
                if match is not None:
                    children[int(match["parent"])].append(int(entry.name))
    return children


def _descendants(pid: int) -> list[int]:
    children = _children()
    found: list[int] = []
    ahead = list(children[pid])
    while ahead and len(found) < DESCENDANTS_MAX:
        found.append(ahead.pop())
        ahead += children[found[-1]]
    return found


def _mapped_segments(pids: list[int]) -> Iterator[str]:
    for pid in pids:
        with contextlib.suppress(OSError):
            yield from _SEGMENT.findall(Path(f"/proc/{pid}/maps").read_text(errors="replace"))


def _listed_segments(mapped: set[str]) -> set[str]:
    """Return the segments that nobody has mapped just now; the control segment lists their numbers.

    Its layout differs between majors, but each number is an aligned word in it, and no other word
    is the 32-bit random number of a segment that exists.
    """
    existing = {path.name: path for path in SHARED_MEMORY_DIR.glob("PostgreSQL.*")}
    found: set[str] = set()
    for name in mapped & existing.keys():
        with contextlib.suppress(OSError), existing[name].open("rb") as segment:
            if segment.read(4) == DSM_CONTROL_MAGIC:
                content = segment.read(CONTROL_SEGMENT_BYTES_MAX)
                words = memoryview(content[: len(content) // 4 * 4]).cast("I")
                found |= existing.keys() & {f"PostgreSQL.{word}" for word in set(words)}
    return found


def shared_segments(pid: int) -> set[str]:
    """Return the shared memory of a postmaster, to be removed when it was killed by others.

    One of them lists those of its backends, those of today and those of later.
    """
    return set(_mapped_segments([pid]))


def remove_shared_memory(segments: set[str], shared_memory_id: int | None) -> None:
    """Remove what a postmaster has left that was reaped, and all of its backends with it."""
    _remove_shared_memory(segments | _listed_segments(segments), shared_memory_id)


def _remove_shared_memory(segments: set[str], shared_memory_id: int | None) -> None:
    for name in segments:
        (SHARED_MEMORY_DIR / name).unlink(missing_ok=True)
    if shared_memory_id is not None:
        # It fails when the segment is gone already, which is what we want.
        ctypes.CDLL(None).shmctl(shared_memory_id, IPC_RMID, None)


def maps_library(pid: int, library: Path) -> bool:
    """Whether a process has a library in its address space."""
    wanted = os.path.realpath(library)
    lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    return any(line.endswith(f" {wanted}") for line in lines)


def allow_open_files() -> None:
    """Raise the limit of open files to the hard one: tables, files, a connection a process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
