"""A gateway as a process, or several that share its port.

    python -P -m gateway --config GATEWAY.toml

Prints one line of JSON on standard output once it listens, and its log on standard error. SIGHUP:
reads its settings again. SIGTERM, SIGINT: takes no more clients, lets transactions end, and ends.

With `workers` above 1 this process only looks after the workers: one that dies is started again.
"""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog
import uvloop

from fabric.logs import configure
from fabric.settings import SettingsError, load
from fabric.tls import IdentityError

from .settings import GatewaySettings
from .worker import Worker

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
RESTART_S = 1.0  # a worker that dies at once must not be all that we do
REFUSALS = (IdentityError, OSError, SettingsError, ValueError)

log = structlog.get_logger()


def main() -> int:
    """Run until told to stop; 1 and one sentence when that is not possible."""
    parser = argparse.ArgumentParser(prog="gateway", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the settings")
    arguments = parser.parse_args()
    try:
        settings = load(GatewaySettings, arguments.config, os.environ)
        configure(settings.logs, component="gateway", stream=sys.stderr)
        _raise_file_limit()
        if settings.workers > 1:
            return _Workers(settings, arguments.config).run()
        return uvloop.run(_serve(settings, arguments.config, index=0, ready=_say_ready))
    except REFUSALS as refusal:
        print(f"gateway: {refusal}", file=sys.stderr)  # noqa: T201  # before there is a log
        return 1


async def _serve(
    settings: GatewaySettings, config: Path, *, index: int, ready: Callable[[GatewaySettings], None]
) -> int:
    """Be a worker until told to stop."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    worker = Worker(settings, index=index)
    loop.add_signal_handler(signal.SIGHUP, _reload, worker, config)
    await worker.start()
    # What lives as long as the process is not looked at again and again.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    ready(settings)
    await stopped.wait()
    await worker.stop()
    return 0


def _reload(worker: Worker, config: Path) -> None:
    try:
        worker.reload(load(GatewaySettings, config, os.environ))
    except REFUSALS as refusal:
        log.warning("the settings cannot be read: the old ones stay", reason=str(refusal))
        return
    log.info("the settings were read again")


def _say_ready(settings: GatewaySettings) -> None:
    ready = {"event": "gateway ready", "listen": str(settings.listen_address)}
    print(json.dumps(ready), flush=True)  # noqa: T201  # for whoever started us


def _raise_file_limit() -> None:
    """Have as many files as we may: each client is one, and each link."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Workers:
    """Starts workers, and starts those again that die."""

    def __init__(self, settings: GatewaySettings, config: Path) -> None:
        self._settings = settings
        self._config = config
        self._pids: dict[int, int] = {}  # the index of each worker by its process
        self._is_stopping = False

    def run(self) -> int:
        """Look after the workers until told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._pass_on(signal.SIGHUP))
        heard, said = os.pipe()
        gc.freeze()
        for index in range(self._settings.workers):
            self._start(index, said)
        for _ in range(self._settings.workers):
            os.read(heard, 1)
        _say_ready(self._settings)
        while self._pids:
            self._take_end(said)
        return 0

    def _start(self, index: int, said: int) -> None:
        pid = os.fork()
        if pid:
            self._pids[pid] = index
            return
        status = 1

        def told(_: GatewaySettings) -> None:
            os.write(said, b".")

        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            _end_with_parent()
            uvloop.run(_serve(self._settings, self._config, index=index, ready=told))
            status = 0
        except REFUSALS as refusal:
            log.error("a worker cannot start", reason=str(refusal))  # noqa: TRY400  # one sentence
        finally:
            os.write(said, b".")  # nobody waits for a worker that has failed
            sys.stderr.flush()
            os._exit(status)

    def _take_end(self, said: int) -> None:
        with contextlib.suppress(InterruptedError):
            pid, status = os.wait()
            index = self._pids.pop(pid, None)
            if index is not None and not self._is_stopping:
                log.error("a worker has ended", index=index, status=status)
                time.sleep(RESTART_S)
                self._start(index, said)

    def _stop(self) -> None:
        self._is_stopping = True
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        for pid in self._pids:
            os.kill(pid, number)


def _end_with_parent() -> None:
    """Have the kernel end this worker when the process that looks after it is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
