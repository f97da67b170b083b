"""Nodes of ours as real processes: start, kill, stop, pause, start again.

    node = NodeProcess(spec)    # what kind of node it is, and all that it is told
    node.start()                # returns at the line in which the node says that it listens
    node.kill()                 # SIGKILL: what a crash leaves
    node.start()                # the same directory and the same addresses

A node gets a directory of its own, an environment of a few variables, and addresses that stay the
same over restarts, because its peers know them. Ports are chosen below those that the kernel gives
to outgoing connections: otherwise somebody's connection could take the port of a node that is down.

All signals go through a pidfd, and only to processes that were started here.
"""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

READY_DEADLINE_S: Final = 30.0  # takes half a second; a machine under load gets its time
STOP_DEADLINE_S: Final = 20.0
KILL_DEADLINE_S: Final = 10.0
READY_BYTES_MAX: Final = 64 * 1024
LOG_LINES_QUOTED: Final = 8
LOG_LINE_CHARACTERS_MAX: Final = 300

PORT_MIN: Final = 10_000
PORTS_TRIED_MAX: Final = 100
HOST: Final = "127.0.0.1"

# What a node inherits. Neither PYTHONPATH nor PG*: they would change what runs.
INHERITED: Final = ("LANG", "LC_ALL", "PATH", "TMPDIR", "TZ")


class NodeError(Exception):
    """A node did not start or stop as it should; the text quotes its log."""


class ProcessSpec(Protocol):
    """A kind of node, and all that one of them is told."""

    @property
    def what(self) -> str:
        """What it is, for errors: "log node"."""

    @property
    def module(self) -> str:
        """The module that is run with --config."""

    @property
    def ready_event(self) -> str:
        """What the line says in which it tells that it listens."""

    @property
    def name(self) -> str:
        """Its name in the cluster."""

    @property
    def directory(self) -> Path:
        """Where its configuration and its log are."""

    def config_text(self) -> str:
        """Return the text of its configuration file."""


S = TypeVar("S", bound=ProcessSpec)


class NodeProcess(Generic[S]):
    """One node; not running until started, and may be started again."""

    def __init__(self, spec: S) -> None:
        self.spec = spec
        self.log_path = spec.directory / "node.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1  # Invariant: open exactly while _process is set and not reaped
        self._log_start_bytes = 0

    # Facts.

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        return self.spec.name

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise NodeError(f"{self} has not been started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists; reaps it if it has ended."""
        return self._pidfd >= 0 and not self._reap_if_ended()

    @property
    def exit_status(self) -> int | None:
        """How the last process ended: a status, or minus a signal. None while it runs."""
        return None if self._process is None else self._process.poll()

    def log_of_this_start(self) -> str:
        """What the node has logged since it was started last."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start_bytes)
            return log.read().decode("utf-8", "replace")

    def __str__(self) -> str:
        return f"{self.spec.what} {self.name}"

    # Verbs.

    def start(self, deadline_s: float = READY_DEADLINE_S) -> float:
        """Start; return after how many seconds the node said that it listens."""
        if self.running:
            raise NodeError(f"{self} runs already (pid {self.pid})")
        started_s = time.monotonic()
        self._spawn()
        try:
            self._wait_until_ready(started_s + deadline_s)
        except BaseException:
            self.kill()
            raise
        return time.monotonic() - started_s

    def start_refused(self, deadline_s: float = READY_DEADLINE_S) -> str:
        """Start a node that is expected to end by itself; return what it logged."""
        self._spawn()
        try:
            if not self._ends_within(deadline_s):
                raise NodeError(f"{self} did not refuse to run; its log ends: {self.last_lines()}")
        finally:
            self.kill()
        return self.log_of_this_start()

    def kill(self) -> None:
        """End it as a crash would; harmless if it does not run."""
        if self.running:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._await_end(KILL_DEADLINE_S, "die")

    def stop(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Ask it to leave: leadership goes elsewhere first; return the exit status."""
        self._signal(signal.SIGTERM)
        return self._await_end(deadline_s, "stop")

    def pause(self) -> None:
        """Stop it in its tracks, connections open: what a host that hangs looks like."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused node go on, as if nothing had happened."""
        self._signal(signal.SIGCONT)

    def last_lines(self) -> str:
        """The end of the log as one line, for errors."""
        lines = self.log_of_this_start().splitlines()[-LOG_LINES_QUOTED:]
        return " | ".join(line[:LOG_LINE_CHARACTERS_MAX] for line in lines) or "nothing"

    # The process.

    def _spawn(self) -> None:
        directory = self.spec.directory
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "node.toml"
        config.write_text(self.spec.config_text(), encoding="utf-8")
        with self.log_path.open("ab") as log:
            self._log_start_bytes = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.spec.module, "--config", str(config)],
                cwd=directory, env=node_environment(os.environ), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._pidfd = os.pidfd_open(self._process.pid)

    def _wait_until_ready(self, end_s: float) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        said = b""
        while not is_ready(said, self.spec.ready_event):
            wait_s = max(0.0, end_s - time.monotonic())
            if not select.select([output], [], [], wait_s)[0]:
                raise NodeError(f"{self} was not ready in time; its log ends: {self.last_lines()}")
            piece = os.read(output, READY_BYTES_MAX)
            if not piece or len(said) > READY_BYTES_MAX:
                raise NodeError(f"{self} ended or said {said[:200]!r}; log: {self.last_lines()}")
            said += piece

    def _signal(self, number: signal.Signals) -> None:
        if not self.running:
            raise NodeError(f"{self} does not run, so it cannot be signalled: start it")
        signal.pidfd_send_signal(self._pidfd, number)

    def _await_end(self, deadline_s: float, what: str) -> int:
        if not self._ends_within(deadline_s):
            raise NodeError(
                f"{self} did not {what} within {deadline_s:g} s; its log ends: {self.last_lines()}"
            )
        assert self._process is not None
        assert self._process.returncode is not None, "a node that does not run was reaped"
        return self._process.returncode

    def _ends_within(self, deadline_s: float) -> bool:
        if self._pidfd >= 0:
            select.select([self._pidfd], [], [], deadline_s)
        return not self.running

    def _reap_if_ended(self) -> bool:
        assert self._process is not None
        if self._process.poll() is None:
            return False
        os.close(self._pidfd)
        self._pidfd = -1
        if self._process.stdout is not None:
            self._process.stdout.close()
        return True


def is_ready(said: bytes, event: str) -> bool:
    """Whether a node's standard output contains the line in which it says that it listens."""
    return any(_event_of(line) == event for line in said.split(b"\n")[:-1])


def _event_of(line: bytes) -> object:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found.get("event") if isinstance(found, dict) else None


def toml_text(values: Mapping[str, object]) -> str:
    """Return a configuration file. JSON's strings, numbers and booleans are TOML's, too."""
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in plain.items()]
    for table, entries in tables.items():
        lines += [f"[{table}]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in entries.items())]
    return "\n".join(lines) + "\n"


def node_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """All of a node's environment."""
    return {name: inherited[name] for name in INHERITED if name in inherited}


def free_ports(count: int, rng: random.Random) -> list[int]:
    """Ports of loopback that nobody listens on and that no outgoing connection is given."""
    port_range = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    ephemeral_min = int(port_range.split()[0])
    found: set[int] = set()
    for _ in range(PORTS_TRIED_MAX * count):
        port = rng.randrange(PORT_MIN, ephemeral_min)
        if port not in found and _is_free(port):
            found.add(port)
        if len(found) == count:
            return sorted(found)
    raise NodeError(f"{count} free ports were not found: end what listens on so many")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
