"""Programs of Debian's packages as child processes, and what all targets do to processes.

    haproxy = Program("haproxy", [...], directory=..., place=place)
    haproxy.start()
    haproxy.kill()              # with everything below it
    haproxy.start()             # again

Each runs as the unprivileged user, in a session of its own, so that no terminal's signal reaches
it, and logs to a file of its own. What runs benchmarks has SIGTERM raise SystemExit, as
`bench.runner` does: so contexts end what they have started also when it is terminated.

All signals go through pidfds, and only to processes whose command line is as expected.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.node_process import node_environment
from bench.pagefault.workspace import Workspace
from bench.storage.processes import all_processes, descendants
from sqlnode.processes import ends_within_blocking

from .target import TargetError

SEARCHED_BESIDES: Final = "/usr/sbin"  # where Debian puts servers, and where not everybody looks
LOG_CHARACTERS_QUOTED: Final = 500
GONE_DEADLINE_SECONDS: Final = 10.0
VERSION_DEADLINE_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.1


def find_program(name: str, package: str) -> Path:
    """Return a program; TargetError says which package has it."""
    search_path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{SEARCHED_BESIDES}"
    found = shutil.which(name, path=search_path)
    if found is None:
        raise TargetError(f"there is no {name} on this machine: apt-get install {package}")
    return Path(found)


def version_of(program: Path, argument: str = "--version") -> str:
    """Return the first line of what a program says of itself."""
    done = subprocess.run(
        [program, argument],
        capture_output=True, check=False, encoding="utf-8", errors="replace",
        env=node_environment(os.environ), timeout=VERSION_DEADLINE_SECONDS,
    )  # fmt: skip
    return ((done.stdout or done.stderr).strip().splitlines() or ["unknown"])[0]


def write_private(place: Workspace, path: Path, text: str) -> None:
    """Write a file that only the unprivileged user can read: there may be a password in it."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    place.identity.give(path)


class Program:
    """One program; not running until started, and may be started again."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | os.PathLike[str]],
        *,
        directory: Path,
        place: Workspace,
    ) -> None:
        self.name = name
        self.argv = [os.fspath(one) for one in argv]
        self.directory = directory
        self.log_path = directory / f"{name}.log"
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether it runs; reaps it if it has ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; harmless if it runs."""
        if self.running:
            return
        environment = {**node_environment(os.environ), "HOME": str(self.directory)}
        with self.log_path.open("ab") as log:
            self._place.identity.give(self.log_path)
            self._process = subprocess.Popen(
                self.argv,
                cwd=self.directory, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                **self._place.identity.subprocess_options(),
            )  # fmt: skip

    def kill(self) -> None:
        """End it and all below it; harmless if it does not run."""
        if self._process is not None and self.running:
            kill_trees([self._process.pid])
            self._process.wait()

    def last_lines(self) -> str:
        """The end of its log as one line, for errors."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return " | ".join(text[-LOG_CHARACTERS_QUOTED:].split("\n")).strip() or "nothing"

    def wait_until(self, is_ready: Callable[[], bool], *, deadline_seconds: float) -> None:
        """Until something is true of it; TargetError if that takes too long or it ends."""
        end = time.monotonic() + deadline_seconds
        while not is_ready():
            if not self.running:
                raise TargetError(f"{self.name} has ended; its log ends: {self.last_lines()}")
            if time.monotonic() > end:
                raise TargetError(
                    f"{self.name} is not ready after {deadline_seconds:g} s; "
                    f"its log ends: {self.last_lines()}"
                )
            time.sleep(LOOK_SECONDS)


def open_trees(pids: Iterable[int]) -> list[int]:
    """Return pidfds of processes and of all below them, parents first; the caller closes them."""
    processes = all_processes()
    found: list[int] = []
    for pid in pids:
        for each in (pid, *(one.pid for one in descendants(pid, processes))):
            with contextlib.suppress(ProcessLookupError):
                found.append(os.pidfd_open(each))
    return found


def send(pidfds: Iterable[int], number: signal.Signals) -> None:
    """Signal them all, as fast as can be; some may have ended."""
    for pidfd in pidfds:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)


def close_all(pidfds: Iterable[int]) -> None:
    """Close descriptors."""
    for pidfd in pidfds:
        os.close(pidfd)


def kill_alone(pid: int, mark: str) -> None:
    """Kill one process and leave what is below it to notice; TargetError if it is not there."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise TargetError(f"there is no {mark} with the number {pid} to be killed") from None
    try:
        # Looked at after it was opened: from here on the number cannot become another's.
        if mark.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            raise TargetError(f"process {pid} is no {mark}, so it is not killed")
        send([pidfd], signal.SIGKILL)
        ends_within_blocking(pidfd, GONE_DEADLINE_SECONDS)  # else it might seem to be whole
    finally:
        os.close(pidfd)


def kill_trees(pids: Iterable[int]) -> None:
    """Kill processes with all below them, and return when they are gone.

    They are stopped first: else one could start a child between the look and the blow.
    """
    pidfds: list[int] = []
    try:
        roots = list(pids)
        for pid in roots:
            with contextlib.suppress(ProcessLookupError):
                pidfds.append(os.pidfd_open(pid))
        send(pidfds, signal.SIGSTOP)
        pidfds += open_trees(roots)
        send(pidfds, signal.SIGKILL)
        end = time.monotonic() + GONE_DEADLINE_SECONDS
        for pidfd in pidfds:
            ends_within_blocking(pidfd, max(0.0, end - time.monotonic()))
    finally:
        close_all(pidfds)


def end_all_in(directories: Iterable[Path]) -> None:
    """Kill whatever still works in directories of a target that is over.

    A postmaster that an agent has started is nobody's child, and a backend whose postmaster was
    killed may be busy for a while. All of them stay in the directory that they were started in.
    """
    tops = [directory.resolve() for directory in directories]
    found = []
    for process in all_processes():
        with contextlib.suppress(OSError):
            works_in = Path(f"/proc/{process.pid}/cwd").readlink()
            if any(works_in.is_relative_to(top) for top in tops):
                found.append(process.pid)
    kill_trees(found)


def roots_of(pids: Iterable[int]) -> list[int]:
    """Leave out what is below another: who sums up trees must count each process once."""
    wanted = list(dict.fromkeys(pids))
    processes = all_processes()
    below = {one.pid for pid in wanted for one in descendants(pid, processes)}
    return [pid for pid in wanted if pid not in below]


class Stopped:
    """Processes that were stopped, until they go on."""

    def __init__(self) -> None:
        self._pidfds: list[int] = []

    def stop_trees(self, pids: Iterable[int]) -> None:
        """Stop processes with all below them: what a host that hangs looks like."""
        pidfds = open_trees(pids)
        self._pidfds += pidfds
        send(pidfds, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let all of them go on, as if nothing had happened."""
        send(self._pidfds, signal.SIGCONT)
        close_all(self._pidfds)
        self._pidfds.clear()
