"""A compute by hand: a broker process, and a stock postgres over the blocks that it gives.

What the agent of a cluster will do by orders of the log, done by calls: for the demonstration, the
tests and the benchmarks. Everything below `run_dir` may be deleted while it does not run.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from .control_file import ControlFile, read_control_file
from .datadir import ComputeDir
from .pagefault.block_map import LIBRARY_PATH, BlockMap, Waits
from .postgres import Postgres, PostgresSettings, Preload
from .privileges import Identity
from .servers import ServerBinaries
from .settings import BrokerSettings
from .wal_files import copy_wal

BROKER_READY_S: Final = 60.0  # building takes a second for 20,000 files
BROKER_STOP_S: Final = 10.0

# The broker reads its settings from its environment too, so it gets no more than it needs.
_INHERITED: Final = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ")


class BrokerProcessError(Exception):
    """The broker did not start, or not in time; the text is its own last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSpec:
    """What a lazy compute is made of."""

    binaries: ServerBinaries
    run_dir: Path
    source_dir: Path
    identity: Identity
    settings: PostgresSettings
    wal_dir: Path | None = None  # where the tail is copied from; None: the source needs none
    standby: bool = True  # every compute starts as a replica; False: straight to read-write
    system_identifier: int | None = None
    tracks_changes: bool = False
    fill: bool = False
    waits: Waits | None = None
    environment: Mapping[str, str] | None = None


class LazyCompute:
    """Starts, promotes and ends the pair of processes. Nothing is started by the constructor."""

    def __init__(self, spec: ComputeSpec) -> None:
        self.spec = spec
        self.paths = ComputeDir(spec.run_dir)
        self.broker = BrokerProcess(spec)
        self.postgres = Postgres(
            binaries=spec.binaries,
            data_dir=self.paths.data,
            run_dir=spec.run_dir,
            identity=spec.identity,
            settings=spec.settings,
            preload=Preload(
                library=LIBRARY_PATH,
                environment={"SEAWALL_BLOCK_MAP": str(self.paths.block_map)},
            ),
            environment=spec.environment,
        )

    def start(self) -> None:
        """Build, serve, and open for reads; with `standby=False` for writes too."""
        self.prepare()
        self.postgres.start_blocking()

    def prepare(self) -> ControlFile:
        """Everything but postgres itself; the cut's control file."""
        self.broker.start()
        control = read_control_file(self.paths.data)
        if self.spec.wal_dir is not None:
            copied = copy_wal(
                self.spec.wal_dir,
                self.paths.data,
                control.redo,
                segment_bytes=control.wal_segment_bytes,
            )
            for path in (self.paths.data / "pg_wal").iterdir() if copied else ():
                self.spec.identity.give(path)
        if self.spec.standby:
            signal_file = self.paths.data / "standby.signal"
            signal_file.touch(mode=0o600)
            self.spec.identity.give(signal_file)
        return control

    def promote(self) -> None:
        """Make the replica a primary."""
        self.postgres.promote_blocking()

    def block_map(self) -> BlockMap:
        """The state of every block, to look at; close it."""
        return BlockMap(self.paths.block_map)

    def stop(self) -> None:
        """End both, postgres first: its shutdown checkpoint may fault."""
        if self.postgres.running:
            self.postgres.stop_blocking()
        self.broker.stop()

    def kill(self) -> None:
        """End both as a power cut would."""
        self.postgres.kill_blocking()
        self.broker.kill()


class BrokerProcess:
    """`python -m sqlnode` as a child."""

    def __init__(self, spec: ComputeSpec) -> None:
        self._spec = spec
        self._process: subprocess.Popen[str] | None = None
        self.log_path = spec.run_dir / "broker.log"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and return once faults are answered."""
        self._spec.identity.make_directory(self._spec.run_dir)
        settings_path = self._spec.run_dir / "broker.toml"
        settings_path.write_text(_toml(self._settings()), encoding="utf-8")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sqlnode", str(settings_path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd="/",
                start_new_session=True,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], BROKER_READY_S)
        if readable and self._process.stdout.readline() == "ready\n":
            return
        self.kill()
        raise BrokerProcessError(
            f"the broker of {self._spec.run_dir} did not start; its log {self.log_path} ends: "
            f"{_last_line(self.log_path)}"
        )

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help; harmless when it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(BROKER_STOP_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and reap; harmless when it does not run."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if there is somebody to get it."""
        if self._process is not None:
            self._process.send_signal(number)

    def _settings(self) -> BrokerSettings:
        return BrokerSettings(
            run_dir=self._spec.run_dir,
            source_dir=self._spec.source_dir,
            server_version=f"postgres (PostgreSQL) {self._spec.binaries.version}",
            system_identifier=self._spec.system_identifier,
            tracks_changes=self._spec.tracks_changes,
            fill=self._spec.fill,
            waits=self._spec.waits or Waits(),
        )


def _toml(settings: BrokerSettings) -> str:
    """The settings as a file: plain values first, then a section for each group."""
    values = {name: value for name, value in asdict(settings).items() if value is not None}
    sections = {name: value for name, value in values.items() if isinstance(value, dict)}
    text = _toml_lines({name: values[name] for name in values.keys() - sections.keys()})
    return text + "".join(f"[{name}]\n{_toml_lines(group)}" for name, group in sections.items())


def _toml_lines(values: Mapping[str, object]) -> str:
    """Strings, integers and booleans only; JSON's forms of these are TOML's."""
    return "".join(
        f"{name} = {json.dumps(str(value) if isinstance(value, Path) else value)}\n"
        for name, value in sorted(values.items())
    )


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line), "(nothing)")
