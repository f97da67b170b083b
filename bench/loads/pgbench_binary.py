"""pgbench itself as a driver: its three built-in scripts, closed and open loops.

Every transaction is logged to a file in memory, of which series, latencies and the longest gap are
made afterwards. That costs pgbench little, and gives exact figures where
`--aggregate-interval` gives one line a second and `--sampling-rate` guesses. pgbench knows no
warm-up: it runs longer, and the beginning of the log does not count. Its processor time is taken in
proportion.

A client of pgbench ends for good when its connection breaks. Such a client counts as one error and
is missing from then on: for systems that change their primary there is `tpcb-asyncpg`.
"""

import math
import os
import re
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.targets.target import Address
from sqlnode.servers import find_servers

from .driver import rule_findings
from .load import LoadOutcome, LoadSettings
from .pgbench_log import parse, tally_of
from .tally import LoadError
from .tpcb import Builtin, vacuum

DRIVER: Final = "pgbench"
JOBS_MAX: Final = 2  # threads; one is enough for what two cores of server answer
INITIALIZE_SECONDS: Final = 3600.0
END_SECONDS: Final = 60.0  # beyond its time, for connections and the last transactions
PROTOCOLS: Final = ("simple", "extended", "prepared")
REPORT_LINES_QUOTED: Final = 3
ABORTED_STATUS: Final = 2  # some clients ended early, and the rest went on
IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # a directory of its own is made below it

_ABORTED: Final = re.compile(r"client \d+ (?:script \d+ )?aborted")


def find_program() -> Path | None:
    """The pgbench of any server here, which speaks to all others; None: there is none."""
    for server in find_servers(search_path=os.environ.get("PATH", os.defpath)).usable:
        if server.has("pgbench"):
            return server.tool("pgbench")
    return None


@dataclass(frozen=True, slots=True)
class PgbenchLoad:
    """One of its scripts."""

    name: str
    kind: Builtin
    program: Path
    protocol: str = "prepared"

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise LoadError(f"{self.protocol} is no protocol: use one of {', '.join(PROTOCOLS)}")

    def prepare(self, address: Address, *, scale: int, seed: int) -> None:  # nothing is random
        """As Workload has it."""
        arguments = ("--initialize", "--quiet", f"--scale={scale}")
        run_program(self.program, address, arguments, seconds=INITIALIZE_SECONDS)

    def run(self, address: Address, settings: LoadSettings) -> LoadOutcome:
        """As Workload has it."""
        if self.kind is not Builtin.SELECT_ONLY:
            vacuum(address)
        parent = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="pgbench-", dir=parent) as directory:
            prefix = Path(directory) / "log"
            arguments = run_arguments(self.kind, settings, protocol=self.protocol)
            done = run_program(
                self.program, address, (*arguments, "--log", f"--log-prefix={prefix}"),
                seconds=settings.warm_seconds + settings.seconds + END_SECONDS,
            )  # fmt: skip
            lines = list(parse(_logged(Path(directory))))
        tally = tally_of(lines, settings, kind=self.kind)
        for _ in range(done.clients_aborted):
            tally.fail(0.0, "aborted", due_seconds=None)
        if not tally.transactions and not tally.errors:
            raise LoadError(f"{self.program} finished no transaction: give it more time")
        tally.cpu_seconds = done.cpu_seconds * tally.transactions / max(len(lines), 1)
        return tally.outcome(DRIVER)

    def findings(self, address: Address) -> Sequence[str]:
        """As Workload has it."""
        return rule_findings(address, self.kind.rules)


@dataclass(frozen=True, slots=True)
class Done:
    """A run of pgbench that came to its end."""

    clients_aborted: int
    cpu_seconds: float


def run_arguments(kind: Builtin, settings: LoadSettings, *, protocol: str) -> list[str]:
    """What pgbench is told, but for where the server is."""
    # Connecting takes a part of the first second, and what counts must not end before its time.
    seconds = math.ceil(settings.warm_seconds + settings.seconds) + 1
    arguments = [
        f"--builtin={kind}", "--no-vacuum", f"--protocol={protocol}", f"--time={seconds}",
        f"--client={settings.clients}", f"--jobs={min(settings.clients, JOBS_MAX)}",
        f"--random-seed={settings.seed}",
    ]  # fmt: skip
    if settings.rate is not None:
        arguments.append(f"--rate={settings.rate:g}")
    return arguments


def run_program(
    program: Path, address: Address, arguments: Sequence[str], *, seconds: float
) -> Done:
    """Run it to its end; LoadError quotes what it says."""
    command = [
        str(program), f"--host={address.host}", f"--port={address.port}",
        f"--username={address.user}", *arguments, address.database,
    ]  # fmt: skip
    with tempfile.TemporaryFile() as said:
        status, cpu_seconds = _run(command, _environment(address), said.fileno(), seconds)
        said.seek(0)
        report = said.read().decode("utf-8", "replace")
    if status not in {0, ABORTED_STATUS}:
        last = " ".join(report.strip().splitlines()[-REPORT_LINES_QUOTED:])
        raise LoadError(f"{program} failed with status {status}: {last}")
    return Done(len(_ABORTED.findall(report)), cpu_seconds)


def _run(
    command: Sequence[str], environment: Mapping[str, str], output: int, seconds: float
) -> tuple[int, float]:
    """Exit status, and processor time of this process alone, however many others have ended."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
    )
    pidfd = os.pidfd_open(process.pid)
    try:
        if not select.select([pidfd], [], [], seconds)[0]:
            raise LoadError(
                f"{command[0]} did not end within {seconds:g} s: look whether the server answers"
            )
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # Popen.kill would reap it, without times
        os.close(pidfd)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_utime + used.ru_stime


def _environment(address: Address) -> dict[str, str]:
    """A few variables: whatever else libpq reads would change what is measured."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    if address.password:
        environment["PGPASSWORD"] = address.password
    return environment


def _logged(directory: Path) -> Iterator[str]:
    """The lines of all threads."""
    for path in sorted(directory.iterdir()):
        with path.open() as log:
            yield from log
