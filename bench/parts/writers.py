"""Writers whose acknowledgements are timed: what an application sees of a failover.

    with writing(target.front, clients=8, rate=200, seed=1) as writers:
        writers.wait_for(100)                  # acknowledged from now on
        target.strike(blow); struck_s = time.monotonic()
        writers.wait_until_steady(struck_s)
        writers.longest_gap(after_s=struck_s)

The load is an open one: transactions are due at moments that nobody's slowness moves, so after a
gap the writers have something to make up for, as users would. Each transaction inserts one row with
a number of its own, so what was acknowledged and is not there can be counted.

A writer knows one address and nothing else. It gives a transaction up after a second and a half,
which is how it notices a server that hangs, and connects again; it never repeats a transaction.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from bench.loads.histogram import Histogram
from bench.loads.open_loop import Schedule
from bench.loop_thread import LoopThread, loop_thread
from bench.results.record import Point
from bench.targets.target import Address, TargetError

PATIENCE_SECONDS: Final = 1.5  # with one transaction, which takes milliseconds
CONNECT_SECONDS: Final = 1.0  # with a new connection, which takes 20 ms
PAUSE_SECONDS: Final = 0.05  # between two tries of one writer
LOOK_SECONDS: Final = 0.05
STEADY_SHARE: Final = 0.5  # of the rate, over a second: writes flow again
TABLE: Final = "bench_writes"
INSERT: Final = f"insert into {TABLE} values ($1, $2)"  # noqa: S608  # our own name
CREATE: Final = f"create table if not exists {TABLE} (writer int, n int, primary key (writer, n))"

# What a server, a proxy or the network says to a statement, and what ends a wait for it.
ERRORS: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError,
                 asyncpg.InternalClientError)  # fmt: skip


@dataclass(slots=True)
class Journal:
    """What the writers were told. Written by one thread; another one reads it."""

    acknowledged: list[tuple[float, int, int]] = field(default_factory=list)  # at, writer, n
    failed: list[tuple[float, str]] = field(default_factory=list)  # at, why
    latencies: Histogram = field(default_factory=Histogram)

    def since(self, at_s: float) -> list[float]:
        """When something was acknowledged from a moment on."""
        found = []
        for one_s, _, _ in reversed(self.acknowledged):  # in the order of the answers
            if one_s < at_s:
                break
            found.append(one_s)
        return found[::-1]


@dataclass(slots=True)
class Writers:
    """Writers that are at work."""

    rate: float
    start_s: float
    journal: Journal
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def wait_for(self, count: int, *, deadline_seconds: float) -> None:
        """Until so many more transactions were acknowledged."""
        since_s = time.monotonic()
        while self._are_alive() and len(self.journal.since(since_s)) < count:
            if time.monotonic() > since_s + deadline_seconds:
                raise TargetError(
                    f"{count} writes were not acknowledged in {deadline_seconds:g} s"
                    f"{self.last_failure()}"
                )
            time.sleep(LOOK_SECONDS)

    def wait_until_steady(
        self, struck_s: float, *, least_seconds: float, deadline_seconds: float
    ) -> bool:
        """Until writes flow, some time after a blow at the least; whether they do."""
        while self._are_alive() and time.monotonic() < struck_s + deadline_seconds:
            now_s = time.monotonic()
            is_steady = len(self.journal.since(now_s - 1)) >= STEADY_SHARE * self.rate
            if now_s > struck_s + least_seconds and is_steady:
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def longest_gap(self, *, after_s: float) -> float:
        """Between two acknowledgements of which the later comes after a moment, or is missing."""
        times = [*(at_s for at_s, _, _ in self.journal.acknowledged), time.monotonic()]
        return max(
            (later - earlier for earlier, later in itertools.pairwise(times) if later > after_s),
            default=0.0,
        )

    def failed_after(self, at_s: float) -> int:
        """How many transactions were not acknowledged."""
        return sum(one_s >= at_s for one_s, _ in self.journal.failed)

    def last_failure(self) -> str:
        """What the last one was told that failed, to be put behind a sentence."""
        return f"; last error: {self.journal.failed[-1][1]}" if self.journal.failed else ""

    def series(self) -> list[Point]:
        """Seconds since the writers began, with what was acknowledged and what failed."""
        ends = [at_s for at_s, _, _ in self.journal.acknowledged]
        failures = [at_s for at_s, _ in self.journal.failed]
        length = int(max([*ends, *failures], default=self.start_s) - self.start_s) + 1
        counts, errors = [0] * length, [0] * length
        for times, into in ((ends, counts), (failures, errors)):
            for at_s in times:
                into[int(at_s - self.start_s)] += 1
        return [Point(n, bad, 0.0) for n, bad in zip(counts, errors, strict=True)]

    def _are_alive(self) -> bool:
        """They end when they are told to; anything else is a bug, raised where they are ended."""
        return not any(task.done() for task in self.tasks)


@contextlib.contextmanager
def writing(address: Address, *, clients: int, rate: float, seed: int) -> Iterator[Writers]:
    """Writers on new rows of the table, which must be there and empty; at the end they are gone."""
    with loop_thread("bench-writers") as thread:
        writers = Writers(rate, time.monotonic(), Journal())
        schedule = Schedule(rate=rate, seed=seed)
        thread.run(_begin(writers, address, schedule, clients))
        try:
            yield writers
        finally:
            _end(thread, writers.tasks)


def lost_rows(address: Address, journal: Journal) -> int:
    """How many acknowledged transactions are not there."""
    rows = asyncio.run(_rows(address))
    return len({(writer, n) for _, writer, n in journal.acknowledged} - rows)


async def make_table(address: Address) -> None:
    """The table, empty."""
    connection = await _connect(address, seconds=30)
    try:
        await connection.execute(CREATE)
        await connection.execute(f"truncate {TABLE}")
    finally:
        await connection.close()


async def _rows(address: Address) -> set[tuple[int, int]]:
    connection = await _connect(address, seconds=30)
    try:
        return {(row[0], row[1]) for row in await connection.fetch(f"table {TABLE}")}
    finally:
        await connection.close()


async def _begin(writers: Writers, address: Address, schedule: Schedule, clients: int) -> None:
    for number in range(clients):
        work = _Writer(number, address, schedule, writers.start_s, writers.journal)
        writers.tasks.append(asyncio.get_running_loop().create_task(work.run()))


def _end(thread: LoopThread, tasks: list[asyncio.Task[None]]) -> None:
    async def cancel() -> list[BaseException | None]:
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for ended in thread.run(cancel()):
        if isinstance(ended, Exception):  # none of ERRORS: a bug
            raise ended


async def _connect(address: Address, *, seconds: float) -> Any:
    return await asyncpg.connect(
        host=address.host, port=address.port, user=address.user, database=address.database,
        password=address.password or None, timeout=seconds, ssl=False,
    )  # fmt: skip


@dataclass(slots=True)
class _Writer:
    """One of them."""

    number: int
    address: Address
    schedule: Schedule  # one for all: whoever is free takes what is due next
    start_s: float
    journal: Journal
    connection: Any = None

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            for n in itertools.count(1):
                due_s = self.start_s + self.schedule.take()
                await asyncio.sleep(due_s - time.monotonic())
                if not await self._write(n, due_s):
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._drop()

    async def _write(self, n: int, due_s: float) -> bool:
        try:
            if self.connection is None:
                self.connection = await _connect(self.address, seconds=CONNECT_SECONDS)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.connection.execute(INSERT, self.number, n)
        except ERRORS as error:
            self.journal.failed.append((time.monotonic(), str(error) or type(error).__name__))
            self._drop()
            return False
        now_s = time.monotonic()
        self.journal.acknowledged.append((now_s, self.number, n))
        self.journal.latencies.record(int(1e6 * (now_s - due_s)))
        return True

    def _drop(self) -> None:
        if self.connection is not None:
            self.connection.terminate()
            self.connection = None
