"""One machine of the rig: namespaces that a process holds, and programs within them.

A machine is a network namespace (made by `network`) with a pid, a mount and a UTS namespace, held
by a first process that only waits (pause.c). Killing that process is pulling the power cord: the
kernel ends everything in its pid namespace, containers included, and takes their mounts along.

Of the file system a machine has /run, /var/lib and /var/log to itself, so that containerd and
kubelet keep to their usual paths and leave nothing on the host. The rest is the host's. A few
sysctls that kubelet insists on are covered by files that already hold the wanted values: it
reads them, is content, and the host's are never changed.
"""

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import commands
from .errors import RigError
from .layout import Layout, namespace
from .records import Process, Records, wait_until

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0  # the API server waits for its watches to end
LOG_LINES_SHOWN = 15
PROGRAMS = "/run/bin"  # where a machine finds what build.py has built

# What kubelet sets at its start: k8s.io/kubernetes/pkg/kubelet/cm, setupKernelTunables.
KUBELET_SYSCTLS = {
    "kernel.keys.root_maxbytes": 25000000,
    "kernel.keys.root_maxkeys": 1000000,
    "kernel.panic": 10,
    "kernel.panic_on_oops": 1,
    "vm.overcommit_memory": 1,
    "vm.panic_on_oom": 0,
}

# Runs as the first process, in the machine's own directory. Arguments: the directory, the
# programs, the name. Mounts of the host that a machine does not see are let go of, else it would
# keep alive what the host has unmounted: other machines' networks, containers of others. Sources
# are relative and -c keeps them so, since the first mounts may hide the directory that the later
# ones come from. sysfs shows the links of the network namespace in which it is mounted, and the
# cgroups must stay below it.
SETUP = """
cd "$1"
while read -r _ _ _ _ point _; do
    case "$1/ $2/" in "$point"/*|*" $point"/*) continue ;; esac
    case "$point" in /run/*|/var/lib/*|/var/log/*) umount -n -l "$point" 2>/dev/null || true ;; esac
done </proc/self/mountinfo
mount -n -t proc proc /proc
for file in sysctl/*; do
    mount -n -c --bind "$file" "/proc/sys/$(basename "$file" | tr . /)"
done
mount -n --move /sys/fs/cgroup ./cgroup
mount -n -t sysfs sysfs /sys
mount -n --move ./cgroup /sys/fs/cgroup
mount -n --bind "$2" run/bin
mount -n -c --bind lib /var/lib
mount -n -c --bind log /var/log
mount -n -c --rbind run /run
mount -n --make-rshared /
echo "$3" >/proc/sys/kernel/hostname
touch /run/machine-is-up
exec /run/pause
"""

# A shell within the machine starts each program and is killed as soon as the program's pid is
# known. So the machine's first process becomes the parent: a parent outside could keep the whole
# namespace from ending, as nsenter did, which stops itself when the program is stopped.
START = '"$@" & wait'


@dataclass(slots=True)
class Machine:
    """One machine by its name; its processes are in the records."""

    name: str
    layout: Layout
    records: Records
    programs: Path  # of build.py
    pause: Path  # the first process

    @property
    def files(self) -> Path:
        """The machine's private files, as the host sees them."""
        return self.layout.machine(self.name)

    def file(self, path: str) -> Path:
        """Where the host finds a file that the machine knows below /run, /var/lib or /var/log."""
        for inside, outside in (("/run/", "run"), ("/var/lib/", "lib"), ("/var/log/", "log")):
            if path.startswith(inside):
                return self.files / outside / path.removeprefix(inside)
        raise RigError(f"{path} is not a private file of a machine")

    def write(self, path: str, content: str | bytes, *, mode: int = 0o644) -> None:
        """Write a file of the machine by the path that the machine knows."""
        file = self.file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)

    def prepare(self) -> None:
        """Make the private directories; /run is empty as after a boot, the others are kept."""
        shutil.rmtree(self.files / "run", ignore_errors=True)
        for folder in ("run/bin", "run/netns", "lib", "log", "cgroup", "sysctl"):
            (self.files / folder).mkdir(parents=True, exist_ok=True)
        for name, value in KUBELET_SYSCTLS.items():
            (self.files / "sysctl" / name).write_text(f"{value}\n")
        shutil.copy2(self.pause, self.files / "run" / "pause")
        (self.layout.logs / self.name).mkdir(parents=True, exist_ok=True)

    def boot(self) -> None:
        """Make the namespaces and the process that holds them; the network is there already."""
        command = ["nsenter", f"--net=/run/netns/{namespace(self.name)}"]
        command += ["unshare", "--mount", "--propagation", "slave"]
        command += ["--uts", "--pid", "--fork", "--kill-child", "--"]
        command += ["sh", "-euc", SETUP, "machine", str(self.files), str(self.programs), self.name]
        outer = self._launch("machine", command)
        marker = self.file("/run/machine-is-up")
        wait_until(lambda: marker.exists() or not outer.alive(), START_TIMEOUT_S)
        holder = _only_child(outer)
        if holder is None or not marker.exists():
            outer.kill()
            raise RigError(f"{self.name} did not start: {self.log_tail('machine')}")
        self.records.add(f"{self.name}/machine", holder)

    def power_off(self) -> None:
        """End every process of the machine at once, as a lost machine does."""
        self.records.refresh()
        holder = self.records.processes.get(f"{self.name}/machine")
        if holder is not None:
            holder.kill()
        for name in [name for name in self.records.processes if name.startswith(f"{self.name}/")]:
            self.records.remove(name)

    def start(self, program: str, command: Sequence[str], *, host_files: bool = False) -> None:
        """Start a program that goes on; it sees the host's files if it must."""
        starter = self.enter(["sh", "-c", START, "start", *command], host_files=host_files)
        outer = self._launch(program, starter)
        # nsenter forks, since only a new process can be in another pid namespace.
        shell = _only_child(outer)
        process = _only_child(shell) if shell is not None else None
        if shell is not None:
            shell.kill()
        outer.kill()
        if process is None:
            raise RigError(f"{program} did not start on {self.name}: {self.log_tail(program)}")
        self.records.add(f"{self.name}/{program}", process)

    def stop(self, program: str) -> None:
        """Ask a program to end, and insist after a while."""
        process = self.process(program)
        self.records.remove(f"{self.name}/{program}")
        process.signal(signal.SIGTERM)
        if not wait_until(lambda: not process.alive(), STOP_TIMEOUT_S):
            process.kill()

    def process(self, program: str) -> Process:
        """The running process of a program."""
        self.records.refresh()
        process = self.records.processes.get(f"{self.name}/{program}")
        if process is None:
            raise RigError(f"{program} was not started on {self.name}, or was stopped there")
        return process

    def enter(self, command: Sequence[str], *, host_files: bool = False) -> list[str]:
        """The command that runs another one within the machine."""
        holder = self.process("machine").pid
        namespaces = ["--net", "--pid", "--uts", *([] if host_files else ["--mount"])]
        return ["nsenter", f"--target={holder}", *namespaces, "--", *command]

    def log(self, program: str) -> Path:
        """Where a program's output goes."""
        return log_of(self.layout, self.name, program)

    def log_tail(self, program: str) -> str:
        """The last lines of a program's output, for an error."""
        return log_tail(self.log(program))

    def _launch(self, program: str, command: Sequence[str]) -> Process:
        """Start a process that outlives us: in a session of its own, with its output in a file."""
        log = str(self.log(program))
        pid = os.posix_spawnp(
            command[0],
            list(command),
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGTERM],
        )
        return Process.of(pid)


def log_tail(log: Path) -> str:
    """The last lines of a log, for an error."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    shown = "\n  ".join(lines[-LOG_LINES_SHOWN:]) or "(it printed nothing)"
    return f"the end of {log} is\n  {shown}"


def log_of(layout: Layout, machine: str, program: str) -> Path:
    """Where the output of a program on a machine goes."""
    return layout.logs / machine / f"{program}.log"


def _environment() -> Mapping[str, str]:
    return {"PATH": f"{PROGRAMS}:{commands.PATH}", "HOME": "/root", "LANG": "C.UTF-8"}


def _only_child(outer: Process) -> Process | None:
    """What `unshare` or `nsenter` has forked; None if it ended before it did."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    found: list[int] = []

    def forked() -> bool:
        try:
            found.extend(int(pid) for pid in children.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            return True
        return bool(found) or not outer.alive()

    wait_until(forked, START_TIMEOUT_S)
    return Process.of(found[0]) if found else None
