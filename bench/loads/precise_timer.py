"""Waiting until a moment to the microsecond, on any event loop of Linux.

The timers of uvloop are of whole milliseconds, and those of asyncio are rounded up to them. An open
loop would add that to each of its latencies. A timerfd is a descriptor that becomes readable on
time; Python has it from 3.13 on, so until then libc is called by its name.
"""

import asyncio
import ctypes
import heapq
import os
import time
from typing import Final

_CLOCK_MONOTONIC: Final = 1  # timerfd_create(2), the clock of time.monotonic()
_ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC have their values


class _Times(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = (
        ("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long), ("value_ns", ctypes.c_long),
    )  # fmt: skip


class PreciseTimer:
    """A timer of an event loop. Invariant: it is set for the first of those who wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed: allow more open files")
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        loop.add_reader(self._fd, self._fire)

    async def wait_until(self, when_s: float) -> None:
        """Sleep until time.monotonic() is that; not at all if it is past."""
        if when_s <= time.monotonic():
            return
        future = self._loop.create_future()
        self._count += 1  # futures have no order, and moments may be the same
        heapq.heappush(self._waiting, (when_s, self._count, future))
        if self._waiting[0][2] is future:
            self._set(when_s)
        await future

    def close(self) -> None:
        """Nobody waits any more."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _fire(self) -> None:
        os.read(self._fd, 8)
        now_s = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now_s:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
        if self._waiting:
            self._set(self._waiting[0][0])

    def _set(self, when_s: float) -> None:
        seconds = int(when_s)
        # At least a nanosecond: nothing at all would mean never.
        times = _Times(0, 0, seconds, max(1, int((when_s - seconds) * 1e9) + 1))
        if self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(times), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed: this is a bug, report it")
