"""A timer that wakes on time: never early, in order, on both event loops.

Out of scope: how late it is, which is the machine's affair.
"""

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from bench.loads.precise_timer import PreciseTimer

LOOPS = [uvloop.new_event_loop, asyncio.new_event_loop]


@pytest.mark.parametrize("factory", LOOPS, ids=["uvloop", "asyncio"])
def test_nobody_is_woken_early_and_all_in_order(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    woken: list[int] = []

    async def sleeper(timer: PreciseTimer, number: int, when_s: float) -> float:
        await timer.wait_until(when_s)
        woken.append(number)
        return time.monotonic() - when_s

    async def run() -> list[float]:
        timer = PreciseTimer(asyncio.get_running_loop())
        try:
            begin_s = time.monotonic()
            # Not in the order in which they begin to wait, and two for the same moment.
            times = {3: 0.03, 1: 0.0102, 2: 0.0103, 4: 0.03, 0: -1.0}
            return await asyncio.gather(
                *(sleeper(timer, number, begin_s + at_s) for number, at_s in times.items())
            )
        finally:
            timer.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        lateness_s = runner.run(run())
    assert all(late_s >= 0 for late_s in lateness_s)
    assert woken == [0, 1, 2, 3, 4]


def test_one_that_is_cancelled_keeps_nobody_else_from_waking() -> None:
    async def run() -> None:
        timer = PreciseTimer(asyncio.get_running_loop())
        try:
            now_s = time.monotonic()
            first = asyncio.create_task(timer.wait_until(now_s + 0.01))
            second = asyncio.create_task(timer.wait_until(now_s + 0.02))
            await asyncio.sleep(0)
            first.cancel()
            await second
            assert first.cancelled()
        finally:
            timer.close()

    asyncio.run(run())
