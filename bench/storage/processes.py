"""A storage node's processes: the node itself, its engine's postgres, and what each of them uses.

The kernel adds a child's processor time to its parent's when the parent reaps it, and to nobody's
when both are killed: look while the engine is up. Within the node, threads are told apart by their
names, because the event loop, the threads that read and publish, and RocksDB's own are different
stories.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.pagefault.cpu_time import parse_stat, tree_cpu_s

POSTGRES: Final = "postgres"
ROLES: Final = ("startup", "walreceiver", "checkpointer", "background writer")


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """One process of a tree."""

    pid: int
    parent: int
    ticks: int  # its own, and those of children that it has reaped
    name: str
    title: str  # the command line; postgres says there what each process is


@dataclass(frozen=True, slots=True)
class NodeCpu:
    """Seconds of processor time so far."""

    all_s: float
    node_s: float
    parts_s: Mapping[str, float]  # of the engine's processes, and of the node's threads

    def since(self, before: "NodeCpu") -> "NodeCpu":
        """What was used in between."""
        return NodeCpu(
            self.all_s - before.all_s,
            self.node_s - before.node_s,
            {k: v - before.parts_s.get(k, 0.0) for k, v in self.parts_s.items()},
        )


NOTHING: Final = NodeCpu(0.0, 0.0, {})


def descendants(root: int, processes: Iterable[ProcessSeen]) -> list[ProcessSeen]:
    """All below a process, without itself."""
    by_parent: dict[int, list[ProcessSeen]] = {}
    for process in processes:
        by_parent.setdefault(process.parent, []).append(process)
    found, ahead = [], by_parent.pop(root, [])
    while ahead:
        process = ahead.pop()
        found.append(process)
        ahead += by_parent.pop(process.pid, [])
    return found


def role_of(process: ProcessSeen) -> str:
    """What a process of an engine is for."""
    return next((role for role in ROLES if role in process.title), "other")


def engine_processes(node_pid: int) -> list[ProcessSeen]:
    """The postgres processes of a node."""
    return [one for one in descendants(node_pid, all_processes()) if one.name == POSTGRES]


def node_cpu(node_pid: int) -> NodeCpu:
    """What a node and its engine have used since the node started."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    parts: dict[str, float] = {}
    for process in engine_processes(node_pid):
        name = f"engine_{role_of(process).replace(' ', '_')}"
        parts[name] = parts.get(name, 0.0) + process.ticks * tick_s
    for thread, name, ticks in _thread_ticks(node_pid):
        part = f"node_{thread_kind(name, is_first=thread == node_pid)}"
        parts[part] = parts.get(part, 0.0) + ticks * tick_s
    return NodeCpu(tree_cpu_s(node_pid), process_cpu_s(node_pid), parts)


def thread_kind(name: str, *, is_first: bool) -> str:
    """What a thread of the node is for, by the name that the kernel has for it."""
    if name.startswith("rocksdb"):
        return "rocksdb"
    return "loop" if is_first else "threads"


def process_cpu_s(pid: int) -> float:
    """Processor time of one living process and of its threads, living and dead, in nanoseconds.

    What clock_getcpuclockid(3) gives, which Python does not have.
    """
    return time.clock_gettime(~pid << 3 | 2)


def all_processes() -> list[ProcessSeen]:
    """Everything that runs on the machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                times = parse_stat((entry / "stat").read_text(errors="replace"))
                name = (entry / "comm").read_text(errors="replace").strip()
                title = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                )
                if times is not None:
                    found.append(ProcessSeen(times.pid, times.parent, times.ticks, name, title))
    return found


def _thread_ticks(pid: int) -> list[tuple[int, str, int]]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            stat = (task / "stat").read_text(errors="replace")
            name, _, rest = stat.partition("(")[2].rpartition(")")
            user, system = rest.split()[11:13]
            found.append((int(task.name), name, int(user) + int(system)))
    return found
