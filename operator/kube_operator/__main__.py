"""The operator as a process.

    python -P -m kube_operator

Settings are variables SEAWALL_OPERATOR_*, see settings.py. Ends on SIGTERM or SIGINT; another one
takes over, and clusters go on without any.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from fabric.logs import configure
from fabric.metrics import MetricsServer
from fabric.settings import SettingsError, load

from .lightkube_port import LightkubePort, load_config
from .reconciler import ClusterReconciler
from .runtime import Runtime
from .settings import OperatorSettings

PREFIX = "SEAWALL_OPERATOR"

log = structlog.get_logger()


def main() -> int:
    """Run until told to stop; 1 and one sentence when that is not possible."""
    try:
        settings = load(OperatorSettings, None, os.environ, PREFIX)
        configure(settings.logs, component="operator", stream=sys.stderr)
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it has a line for each request
        uvloop.run(_run(settings))
    except (SettingsError, OSError, ValueError) as refusal:
        print(f"operator: {refusal}", file=sys.stderr)  # noqa: T201  # before there is a log
        return 1
    return 0


async def _run(settings: OperatorSettings) -> None:
    path = None if settings.kubeconfig is None else Path(settings.kubeconfig)
    port = LightkubePort(load_config(path))
    runtime = Runtime(port, settings.runtime, identity=settings.identity)
    metrics = MetricsServer(
        runtime.metrics.registry, problem=runtime.problem, settings=settings.metrics
    )
    reconciler = ClusterReconciler(runtime.api, runtime.events, settings, wake=runtime.wake)
    await metrics.start()
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    log.info("operator started", identity=settings.identity)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await runtime.run(reconciler)
    finally:
        await reconciler.close()
        await metrics.close()
        await port.close()
    log.info("operator stopped")


if __name__ == "__main__":
    sys.exit(main())
