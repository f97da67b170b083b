"""What the tests of the library share: builds, lazy directories, drivers and brokers.

A lazy directory is made here by hand, without PostgreSQL's control file, so that a test says
exactly which blocks its files have. Everything that is started is ended by the context manager that
started it, also when the test fails.
"""

import asyncio
import contextlib
import importlib.util
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import uvloop

from sqlnode.broker import Broker
from sqlnode.datadir import ComputeDir
from sqlnode.directory_source import DirectorySource
from sqlnode.page_source import PageSource
from sqlnode.pagefault.block_map import (
    BLOCK_BYTES,
    BlockMap,
    MapOptions,
    create_block_map,
)

ROOT: Final = Path(__file__).parents[2]
PAGEFAULT_DIR: Final = ROOT / "sqlnode" / "pagefault"
ANSWER_S: Final = 60.0  # far more than any call here waits; a hang is a failure, not a wait
SANITIZE: Final = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"]


# Builds.


@dataclass(frozen=True, slots=True)
class Build:
    """A driver and how the library gets into it."""

    name: str
    driver: Path
    library: Path | None  # None: linked into the driver

    def environment(self) -> dict[str, str]:
        """What makes a driver of this build run over a map, but for the map's path."""
        if self.library is None:
            return {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:verify_asan_link_order=0"}
        return {"LD_PRELOAD": str(self.library)}


def _hatch_build() -> Any:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_driver(target: Path, sources: Sequence[Path] = (), flags: Sequence[str] = ()) -> Path:
    """The driver, with the project's warnings; with the library's sources linked in if given."""
    hook = _hatch_build()
    flags = [*hook.C_DIALECT, *hook.C_WARNINGS, *hook.C_PROTOTYPES, *flags]
    inputs = [str(path) for path in (Path(__file__).with_name("driver.c"), *sources)]
    command = ["cc", *flags, "-o", str(target), *inputs, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return target


def compile_library(target: Path, sources: Path = PAGEFAULT_DIR, *, optimized: bool = True) -> Path:
    """The library as the wheel's hook builds it, or in less time."""
    inputs = sorted(str(path) for path in sources.glob("*.c"))
    flags = [*_hatch_build().C_FLAGS, *([] if optimized else ["-O0"])]
    command = ["cc", *flags, "-o", str(target), *inputs, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return target


# Contents.


def pattern(size: int, seed: int) -> bytes:
    """The bytes that the driver writes for a seed (driver.c has the same)."""
    return bytes((i * 7 + (i >> 8) * 13 + seed * 31) % 255 + 1 for i in range(size))


def pages(count: int, *, seed: int = 0) -> bytes:
    """Blocks that differ from one another; made fast, because some tests want thousands."""
    block = pattern(BLOCK_BYTES, seed)
    return b"".join(
        (seed * 1_000_000 + number).to_bytes(8, "little") + block[8:] for number in range(count)
    )


# Directories.


def write_tree(root: Path, files: Mapping[str, bytes]) -> None:
    """A plain directory with these files."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def make_lazy(compute: ComputeDir, blocks: Mapping[str, int], **options: Any) -> ComputeDir:
    """A data directory whose files have so many blocks, all MISSING, and its map."""
    for directory in ("base/5", "global", "pg_xact", "pg_tblspc"):
        (compute.data / directory).mkdir(parents=True, exist_ok=True)
    chosen: dict[str, Any] = {"slots_max": 1024, "busy_wait_ms": 200} | options
    create_block_map(
        compute.block_map,
        MapOptions(
            data_dir=compute.data, socket_path=compute.socket, system_identifier=1, **chosen
        ),
    )
    with BlockMap(compute.block_map) as block_map:
        for path, count in blocks.items():
            block_map.add_file(path, missing_blocks=count)
            (compute.data / path).parent.mkdir(parents=True, exist_ok=True)
            with (compute.data / path).open("wb") as file:
                file.truncate(count * BLOCK_BYTES)
    return compute


def counters(compute: ComputeDir) -> dict[str, int]:
    """The statistics page."""
    with BlockMap(compute.block_map) as block_map:
        return block_map.counters()


# Drivers.


@dataclass(frozen=True, slots=True)
class Reply:
    """One line of a driver."""

    result: int
    error: str
    data: str

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.result >= 0


class DriverError(AssertionError):
    """The driver died or hung."""


class Driver:
    """A process that carries out calls; the lines it prints are its replies."""

    def __init__(
        self,
        program: Path,
        cwd: Path,
        environment: Mapping[str, str],
        *,
        log: Path,
        arguments: Sequence[str] = (),
    ) -> None:
        self.log = log
        self._buffer = b""
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [program, *arguments],
                cwd=cwd,
                env={"PATH": os.environ["PATH"], **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Kill and reap."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def send(self, *lines: str) -> None:
        """Commands whose replies are read later."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: `receive` says how
            self.process.stdin.write("".join(line + "\n" for line in lines).encode())
            self.process.stdin.flush()

    def receive(self) -> Reply:
        """The next reply."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            if not select.select([self.process.stdout], [], [], ANSWER_S)[0]:
                raise DriverError("the driver hangs")
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                code = self.process.wait()
                raise DriverError(f"the driver died with {code}: {self.said()}")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        result, error, data = line.decode().split(" ", 2)
        return Reply(int(result), error, data)

    def run(self, line: str) -> Reply:
        """One command, and its reply."""
        self.send(line)
        return self.receive()

    def good(self, line: str) -> Reply:
        """A command that has to succeed."""
        reply = self.run(line)
        assert reply.ok, f"{line}: {reply}; {self.said()}"
        return reply

    def said(self) -> str:
        """Its standard error so far."""
        return self.log.read_text(errors="replace")


# Brokers.


class BrokerThread:
    """A broker on an event loop of its own, as `with`."""

    def __init__(
        self, compute: ComputeDir, source: PageSource, *, verify_checksums: bool = False
    ) -> None:
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._broker: Broker | None = None
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arguments = (compute, source, verify_checksums)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def broker(self) -> Broker:
        """To look at; it belongs to the other thread."""
        assert self._broker is not None
        return self._broker

    def call(self, work: Any) -> Any:
        """Run a coroutine on the broker's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_S)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(ANSWER_S)
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(ANSWER_S)
        assert not self._thread.is_alive(), "the broker does not stop"

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as failure:  # noqa: BLE001  # handed over to the test's thread
            self._failure = failure
            self._started.set()

    async def _serve(self) -> None:
        compute, source, verify_checksums = self._arguments
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            async with Broker(compute, source, verify_checksums=verify_checksums) as broker:
                self._broker = broker
                self._started.set()
                await self._stop.wait()
        finally:
            await source.close()


@contextlib.contextmanager
def broker_process(
    compute: ComputeDir, source: Path, *, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A broker that can be killed and stopped."""
    script = Path(__file__).with_name("broker_process.py")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, str(script), str(compute.root), str(source)],
            stdout=subprocess.PIPE,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], ANSWER_S)
        line = process.stdout.readline() if ready else b"(nothing)"
        assert line == b"ready\n", f"the broker did not start: {line!r} {log.read_text()}"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@dataclass(frozen=True, slots=True)
class Place:
    """A test's directories, and the build that its drivers are of."""

    build: Build
    root: Path

    @property
    def compute(self) -> ComputeDir:
        """The lazy side."""
        return ComputeDir(self.root / "run")

    @property
    def source(self) -> Path:
        """The plain directory that pages come from."""
        return self.root / "source"

    def lazy(self, files: Mapping[str, bytes], **options: Any) -> None:
        """A source with these files, and a lazy directory of it."""
        write_tree(self.source, files)
        sizes = {path: len(content) // BLOCK_BYTES for path, content in files.items()}
        make_lazy(self.compute, sizes, **options)

    def serve(
        self, source: PageSource | None = None, *, verify_checksums: bool = False
    ) -> BrokerThread:
        """A broker for it."""
        source = source or DirectorySource(self.source)
        return BrokerThread(self.compute, source, verify_checksums=verify_checksums)

    def driver(
        self, *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Driver:
        """A driver over the lazy directory."""
        chosen = {
            **self.build.environment(),
            "SEAWALL_BLOCK_MAP": str(self.compute.block_map),
            **(environment or {}),
        }
        return Driver(
            self.build.driver, cwd or self.compute.data, chosen, log=self.root / "driver.log"
        )


def eventually(happened: Callable[[], bool]) -> None:
    """Look until it has happened; for what other processes do at their own time."""
    deadline = time.monotonic() + ANSWER_S
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.002)
