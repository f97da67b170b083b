"""What a figure depends on besides the program: the machine, and how busy it is."""

import os
import platform
import re
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .cpu_time import tree_cpu_s

QUIET_CORES: Final = 0.15
QUIET_SAMPLE_S: Final = 0.2  # ticks are 10 ms
QUIET_WAIT_S: Final = 2.0  # a machine that never is quiet must still get figures


def machine_facts() -> dict[str, object]:
    """Processor, memory, kernel and load, for the report."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text(errors="replace")),
        "cores": os.cpu_count(),
        "memory_mib": memory_mib(Path("/proc/meminfo").read_text(errors="replace")),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
    }


def cpu_model(cpuinfo: str) -> str:
    """The first processor's name; architectures differ in what they say."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def memory_mib(meminfo: str) -> int:
    """All of the machine's memory."""
    match = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) // 1024 if match else 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time so far: of the whole machine, and of this process and all that it started."""

    machine_s: float
    ours_s: float
    at_s: float

    def others_since(self, before: "Usage") -> float:
        """How many cores somebody else has kept busy since; the kernel's own threads count too."""
        passed_s = self.at_s - before.at_s
        others_s = (self.machine_s - before.machine_s) - (self.ours_s - before.ours_s)
        return max(0.0, others_s / passed_s) if passed_s else 0.0


def usage() -> Usage:
    """As of now."""
    stat = Path("/proc/stat").read_text()
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    return Usage(busy_ticks(stat) / ticks_a_second, tree_cpu_s(os.getpid()), time.monotonic())


def busy_ticks(stat: str) -> int:
    """All but idle, iowait, and what guests got (which user includes), from /proc/stat."""
    fields = [int(value) for value in stat.split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return user + nice + system + irq + softirq + steal


def wait_for_quiet() -> None:
    """Return once the machine does little besides us, or after a while anyhow."""
    give_up_s = time.monotonic() + QUIET_WAIT_S
    before = usage()
    while time.monotonic() < give_up_s:
        select.select([], [], [], QUIET_SAMPLE_S)
        now = usage()
        if now.others_since(before) < QUIET_CORES:
            return
        before = now


def prepare_round(directory: Path, size_bytes: int, *, read: Path | None = None) -> None:
    """Before every timed round: have the host back so much of our memory, have the files below
    `read` in the page cache, from which an idle machine may have taken them, and wait for quiet.

    The first touch of a page of a virtual machine is a fault of the host, many times slower than
    any later one, and none of what is measured here. So a file is written and deleted: its pages of
    the page cache are the next ones to be used.
    """
    chunk = bytes(1 << 20)
    path = directory / "backing"
    with path.open("wb", buffering=0) as file:
        path.unlink()
        for _ in range(size_bytes >> 20):
            file.write(chunk)
    if read is not None:
        read_files(read)
    wait_for_quiet()


def read_files(top: Path) -> int:
    """Have every file below a directory in the page cache; the bytes."""
    total = 0
    buffer = bytearray(1 << 20)
    for folder, _, names in os.walk(top):
        for name in names:
            with Path(folder, name).open("rb", buffering=0) as file:
                while got := file.readinto(buffer):
                    total += got
    return total
