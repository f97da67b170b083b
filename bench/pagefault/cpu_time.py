"""How much processor time a postmaster and all its backends, living and dead, have used.

The kernel adds a child's times to its parent's when the parent reaps it, so the sum over the living
tree of own and children's times misses nobody. In ticks of 10 ms: measure over seconds.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_STAT = re.compile(r"(?P<pid>\d+) \(.*\) \S (?P<rest>[-\d ]+)", re.DOTALL)
_PARENT, _TIMES = 0, slice(10, 14)  # of `rest`: ppid; utime stime cutime cstime (proc(5))


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """One line of /proc/PID/stat."""

    pid: int
    parent: int
    ticks: int


def parse_stat(text: str) -> ProcessTimes | None:
    """Read /proc/PID/stat; None if it is not one."""
    match = _STAT.match(text)
    if match is None:
        return None
    fields = match["rest"].split()
    return ProcessTimes(int(match["pid"]), int(fields[_PARENT]), sum(map(int, fields[_TIMES])))


def tree_ticks(root: int, processes: Iterable[ProcessTimes]) -> int:
    """The ticks of a process and everything below it."""
    by_parent: dict[int, list[ProcessTimes]] = {}
    ticks = 0
    for process in processes:
        by_parent.setdefault(process.parent, []).append(process)
        ticks += process.ticks if process.pid == root else 0
    ahead = by_parent.pop(root, [])
    while ahead:
        process = ahead.pop()
        ticks += process.ticks
        ahead += by_parent.pop(process.pid, [])
    return ticks


def tree_cpu_s(root: int) -> float:
    """Seconds of processor time of a process and everything below it, so far."""
    return tree_ticks(root, _all_processes()) / os.sysconf("SC_CLK_TCK")


def _all_processes() -> Iterator[ProcessTimes]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                process = parse_stat((entry / "stat").read_text(errors="replace"))
                if process is not None:
                    yield process
