"""Who used the processors while something was measured: a target, all of ours, and others.

Targets may run apart from this process (a cluster has a supervisor of its own), so what is ours is
the tree below this process and the trees below the targets' roots. A process that is reaped leaves
its time to its parent; only what a killed tree had not handed over yet is taken for somebody
else's, which errs on the careful side.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.failover.footprint import pss_mb
from bench.pagefault.machine import busy_ticks
from bench.storage.processes import ProcessSeen, all_processes, descendants


@dataclass(frozen=True, slots=True)
class Moment:
    """Processor time so far, in seconds."""

    at_s: float
    machine_s: float
    ours_s: float
    target_s: float

    def others_cores_since(self, before: "Moment") -> float:
        """How many cores other programs have kept busy since; the kernel's threads count, too."""
        passed_s = self.at_s - before.at_s
        others_s = (self.machine_s - before.machine_s) - (self.ours_s - before.ours_s)
        return max(0.0, others_s / passed_s) if passed_s > 0 else 0.0

    def target_s_since(self, before: "Moment") -> float:
        """What the target has used since."""
        return max(0.0, self.target_s - before.target_s)


def moment(target_roots: Iterable[int] = (), fleet_roots: Iterable[int] = ()) -> Moment:
    """As of now. The roots are the caller's to keep: to ask a target for them can cost a second."""
    processes = all_processes()
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    ours = tree(processes, [os.getpid(), *fleet_roots])
    theirs = tree(processes, target_roots)
    return Moment(
        at_s=time.monotonic(),
        machine_s=busy_ticks(Path("/proc/stat").read_text()) * tick_s,
        ours_s=sum(one.ticks for one in ours) * tick_s,
        target_s=sum(one.ticks for one in theirs) * tick_s,
    )


def tree(processes: Sequence[ProcessSeen], roots: Iterable[int]) -> list[ProcessSeen]:
    """The roots and all below them, each once, even where a root is below another one."""
    wanted = set(roots)
    found = {one.pid: one for one in processes if one.pid in wanted}
    for root in wanted:
        found |= {one.pid: one for one in descendants(root, processes)}
    return list(found.values())


def memory_mb(roots: Iterable[int]) -> float:
    """Memory of all processes of a target; what several share is divided among them."""
    return sum(pss_mb(one.pid) for one in tree(all_processes(), roots))


def free_memory_mb() -> float:
    """What could be given to processes without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024 / 1e6
    return 0.0
