"""One PostgreSQL server as a child process: start, watch, promote, stop, kill, reap.

    server = Postgres(binaries=..., data_dir=..., run_dir=..., identity=..., settings=...)
    await server.start()          # returns when connections are accepted
    await server.promote()        # a standby becomes a primary
    await server.stop()

Each of these is written once, as a generator that does a step and yields for how long to wait for
the process to end before the next one; `_wait` drives it under asyncio, `_wait_blocking` without.
So every verb has a `..._blocking` twin, nothing sleeps blindly, and the death of the process is
seen at once.

postgres is executed directly, without a shell or pg_ctl, so that the preload library and its
environment reach postgres alone; in a session of its own, so that no terminal's signal reaches it.
All signals go through a pidfd, which names this process for ever, whatever happens to its number.
"""

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar, cast

from .control_file import ClusterState, ControlFile, ControlFileError, read_control_file
from .initdb import InitdbError, InitdbOptions, initdb
from .postgres_settings import (
    PostgresSettings,
    SettingsError,
    fixed_arguments,
)
from .postmaster import (
    LOCK_FILE,
    Mode,
    PostmasterFile,
    accepts_connections,
    conninfo_value,
    exit_description,
    last_lines,
    mode,
    parse_postmaster_file,
    postgres_argv,
    postgres_environment,
)
from .privileges import Identity
from .processes import KilledTree, ends_within, ends_within_blocking, kill_tree, maps_library
from .run_dir import readable_library, write_configuration
from .servers import ServerBinaries

__all__ = [
    "InitdbError",
    "InitdbOptions",
    "Mode",
    "Postgres",
    "PostgresError",
    "PostgresExitedError",
    "PostgresSettings",
    "PostgresTimeoutError",
    "Preload",
    "SettingsError",
    "StopMode",
    "initdb",
    "request_standby",
]

# Polls start short, because a start takes 40 ms, and grow by a quarter, so that the last one is at
# most a quarter of the whole wait late.
POLL_MS_MIN = 1.0
POLL_MS_MAX = 50.0
POLL_GROWTH = 1.25

START_DEADLINE_S = 60.0
PROMOTE_DEADLINE_S = 60.0
STOP_DEADLINE_S = 60.0
KILL_DEADLINE_S = 10.0
EXIT_STEP_S_MAX = 3600.0  # event loops take no infinite timeout
LOG_TAIL_BYTES = 16 * 1024
PARENT_VARIABLE = "SEAWALL_PARENT_PID"  # read by pagefault.c

T = TypeVar("T")
# A verb in steps: yields for how many seconds to wait, or until the process has ended.
Steps = Generator[float, None, T]


class PostgresError(Exception):
    """The server cannot do what was asked for; the text quotes its log.

    PostgresExitedError: the process is gone, so start afresh. PostgresTimeoutError: it is still
    there but not where it should be, so ask again or kill it.
    """


class PostgresExitedError(PostgresError):
    """The server ended by itself."""


class PostgresTimeoutError(PostgresError):
    """The server did not get there in time."""


class StopMode(Enum):
    """The postmaster's ways to shut down, and the signal that asks for each."""

    SMART = signal.SIGTERM  # waits for clients to leave
    FAST = signal.SIGINT  # disconnects clients, then checkpoints
    IMMEDIATE = signal.SIGQUIT  # no checkpoint: the next start recovers


@dataclass(frozen=True, slots=True, kw_only=True)
class Preload:
    """A library to load into postgres, and the variables that it reads."""

    library: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    # Whether the kernel ends postgres (SIGQUIT) when the thread that starts it is no more.
    ends_with_parent: bool = False


class Postgres:
    """A server process over one data directory. Not running until started; may be started again."""

    def __init__(
        self,
        *,
        binaries: ServerBinaries,
        data_dir: Path,
        run_dir: Path,
        identity: Identity,
        settings: PostgresSettings,
        preload: Preload | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`environment` is what may be inherited, filtered by a short list; nothing by default."""
        self.binaries = binaries
        self.data_dir = data_dir
        self.run_dir = run_dir
        self.identity = identity
        self.settings = settings
        self.preload = preload
        self.log_path = run_dir / "postgres.log"
        self._environment = environment or {}
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1  # Invariant: open exactly while _process is set and not reaped
        self._exit_status: int | None = None
        self._stale: PostmasterFile | None = None
        self._log_start_bytes = 0
        self._library: Path | None = None  # what is preloaded, where postgres reads it

    # Facts.

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise PostgresError(f"{self} has not been started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists; reaps it if it has ended."""
        return self._pidfd >= 0 and not self._reap_if_ended()

    @property
    def exit_status(self) -> int | None:
        """How the last process ended: a status, or minus a signal. None while it runs."""
        self._reap_if_ended()
        return self._exit_status

    @property
    def port(self) -> int:
        """The number in the socket's name."""
        return self.settings.port

    def conninfo(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return libpq's connection string for the Unix socket."""
        values = {"host": self.run_dir, "port": self.port, "dbname": database, "user": user}
        return " ".join(f"{name}={conninfo_value(value)}" for name, value in values.items())

    def mode(self) -> Mode:
        """Return what the server does right now, read off its files."""
        return mode(self._lock_file(), self._state(), running=self.running)

    def control(self) -> ControlFile:
        """Return the control file as it is now."""
        return read_control_file(self.data_dir)

    def last_log_lines(self) -> str:
        """Return the end of what this start has logged, as one line."""
        try:
            with self.log_path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start_bytes, size - LOG_TAIL_BYTES))
                return last_lines(log.read(LOG_TAIL_BYTES).decode("utf-8", "replace"))
        except FileNotFoundError:
            return "nothing"

    def __str__(self) -> str:
        return f"postgres over {self.data_dir}"

    # Verbs.

    async def start(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Start; return when connections are accepted. A failed start leaves no process."""
        await self._wait(self._starting(deadline_s))

    async def promote(self, deadline_s: float = PROMOTE_DEADLINE_S) -> None:
        """Make a standby a primary; return when it accepts writes."""
        await self._wait(self._promoting(deadline_s))

    async def stop(self, how: StopMode = StopMode.FAST, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Shut down; return the exit status. After the deadline the server still runs."""
        return await self._wait(self._stopping(how, deadline_s))

    async def kill(self) -> None:
        """End postmaster and backends as a power cut would; harmless if there are none."""
        await self._wait(self._killing())

    async def wait_exit(self, deadline_s: float = math.inf) -> int:
        """Wait until the server ends by itself; return the exit status."""
        return await self._wait(self._exiting(deadline_s, "end"))

    def start_blocking(self, deadline_s: float = START_DEADLINE_S) -> None:
        """As `start`, without asyncio."""
        self._wait_blocking(self._starting(deadline_s))

    def promote_blocking(self, deadline_s: float = PROMOTE_DEADLINE_S) -> None:
        """As `promote`, without asyncio."""
        self._wait_blocking(self._promoting(deadline_s))

    def stop_blocking(
        self, how: StopMode = StopMode.FAST, deadline_s: float = STOP_DEADLINE_S
    ) -> int:
        """As `stop`, without asyncio."""
        return self._wait_blocking(self._stopping(how, deadline_s))

    def kill_blocking(self) -> None:
        """As `kill`, without asyncio."""
        self._wait_blocking(self._killing())

    def reload(self, settings: PostgresSettings | None = None) -> None:
        """Replace the configuration files and have the server read them again."""
        if settings is not None:
            self.settings = settings
        self._write_configuration()
        self._signal(signal.SIGHUP)

    # The steps.

    def _starting(self, deadline_s: float) -> Steps[None]:
        if self.running:
            raise PostgresError(f"{self} runs already (pid {self.pid})")
        self._write_configuration()
        self._stale = self._lock_file()
        self._spawn()
        try:
            yield from self._poll(self._is_ready, deadline_s, "accept connections")
            self._verify_preloaded()
        except BaseException:
            self._kill_now()
            raise

    def _promoting(self, deadline_s: float) -> Steps[None]:
        state = self._state()
        if state is not ClusterState.IN_ARCHIVE_RECOVERY:
            name = "unknown" if state is None else state.name.lower().replace("_", " ")
            raise PostgresError(f"{self} is no standby but {name}: only a standby can be promoted")
        request, aside = self.data_dir / "promote", self.data_dir / "promote.seawall"
        aside.touch(mode=0o600)
        try:
            self.identity.give(aside)
            # Any signal of its children makes the postmaster look, so it may be gone at once.
            aside.replace(request)
            self._signal(signal.SIGUSR1)
            yield from self._poll(self._is_writable, deadline_s, "accept writes")
        finally:
            # PostgreSQL removes it; after a failure it must not promote the next start.
            request.unlink(missing_ok=True)
            aside.unlink(missing_ok=True)

    def _stopping(self, how: StopMode, deadline_s: float) -> Steps[int]:
        self._signal(how.value)
        return (yield from self._exiting(deadline_s, f"shut down ({how.name.lower()})"))

    def _exiting(self, deadline_s: float, what: str) -> Steps[int]:
        end_s = self._clock() + deadline_s
        while self.running:
            left_s = end_s - self._clock()
            if left_s <= 0:
                raise self._timeout(what, deadline_s)
            yield min(left_s, EXIT_STEP_S_MAX)
        assert self._exit_status is not None, "a server that does not run was reaped"
        return self._exit_status

    def _killing(self) -> Steps[None]:
        if not self.running:
            return
        with self._kill_tree() as descendants:
            yield from self._exiting(KILL_DEADLINE_S, "die")
            end_s = self._clock() + KILL_DEADLINE_S
            while descendants.alive():
                if self._clock() >= end_s:
                    raise self._timeout("lose its backends", KILL_DEADLINE_S)
                yield POLL_MS_MIN / 1000

    def _poll(self, done: Callable[[], bool], deadline_s: float, what: str) -> Steps[None]:
        end_s = self._clock() + deadline_s
        pause_ms = POLL_MS_MIN
        while not done():
            if not self.running:
                assert self._exit_status is not None, "a server that does not run was reaped"
                raise PostgresExitedError(
                    f"{self} {exit_description(self._exit_status)} instead of going on to {what}; "
                    f"its log {self.log_path} ends: {self.last_log_lines()}"
                )
            if self._clock() >= end_s:
                raise self._timeout(what, deadline_s)
            yield pause_ms / 1000
            pause_ms = min(pause_ms * POLL_GROWTH, POLL_MS_MAX)

    def _timeout(self, what: str, deadline_s: float) -> PostgresTimeoutError:
        return PostgresTimeoutError(
            f"{self} did not {what} within {deadline_s:g} s; "
            f"its log {self.log_path} ends: {self.last_log_lines()}"
        )

    # The two ways to wait.

    async def _wait(self, steps: Steps[T]) -> T:
        with contextlib.closing(steps):
            while True:
                try:
                    wait_s = next(steps)
                except StopIteration as stop:
                    return cast("T", stop.value)
                await ends_within(self._pidfd, wait_s)

    def _wait_blocking(self, steps: Steps[T]) -> T:
        with contextlib.closing(steps):
            while True:
                try:
                    wait_s = next(steps)
                except StopIteration as stop:
                    return cast("T", stop.value)
                ends_within_blocking(self._pidfd, wait_s)

    # The process and its files.

    def _write_configuration(self) -> None:
        write_configuration(
            self.run_dir, self.settings, identity=self.identity, version=self.binaries.version
        )

    def _spawn(self) -> None:
        fixed = fixed_arguments(self.settings, version=self.binaries.version, run_dir=self.run_dir)
        environment = postgres_environment(
            self._environment, self.identity, self._preload_environment()
        )
        with self.log_path.open("ab") as log:
            self.identity.give(self.log_path)
            self._log_start_bytes = log.tell()
            try:
                self._process = subprocess.Popen(
                    postgres_argv(self.binaries.postgres, self.data_dir, fixed),
                    cwd=self.run_dir, env=environment, start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    **self.identity.subprocess_options(),
                )  # fmt: skip
            except OSError as error:
                raise PostgresError(f"{self.binaries} cannot be run: {error}") from error
        self._exit_status = None
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            self._process.kill()
            self._process.wait()
            raise PostgresError(f"{self} cannot be watched: {error}") from error

    def _preload_environment(self) -> Mapping[str, str]:
        self._library = None
        if self.preload is None:
            return {}
        self._library = readable_library(
            self.preload.library, run_dir=self.run_dir, identity=self.identity
        )
        parent = {PARENT_VARIABLE: str(os.getpid())} if self.preload.ends_with_parent else {}
        return {**self.preload.environment, **parent, "LD_PRELOAD": str(self._library)}

    def _verify_preloaded(self) -> None:
        if self._library is not None and not maps_library(self.pid, self._library):
            raise PostgresError(
                f"{self} runs without {self._library}, so it would read blocks that are not there: "
                f"its log {self.log_path} ends: {self.last_log_lines()}"
            )

    def _signal(self, number: signal.Signals) -> None:
        if not self.running:
            raise PostgresExitedError(f"{self} does not run, so it cannot be signalled: start it")
        signal.pidfd_send_signal(self._pidfd, number)

    def _reap_if_ended(self) -> bool:
        """Reap the process if it has ended; return whether there is none (any more)."""
        if self._process is None or self._pidfd < 0:
            return True
        self._exit_status = self._process.poll()
        if self._exit_status is None:
            return False
        os.close(self._pidfd)
        self._pidfd = -1
        return True

    def _kill_now(self) -> None:
        """Kill and reap without yielding: a cancelled start cannot wait for an event loop."""
        if self.running:
            with self._kill_tree() as descendants:
                ends_within_blocking(self._pidfd, KILL_DEADLINE_S)
                self._reap_if_ended()
                while descendants.alive():
                    ends_within_blocking(descendants.pidfds[-1], KILL_DEADLINE_S)

    def _kill_tree(self) -> KilledTree:
        lock = self._lock_file()
        ours = lock is not None and lock.pid == self.pid and not lock.is_same_start(self._stale)
        memory = lock.shared_memory_id if lock is not None and ours else None
        return kill_tree(self.pid, self._pidfd, shared_memory_id=memory)

    # Looks at the data directory.

    def _is_ready(self) -> bool:
        return accepts_connections(self._lock_file(), pid=self.pid, stale=self._stale)

    def _is_writable(self) -> bool:
        return self._state() is ClusterState.IN_PRODUCTION

    def _lock_file(self) -> PostmasterFile | None:
        try:
            return parse_postmaster_file((self.data_dir / LOCK_FILE).read_bytes())
        except FileNotFoundError:
            return None

    def _state(self) -> ClusterState | None:
        """Return the control file's state; None while it cannot be read."""
        try:
            return self.control().state
        except ControlFileError:
            return None


def request_standby(data_dir: Path, identity: Identity) -> None:
    """Have the next start be a standby: read-only until promoted, following WAL for ever."""
    path = data_dir / "standby.signal"
    path.touch(mode=0o600)
    identity.give(path)
