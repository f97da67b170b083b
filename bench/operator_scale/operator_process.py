"""The operator as it is deployed, and what it uses: `python -P -m kube_operator`, its settings in
the environment, as the chart gives them."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from bench.failover.footprint import pss_mb
from bench.node_process import node_environment
from bench.storage.processes import process_cpu_s

NAMESPACE: Final = "seawall"
STOP_S: Final = 30.0
QUOTED_BYTES: Final = 3_000


class OperatorError(Exception):
    """The operator did not run as it should; the text quotes its log."""


class Used(NamedTuple):
    """What the process has used so far, and uses."""

    at_s: float
    cpu_s: float
    memory_mb: float
    connections: int


class OperatorProcess:
    """Runs while it is a context. `command`: what runs it, for a profiler in between."""

    def __init__(self, kubeconfig: Path, log: Path, command: tuple[str, ...] = ()) -> None:
        self._kubeconfig, self._log = kubeconfig, log
        self._command = command or (sys.executable, "-P", "-m", "kube_operator")
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=node_environment(os.environ) | _settings(self._kubeconfig),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    def used(self) -> Used:
        """Return what it has used so far."""
        process = self._process
        assert process is not None
        if process.returncode is not None:
            raise OperatorError(f"the operator has ended; its log ends: {self.last_lines()}")
        pid = process.pid
        now_s = asyncio.get_running_loop().time()
        connections = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return Used(now_s, process_cpu_s(pid), pss_mb(pid), connections)

    def last_lines(self) -> str:
        """Return the end of its log."""
        return self._log.read_bytes()[-QUOTED_BYTES:].decode("utf-8", "replace")


def _settings(kubeconfig: Path) -> dict[str, str]:
    settings = {
        "IDENTITY": "seawall-operator-bench",
        "KUBECONFIG": str(kubeconfig),
        "RUNTIME_LEASE_NAMESPACE": NAMESPACE,
        "RUNTIME_WATCH_NODES": "true",
        "LOGS_LEVEL": "info",
        "IMAGE_SEAWALL": "seawall/log:bench",
        "IMAGE_COMPUTE": '{"17": "seawall/compute:bench-pg17"}',
    }
    return {f"SEAWALL_OPERATOR_{name}": value for name, value in settings.items()}
