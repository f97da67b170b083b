"""The threads that write: what blocks on a disk happens here, never in the event loop.

A job is a plain function; when it has run, `done` is called in the event loop with its result or
its error. Jobs of one group are never under way at the same time, because a group submits the next
one when the last is done; jobs of several groups share the threads.

A `queue.SimpleQueue` and `call_soon_threadsafe` cost half of what an executor's futures do, and
there is one of each for every commit.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from .sync_pace import SyncPace

T = TypeVar("T")

THREADS_DEFAULT: Final = 4  # as many groups as wait for their disk at one time, on one disk


class DiskWriter:
    """A few threads, started at once, ended by `close`."""

    def __init__(self, *, threads: int = THREADS_DEFAULT, fast_us_max: int = 0) -> None:
        self.pace = SyncPace(fast_us_max=fast_us_max)
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"disk-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run a job in a thread, then `done(result, error)` in the event loop."""

        def run() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001  # handed to who waits for the job
                failure = error
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(done, result, failure)

        self._jobs.put(run)

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job in a thread and return its result."""
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: T | None, failure: BaseException | None) -> None:
            if future.done():
                return
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # there is no failure: it is the result

        self.submit(job, done)
        return await future

    def close(self) -> None:
        """Let the jobs that were submitted finish, and end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
