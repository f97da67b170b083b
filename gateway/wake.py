"""Runs the operator's command that starts a compute for a branch that sleeps.

    waker.follow(view)                     whether there is a compute
    waker.wake(settings)                   whenever somebody waits: it is run when it is time
    await waker.until_awake(settings)      the same, and wait for the compute

One run at a time, of all workers together, and at most one in PAUSE_S: the worker that runs it has
a lock on a file in `run_dir`, which the kernel takes away with the worker. A run is ended when it
takes longer than clients wait, with all that is still in its process group. What a command that
ended by itself leaves running is left alone: it may well be the compute.

What it prints as output is dropped, its errors go where our log goes: we read neither, so that
nobody has to wait for it or for its children.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from .client import LoginRefusedError
from .settings import GatewaySettings
from .topology import ComputesView

PAUSE_S: Final = 5.0
LEAVE_S: Final = 2.0  # between being asked to end and being killed

log = structlog.get_logger()


class Waker:
    """Runs the command for one worker."""

    def __init__(self, run_dir: str) -> None:
        self._lock = Path(run_dir) / "wake.lock"
        self._run: asyncio.Task[None] | None = None
        self._is_awake = asyncio.Event()
        self._waiting = 0

    def follow(self, view: ComputesView) -> None:
        """Take a new view."""
        if view.is_asleep:
            self._is_awake.clear()
        else:
            self._is_awake.set()

    def tick(self, settings: GatewaySettings) -> None:
        """Try again, if somebody waits and the last attempt has not helped."""
        if self._waiting and not self._is_awake.is_set():
            self.wake(settings)

    def wake(self, settings: GatewaySettings) -> None:
        """Have the command run, unless it was a moment ago."""
        command = settings.wake_command
        if command and (self._run is None or self._run.done()):
            self._run = asyncio.create_task(self._wake(command, settings.limits.wake_ms / 1000))

    async def until_awake(self, settings: GatewaySettings) -> None:
        """Have the branch woken, and wait for that; LoginRefusedError: it took too long."""
        limit_s = settings.limits.wake_ms / 1000
        self._waiting += 1
        self.wake(settings)
        try:
            async with asyncio.timeout(limit_s):
                await self._is_awake.wait()
        except TimeoutError:
            raise LoginRefusedError(
                "57P03", f"no compute came up within {limit_s:g} s", "Try again later."
            ) from None
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End a run."""
        if self._run is not None:
            self._run.cancel()
            await asyncio.wait([self._run])

    async def _wake(self, command: tuple[str, ...], limit_s: float) -> None:
        with _locked(self._lock) as is_ours:
            begun_s = asyncio.get_running_loop().time()
            if is_ours:
                await _run(command, limit_s)
            took_s = asyncio.get_running_loop().time() - begun_s
            await asyncio.sleep(PAUSE_S - took_s)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Have a lock as long as the block lasts; whether we have it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


async def _run(command: tuple[str, ...], limit_s: float) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=DEVNULL, start_new_session=True
        )
    except OSError as error:
        log.error("the wake command cannot be run", reason=str(error))  # noqa: TRY400  # says all
        return
    try:
        async with asyncio.timeout(limit_s):
            status = await process.wait()
    except TimeoutError:
        log.warning("the wake command took too long and was ended", limit_s=limit_s)
    else:
        if status:
            log.warning("the wake command failed", status=status)
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    """End a command and its process group, unless it has ended by itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)  # a group of its own: it leads a session
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await process.wait()
