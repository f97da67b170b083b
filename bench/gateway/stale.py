"""Write, then read: does a session ever see less than it has written, while a replica lags?

Each client changes a row of its own and reads it back through the gateway, which may send the read
to a replica. Now and then another session reads it that was told the position of the first. All
the time one of the two replicas stops replaying for a moment, again and again.

That replicas do serve reads is counted on the replicas themselves: scans of the table.
"""

import argparse
import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from bench.faults.target import TargetError
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .credentials import DATABASE, HOST, USER
from .world import Stage, replicas_have_all, staged

TABLE: Final = "stale_rows"
CLIENTS: Final = 8
PAIRS: Final = 100_000
PAIRS_QUICK: Final = 5_000
HANDED_OVER_EVERY: Final = 10  # pairs: so often another session reads
PAUSE_S: Final = (0.02, 0.5)  # for which a replica does not replay
CALM_S: Final = (0.02, 0.3)
STATISTICS_S: Final = 11.0  # after which idle backends have told what they read

WRITE: Final = f"update {TABLE} set n = $2 where id = $1"  # noqa: S608  # a constant
READ: Final = f"select n from {TABLE} where id = $1"  # noqa: S608  # a constant


@dataclass(slots=True)
class Tally:
    """What was found so far."""

    own: int = 0
    handed_over: int = 0
    stale: int = 0


def measure_stale(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """All pairs."""
    return asyncio.run(_stale(place, arguments))


async def _stale(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    pairs = PAIRS_QUICK if arguments.quick else PAIRS
    loop = asyncio.get_running_loop()
    async with staged(place, arguments) as stage:
        if stage.gateway_name is None:
            raise TargetError("a pgbouncer asks no replica")
        await stage.run(
            f"create table {TABLE} (id int primary key, n bigint)",
            f"insert into {TABLE} select i, 0 from generate_series(1, {CLIENTS}) i",  # noqa: S608  # constants
        )
        await replicas_have_all(stage)
        tally = Tally()
        start_s = loop.time()
        async with _lagging(stage, stage.replica_ports[0]) as pauses, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(_client(stage, number + 1, pairs // CLIENTS, tally))
        took_s = loop.time() - start_s
        await asyncio.sleep(STATISTICS_S)
        served = await stage.reads_by_replicas(TABLE)
    if not served:
        raise TargetError("no read was served by a replica, so none could be stale")
    reads = tally.own + tally.handed_over
    return Outcome(
        benchmark="stale",
        settings={
            "pairs": tally.own,
            "handed_over": tally.handed_over,
            "clients": CLIENTS,
            "pauses": len(pauses),
        },
        measurements=[
            Measurement("stale_reads", "", (float(tally.stale),)),
            Measurement("stale_replica_share", "", (min(1.0, served / reads),)),
            Measurement("stale_pairs_per_s", "/s", (tally.own / took_s,)),
        ],
    )


async def _client(stage: Stage, row: int, pairs: int, tally: Tally) -> None:
    """One row, one after the other; a second session to which the position is handed over."""
    first, second = await _session(stage), await _session(stage)
    try:
        for number in range(1, pairs + 1):
            await first.execute(WRITE, row, number)
            tally.own += 1
            tally.stale += await first.fetchval(READ, row) != number
            if number % HANDED_OVER_EVERY == 0:
                position = await first.fetchval("show seawall.position")
                await second.execute(f"set seawall.position = '{position}'")
                tally.handed_over += 1
                tally.stale += await second.fetchval(READ, row) != number
    finally:
        first.terminate()
        second.terminate()


async def _session(stage: Stage) -> Any:
    return await asyncpg.connect(
        host=HOST, port=stage.gateway.port, user=USER, database=DATABASE,
        password=stage.credentials.password, ssl=False,
        server_settings={"seawall.read": "auto"},
    )  # fmt: skip


@contextlib.asynccontextmanager
async def _lagging(stage: Stage, port: int) -> AsyncIterator[list[float]]:
    """A replica that stops replaying again and again; for how long each time."""
    pauses: list[float] = []
    task = asyncio.create_task(_pause_again_and_again(stage, port, pauses))
    try:
        yield pauses
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await stage.run("select pg_wal_replay_resume()", port=port)


async def _pause_again_and_again(stage: Stage, port: int, pauses: list[float]) -> None:
    rng = random.Random(6)  # noqa: S311  # how long
    async with await stage.session(port) as session:
        while True:
            await session.execute("select pg_wal_replay_pause()")
            pauses.append(rng.uniform(*PAUSE_S))
            await asyncio.sleep(pauses[-1])
            await session.execute("select pg_wal_replay_resume()")
            await asyncio.sleep(rng.uniform(*CALM_S))
