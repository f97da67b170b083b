"""An event loop in a thread of its own, for code that blocks and has clients to keep alive."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for a thread that waits for them."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name)
        self._thread.start()

    def run(self, what: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Return what a coroutine returns."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout_s)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def loop_thread(name: str) -> Iterator[LoopThread]:
    """A thread that ends."""
    thread = LoopThread(name)
    try:
        yield thread
    finally:
        thread.close()
