"""What a rig has started, written down before anything depends on it.

`down` must find the processes of a rig whose own process is gone. A pid alone may belong to
somebody else by then, so the time at which the process started is recorded with it, and the boot
in which that was.
"""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import RigError

KILLED_TIMEOUT_S = 20.0  # a killed process has its memory to give back, and a loaded machine
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told from every later one with the same pid."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process that has this pid now."""
        state = _state_and_start(pid)
        if state is None:
            raise RigError(f"process {pid} ended as soon as it was started")
        return cls(pid, state[1])

    def alive(self) -> bool:
        """Whether it runs; one that ended and was not waited for does not."""
        state = _state_and_start(self.pid)
        if state is None or state[1] != self.start_ticks:
            return False
        if state[0] != "Z":
            return True
        _reap(self.pid)
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return  # it ended between the two lines

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        if not wait_until(lambda: not self.alive(), KILLED_TIMEOUT_S):
            raise RigError(f"process {self.pid} does not end although it was killed")


@dataclass(slots=True)
class Records:
    """The processes of a rig by name; a name is `machine/program`."""

    path: Path
    boot: str = ""
    ready: bool = False  # `up` went to its end
    owner: Process | None = None  # whose context manager it is; None when it was started by hand
    processes: dict[str, Process] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> "Records":
        """What is recorded in a directory; nothing, if it is of an earlier boot or not whole."""
        records = cls(directory / "state.json", boot=boot_id())
        try:
            read = json.loads(records.path.read_text())
            if read["boot"] == records.boot:
                records.ready = bool(read["ready"])
                records.owner = Process(**read["owner"]) if read["owner"] else None
                records.processes = {
                    name: Process(**process) for name, process in read["processes"].items()
                }
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # no rig, or one that died while it wrote its first line: namespaces tell the rest
        return records

    def write(self) -> None:
        """Replace the file at once, so that no reader sees half of it."""
        aside = self.path.with_suffix(".new")
        content = asdict(self)
        del content["path"]
        aside.write_text(json.dumps(content, indent=1))
        aside.replace(self.path)

    def add(self, name: str, process: Process) -> None:
        """Record a process under its name."""
        with self._changing():
            self.processes[name] = process

    def remove(self, name: str) -> None:
        """Forget a process that was ended on purpose."""
        if name in self.processes:
            with self._changing():
                self.processes.pop(name, None)

    def refresh(self) -> None:
        """Take what others have recorded: nodes are lost by hand, too, while a test runs."""
        self.processes = Records.read(self.path.parent).processes

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change what is recorded now, and not what was when we looked last."""
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.refresh()
            yield
            self.write()

    def dead(self) -> list[str]:
        """The names of those that should run and do not."""
        return [name for name, process in self.processes.items() if not process.alive()]


def boot_id() -> str:
    """Which boot of the machine this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came to hold in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _state_and_start(pid: int) -> tuple[str, int] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before may hold anything
    return fields[0], int(fields[19])


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # not our child: its parent will
        os.waitpid(pid, os.WNOHANG)
