"""A gateway as a process, or several that share its port.

    python -P -m gateway --config GATEWAY.toml

Prints one line of JSON on standard output once it listens, and its log on standard error. SIGHUP:
reads its settings again. SIGTERM, SIGINT: takes no more clients, lets transactions end, and ends.

With `workers` above 1 this process only looks after the workers: one that dies is started again, in
RESTART_S and then ever more slowly if it does not last. Only if one cannot start at the beginning
the gateway ends: its settings are wrong. When this process is gone the kernel ends the workers.
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
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
import uvloop

from fabric.logs import configure
from fabric.settings import SettingsError, load
from fabric.tls import IdentityError

from .metrics import Metrics
from .settings import WORKERS_MAX, GatewaySettings
from .worker import Worker

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
RESTART_S = 0.2
RESTART_S_MAX = 10.0  # a worker that dies again and again must not be all that we do
LASTS_S = 60.0  # who lives as long has nothing to do with how the last one died
LOOK_S = 0.02  # while workers start
HOUR_S = 3600.0
READY, FAILED = b".", b"!"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
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
    metrics = None
    if settings.metrics is not None and index == 0:
        metrics = Metrics(worker, settings.metrics)
        await metrics.start()
    # What lives as long as the process is not looked at again and again.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    ready(settings)
    await stopped.wait()
    await worker.stop()
    if metrics is not None:
        await metrics.close()
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


@dataclass(slots=True)
class _Place:
    """Where a worker is, or is going to be."""

    index: int
    due_s: float = 0.0  # when one is to be started
    started_s: float = 0.0
    pause_s: float = 0.0  # before the last one was started


class _Workers:
    """Starts workers, and starts those again that die.

    Signals are blocked and waited for, so that none comes between a fork and its being noted.
    """

    def __init__(self, settings: GatewaySettings, config: Path) -> None:
        self._settings = settings
        self._config = config
        self._running: dict[int, _Place] = {}  # by process
        self._vacant = [_Place(index) for index in range(settings.workers)]
        self._is_stopping = False
        self._has_failed = False
        self._heard, self._said = os.pipe()
        os.set_blocking(self._heard, False)

    def run(self) -> int:
        """Look after the workers until told to stop; 1 if they could not start."""
        self._unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        gc.freeze()
        starting = self._settings.workers
        while self._running or not self._is_stopping:
            self._fill_vacant()
            found = signal.sigtimedwait(SIGNALS, LOOK_S if starting else self._pause_s())
            if found is not None:
                self._take_signal(found.si_signo)
            said = self._hear()
            if starting and FAILED in said:
                self._has_failed = True
                self._stop()
            elif starting and said and not self._is_stopping:
                starting = max(0, starting - len(said))
                if not starting:
                    _say_ready(self._settings)
        return int(self._has_failed)

    def _hear(self) -> bytes:
        """Return what workers have said: that they listen, or that they cannot."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._heard, WORKERS_MAX)
        return b""

    def _take_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._take_ends()
        elif number == signal.SIGHUP:
            self._settings = self._settings_again()
            self._pass_on(signal.SIGHUP)
        else:
            self._stop()

    def _settings_again(self) -> GatewaySettings:
        """Return what workers are told that are started from now on; they log what is wrong."""
        try:
            new = load(GatewaySettings, self._config, os.environ)
        except REFUSALS:
            return self._settings
        old = self._settings
        return replace(new, listen=old.listen, run_dir=old.run_dir, workers=old.workers)

    def _take_ends(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                place = self._running.pop(pid, None)
                if place is not None and not self._is_stopping:
                    log.error("a worker has ended", index=place.index, status=status)
                    self._vacate(place)

    def _vacate(self, place: _Place) -> None:
        now_s = time.monotonic()
        has_lasted = now_s - place.started_s > LASTS_S
        place.pause_s = RESTART_S if has_lasted else max(RESTART_S, 2 * place.pause_s)
        place.pause_s = min(place.pause_s, RESTART_S_MAX)
        place.due_s = now_s + place.pause_s
        self._vacant.append(place)

    def _fill_vacant(self) -> None:
        now_s = time.monotonic()
        due = [place for place in self._vacant if place.due_s <= now_s]
        for place in due if not self._is_stopping else ():
            self._vacant.remove(place)
            place.started_s = now_s
            self._running[self._start(place.index)] = place

    def _pause_s(self) -> float:
        """Return how long nothing has to be done but what signals tell."""
        if self._is_stopping or not self._vacant:
            return HOUR_S
        return max(0.0, min(place.due_s for place in self._vacant) - time.monotonic())

    def _start(self, index: int) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            _end_with_parent(parent)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is somebody to take it
            signal.pthread_sigmask(signal.SIG_SETMASK, self._unblocked)
            uvloop.run(_serve(self._settings, self._config, index=index, ready=self._tell_ready))
            status = 0
        except REFUSALS as refusal:
            log.error("a worker cannot start", reason=str(refusal))  # noqa: TRY400  # one sentence
            os.write(self._said, FAILED)
        except Exception:  # a bug of ours: nobody else could tell
            log.exception("a worker has failed")
            os.write(self._said, FAILED)
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _tell_ready(self, _: GatewaySettings) -> None:
        os.write(self._said, READY)

    def _stop(self) -> None:
        self._is_stopping = True
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        for pid in self._running:
            os.kill(pid, number)


def _end_with_parent(parent: int) -> None:
    """Have the kernel end this worker when the process that looks after it is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it went before we said so


if __name__ == "__main__":
    sys.exit(main())
