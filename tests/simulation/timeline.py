"""Virtual time: a queue of calls, each at its microsecond. Time passes only from call to call.

Calls at the same microsecond run in the order in which they were made, so a run is a function of
its seed alone.
"""

import heapq
from collections.abc import Callable
from typing import Final

MILLISECOND_US: Final = 1_000
SECOND_US: Final = 1_000_000

_Call = tuple[int, int, Callable[..., None], tuple[object, ...]]


class Timeline:
    """The clock of the world. Nodes have clocks of their own, which run faster or slower."""

    def __init__(self) -> None:
        self.now_us = 0
        self.events = 0
        self._made = 0
        self._calls: list[_Call] = []

    def after(self, delay_us: int, function: Callable[..., None], *arguments: object) -> None:
        """Call `function(*arguments)` when `delay_us` have passed. Nothing is ever taken back: a
        call that may be out of date by then must be able to tell."""
        self._made += 1
        heapq.heappush(self._calls, (self.now_us + delay_us, self._made, function, arguments))

    def run_until(self, end_us: int) -> None:
        """Run every call up to `end_us`, and those that they make."""
        calls = self._calls
        while calls and calls[0][0] <= end_us:
            self.now_us, _, function, arguments = heapq.heappop(calls)
            self.events += 1
            function(*arguments)
        self.now_us = end_us
