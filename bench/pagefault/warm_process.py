"""The parent's side of bench.pagefault.warm_broker: a broker process that waits for its orders."""

import contextlib
import json
import select
import subprocess
import sys
import time
from typing import Final, Self

from sqlnode.lazy_compute import ComputeSpec

READY_S: Final = 60.0
STOP_S: Final = 10.0


class WarmBrokerError(Exception):
    """It did not start or serve; its log says why."""


class WarmBroker:
    """Started and idle on entry, ended on exit."""

    def __init__(self, spec: ComputeSpec) -> None:
        self._spec = spec
        self._process: subprocess.Popen[str] | None = None
        self.interpreter_ms = 0.0  # from nothing to ready for orders

    def __enter__(self) -> Self:
        run_dir = self._spec.run_dir
        settings = run_dir / "broker.toml"
        values = {
            "run_dir": str(run_dir),
            "source_dir": str(self._spec.source_dir),
            "server_version": f"postgres (PostgreSQL) {self._spec.binaries.version}",
        }
        settings.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))
        start_s = time.perf_counter()
        with (run_dir / "broker.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bench.pagefault.warm_broker", str(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self._await_import()
        except BaseException:
            self.__exit__()
            raise
        self.interpreter_ms = (time.perf_counter() - start_s) * 1000
        return self

    def serve(self) -> dict[str, float]:
        """Have it build the data directory and answer faults; milliseconds by phase."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("serve\n")
        self._process.stdin.flush()
        try:
            phases: dict[str, float] = json.loads(self._line())
        except json.JSONDecodeError:
            raise self._failure() from None
        return phases

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # it ends at the end of its input
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def _await_import(self) -> None:
        if self._line() != "imported":
            raise self._failure()

    def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], READY_S)
        return self._process.stdout.readline().strip() if readable else ""

    def _failure(self) -> WarmBrokerError:
        log = self._spec.run_dir / "broker.log"
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        return WarmBrokerError(f"the warm broker of {self._spec.run_dir} failed: {last}")
