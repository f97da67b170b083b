"""What a whole cluster costs: the time until it is ready, and processor and memory when idle."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from bench.faults.cluster_target import LocalCluster, Status
from bench.faults.nemesis import wait_whole
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace
from bench.storage.processes import all_processes, descendants, process_cpu_s

from .world import target_of

ROUNDS: Final = 5
ROUNDS_QUICK: Final = 2
IDLE_S: Final = 30.0
IDLE_QUICK_S: Final = 10.0
CALM_S: Final = 10.0  # until the last cut is made and engines are on their way to rest

_PSS = re.compile(r"^Pss:\s*(\d+) kB$", re.MULTILINE)


def measure_up(place: Workspace, *, quick: bool) -> Outcome:
    """First starts, and starts again, from the command to its return."""
    return asyncio.run(_up(place, rounds=ROUNDS_QUICK if quick else ROUNDS))


async def _up(place: Workspace, *, rounds: int) -> Outcome:
    first, again = [], []
    for _ in range(rounds):
        cluster = LocalCluster(place.new_directory("c") / "d")
        try:
            first.append(await _seconds(cluster, "--ha", "--pg-bin", str(place.binaries.bin_dir)))
            await cluster.command("down")
            again.append(await _seconds(cluster))
        finally:
            await cluster.command("destroy", "--yes")
    return Outcome(
        benchmark="up",
        settings={"rounds": rounds},
        measurements=[
            Measurement("up_first_s", "s", tuple(first)),
            Measurement("up_again_s", "s", tuple(again)),
        ],
    )


async def _seconds(cluster: LocalCluster, *options: str) -> float:
    start_s = time.monotonic()
    await cluster.up(*options)
    return time.monotonic() - start_s


def measure_idle(place: Workspace, *, quick: bool) -> Outcome:
    """A cluster that nobody uses."""
    return asyncio.run(_idle(place, seconds=IDLE_QUICK_S if quick else IDLE_S))


async def _idle(place: Workspace, *, seconds: float) -> Outcome:
    cluster = LocalCluster(place.new_directory("c") / "d")
    try:
        await cluster.up("--ha", "--pg-bin", str(place.binaries.bin_dir))
        await wait_whole(await target_of(cluster))
        await asyncio.sleep(CALM_S)
        pids = tree_of(await cluster.status())
        before, start_s = cpu_of(pids), time.monotonic()
        await asyncio.sleep(seconds)
        passed_s = time.monotonic() - start_s
        after = cpu_of(pids)
        used_s = sum(after[pid] - before[pid] for pid in after.keys() & before.keys())
        python = [pid for pid in pids if _command(pid).startswith("python")]
        memory_mb = sum(map(pss_mb, python))
    finally:
        await cluster.command("destroy", "--yes")
    return Outcome(
        benchmark="idle",
        settings={"seconds": seconds, "processes": len(pids), "python_processes": len(python)},
        measurements=[
            Measurement("idle_core_percent", "%", (100 * used_s / passed_s,)),
            Measurement("python_memory_mb", "MB", (memory_mb,)),
        ],
    )


def tree_of(status: Status) -> list[int]:
    """All processes of a cluster: the supervisor's, the nodes', and all below them."""
    roots: set[int | None] = {status.supervisor_pid}
    for compute in status.computes:
        roots |= {compute.pid, compute.agent_pid}
    roots |= {node.pid for node in status.log} | {node.pid for node in status.storage}
    processes = all_processes()
    found = {pid for pid in roots if pid}
    for pid in list(found):
        found |= {process.pid for process in descendants(pid, processes)}
    return sorted(found)


def cpu_of(pids: Iterable[int]) -> dict[int, float]:
    """Processor time of each, to the nanosecond; without those that have ended."""
    return _each(pids, process_cpu_s)


def pss_mb(pid: int) -> float:
    """Memory of a process; what several share is divided among them."""
    with contextlib.suppress(OSError):
        match = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text(errors="replace"))
        if match is not None:
            return int(match[1]) * 1024 / 1e6
    return 0.0


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        return Path(program.decode("utf-8", "replace")).name
    return ""


def _each(pids: Iterable[int], look: Callable[[int], float]) -> dict[int, float]:
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = look(pid)
    return found
