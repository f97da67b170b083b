"""How far a replica is behind, in milliseconds: from an acknowledgement to the row on the replica.

One client inserts numbers on the primary at even times, another one asks the replica again and
again for the highest that it shows. Both are beside the load that is measured, and small. The
replica is asked every millisecond, so a lag is known to about two.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from bench.failover.elastic import lags_ms
from bench.faults.target import TargetError as NotSeenError
from bench.loop_thread import loop_thread
from bench.targets.target import Address, TargetError

INTERVAL_SECONDS: Final = 0.02  # between two numbers: 50 writes a second more than the load's
LOOK_SECONDS: Final = 0.001
CATCH_UP_SECONDS: Final = 60.0  # a replica that far behind is a finding, not a figure
CONNECT_SECONDS: Final = 10.0
TABLE: Final = "bench_lag"


@dataclass(slots=True)
class Probe:
    """What it saw."""

    acknowledged_s: list[float] = field(default_factory=list)  # of 1, 2, ...
    looks: list[tuple[float, int]] = field(default_factory=list)
    is_written: bool = False  # no acknowledgement comes any more
    lags_ms: list[float] = field(default_factory=list)  # when it is over


@contextlib.contextmanager
def probing(primary: Address, replica: Address) -> Iterator[Probe]:
    """Probe while a load runs; `lags_ms` is there when the context is left."""
    probe = Probe()
    with loop_thread("bench-lag") as thread:
        thread.run(_make_table(primary, replica))
        stop = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []
        thread.run(_begin(tasks, _write(primary, probe, stop), _look(replica, probe)), timeout_s=30)
        try:
            yield probe
        except BaseException:
            thread.run(_cancel(tasks))
            raise
        thread.run(_finish(tasks, stop))
    try:
        probe.lags_ms = lags_ms(probe.acknowledged_s, probe.looks)
    except NotSeenError as error:
        raise TargetError(f"the replica did not catch up: {error}") from error


async def _begin(tasks: list[asyncio.Task[None]], *work: Coroutine[Any, Any, None]) -> None:
    tasks += [asyncio.get_running_loop().create_task(one) for one in work]


async def _finish(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    stop.set()
    try:
        await asyncio.gather(*tasks)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise TargetError(f"the probe of the lag lost a server: {error}") from error
    finally:
        await _cancel(tasks)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _make_table(primary: Address, replica: Address) -> None:
    async with _connected(primary) as connection:
        await connection.execute(f"create table if not exists {TABLE} (n int primary key)")
        await connection.execute(f"truncate {TABLE}")
    end_s = time.monotonic() + CATCH_UP_SECONDS
    async with _connected(replica) as connection:
        while time.monotonic() < end_s:
            with contextlib.suppress(asyncpg.UndefinedTableError):
                if await connection.fetchval(f"select count(*) from {TABLE}") == 0:  # noqa: S608  # our name
                    return
            await asyncio.sleep(INTERVAL_SECONDS)
    raise TargetError("the replica does not show the probe's table: look whether it replays")


async def _write(primary: Address, probe: Probe, stop: asyncio.Event) -> None:
    async with _connected(primary) as connection:
        insert = await connection.prepare(f"insert into {TABLE} values ($1)")  # noqa: S608  # our name
        due_s = time.monotonic()
        while not stop.is_set():
            await insert.fetch(len(probe.acknowledged_s) + 1)
            probe.acknowledged_s.append(time.monotonic())
            due_s += INTERVAL_SECONDS
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    probe.is_written = True


async def _look(replica: Address, probe: Probe) -> None:
    """Until the last number was seen, or for too long."""
    async with _connected(replica) as connection:
        highest = await connection.prepare(f"select max(n) from {TABLE}")  # noqa: S608  # our name
        seen = 0
        stopped_s: float | None = None
        while stopped_s is None or seen < len(probe.acknowledged_s):
            now_s = time.monotonic()
            # Not before: the last number can still be on its way while the writer is told to stop.
            if probe.is_written:
                stopped_s = stopped_s or now_s
                if now_s > stopped_s + CATCH_UP_SECONDS:
                    return
            seen = await highest.fetchval() or 0
            probe.looks.append((time.monotonic(), seen))
            await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def _connected(address: Address) -> Any:
    connection = await asyncpg.connect(
        host=address.host, port=address.port, user=address.user, database=address.database,
        password=address.password or None, timeout=CONNECT_SECONDS, ssl=False,
    )  # fmt: skip
    try:
        yield connection
    finally:
        connection.terminate()
