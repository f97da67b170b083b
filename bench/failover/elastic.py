"""New replicas: how soon after the order they answer, what they cost; and how far they lag.

The order is `seawall scale`, from the start of its process: what somebody waits who types it. The
first answered query is a count of a small table that is in no cache of the new compute, on the
port that the cluster has given to it.
"""

import asyncio
import contextlib
import itertools
import random
import stat
import time
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.faults.cluster_target import LocalCluster
from bench.faults.nemesis import wait_whole
from bench.faults.sessions import AsyncpgSession, BrokenError, Driver, Dsn, RefusedError, connect
from bench.faults.target import TargetError
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .world import local_cluster, session_of, target_of

SMALL_MB: Final = 100
LARGE_MB: Final = 5000
LARGE_MB_QUICK: Final = 300
ROUNDS: Final = 5
ROUNDS_QUICK: Final = 2
ROW_BYTES: Final = 1000  # about; seven rows a page
ROWS_A_STATEMENT: Final = 100_000
SMALL_ROWS: Final = 1000
ANSWER_DEADLINE_S: Final = 60.0
ANSWER_LOOK_S: Final = 0.01
SETTLED_LOOK_S: Final = 1.0
SETTLED_LOOKS: Final = 15  # so many looks in a row without a change: longer than between two cuts

LAG_WRITERS: Final = 4
LAG_WRITES_PER_S: Final = 1000
LAG_S: Final = 15.0
LAG_QUICK_S: Final = 4.0


class ClusterFile(msgspec.Struct, frozen=True):
    """What is used of a cluster's own file: the ports of its computes."""

    computes: dict[str, int]


def measure_replicas(place: Workspace, *, large_mb: int, quick: bool) -> Outcome:
    """Replicas of a small database and of a large one."""
    return asyncio.run(
        _replicas(place, large_mb=large_mb, rounds=ROUNDS_QUICK if quick else ROUNDS)
    )


async def _replicas(place: Workspace, *, large_mb: int, rounds: int) -> Outcome:
    times: dict[int, list[float]] = {}
    added: list[float] = []
    async with local_cluster(place) as cluster:
        size_mb = 0
        for wanted_mb in (SMALL_MB, large_mb):
            await _fill(cluster, wanted_mb - size_mb, is_first=size_mb == 0)
            size_mb = wanted_mb
            before = await _settled_bytes(cluster.directory)
            times[size_mb] = [await _new_replica_s(cluster) for _ in range(rounds)]
            added.append(float(max(0, await _settled_bytes(cluster.directory) - before)))
    small, large = times[SMALL_MB], times[large_mb]
    ratios = tuple(b / a for a, b in zip(sorted(small), sorted(large), strict=True))
    return Outcome(
        benchmark="replicas",
        settings={"small_mb": SMALL_MB, "large_mb": large_mb, "rounds": rounds},
        measurements=[
            Measurement("new_replica_s", "s", tuple(small)),
            Measurement("new_replica_large_s", "s", tuple(large)),
            Measurement("new_replica_large_over_small", "", ratios),
            Measurement("new_replica_storage_bytes", "bytes", tuple(added)),
        ],
    )


async def _fill(cluster: LocalCluster, size_mb: int, *, is_first: bool) -> None:
    session = await session_of(cluster)
    try:
        if is_first:
            await session.fetch("create table big (id bigint, filler text)")
            await session.fetch("alter table big alter filler set storage plain")
            await session.fetch(f"create table small as select generate_series(1, {SMALL_ROWS}) id")
        left = size_mb * 1_000_000 // ROW_BYTES
        while left > 0:
            rows = min(left, ROWS_A_STATEMENT)
            await session.fetch(
                f"insert into big select i, repeat('x', {ROW_BYTES - 50})"  # noqa: S608  # numbers
                f" from generate_series(1, {rows}) i"
            )
            left -= rows
        await session.fetch("checkpoint")
    finally:
        await session.close()


async def _settled_bytes(directory: Path) -> int:
    """What all storage nodes have on their disks, once it stops changing."""
    sizes: list[int] = []
    while len(sizes) < SETTLED_LOOKS or len(set(sizes[-SETTLED_LOOKS:])) > 1:
        sizes.append(stored_bytes(directory))
        if len(sizes) * SETTLED_LOOK_S > ANSWER_DEADLINE_S:
            break
        await asyncio.sleep(SETTLED_LOOK_S)
    return sizes[-1]


def stored_bytes(directory: Path) -> int:
    """What all storage nodes of a cluster have on their disks; files may vanish meanwhile."""
    total = 0
    for path in directory.glob("nodes/storage-*/data/**/*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


async def _new_replica_s(cluster: LocalCluster) -> float:
    """Order one more compute, ask it, and give it up again."""
    status = await cluster.status()
    known, dsn = {one.name for one in status.computes}, Dsn.parse(status.urls.primary)
    start_s = time.monotonic()
    order = asyncio.create_task(cluster.command("scale", "--computes", str(len(known) + 1)))
    try:
        await _first_answer(cluster, known, dsn, deadline_s=start_s + ANSWER_DEADLINE_S)
        seconds = time.monotonic() - start_s
    finally:
        await order
    await cluster.command("scale", "--computes", str(len(known)))
    await wait_whole(await target_of(cluster))
    return seconds


async def _first_answer(
    cluster: LocalCluster, known: set[str], dsn: Dsn, *, deadline_s: float
) -> None:
    while time.monotonic() < deadline_s:
        text = (cluster.directory / "cluster.json").read_bytes()
        ports = msgspec.json.decode(text, type=ClusterFile).computes
        for port in (port for name, port in ports.items() if name not in known):
            try:
                session = await AsyncpgSession.open(dsn, "127.0.0.1", port)
            except (BrokenError, RefusedError, TimeoutError):
                continue
            try:
                if await session.fetch("select count(*) from small") == [(SMALL_ROWS,)]:
                    return
            except (BrokenError, RefusedError):
                continue
            finally:
                await session.close()
        await asyncio.sleep(ANSWER_LOOK_S)
    raise TargetError("the new replica did not answer in time")


# Lag.


def measure_lag(place: Workspace, *, quick: bool) -> Outcome:
    """From an acknowledgement to the moment when a replica shows the row."""
    return asyncio.run(_lag(place, seconds=LAG_QUICK_S if quick else LAG_S))


async def _lag(place: Workspace, *, seconds: float) -> Outcome:
    async with local_cluster(place) as cluster:
        session = await session_of(cluster)
        await session.fetch("create table lag_rows (writer int, n int, primary key (writer, n))")
        await session.close()
        status = await cluster.status()
        dsn = Dsn.parse(status.urls.primary)
        replica = next(one for one in status.computes if one.role == "replica")
        acknowledged: dict[int, list[float]] = {n: [] for n in range(LAG_WRITERS)}
        looks: dict[int, list[tuple[float, int]]] = {n: [] for n in range(LAG_WRITERS)}
        stop = asyncio.Event()
        looking = asyncio.create_task(_look(dsn, replica.host, replica.port, looks, stop))
        async with asyncio.TaskGroup() as group:
            for writer, times in acknowledged.items():
                group.create_task(_write_evenly(dsn, writer, times, seconds))
        stop.set()
        await looking
    lags = sorted(
        lag for writer, times in acknowledged.items() for lag in lags_ms(times, looks[writer])
    )
    per_s = sum(map(len, acknowledged.values())) / seconds
    return Outcome(
        benchmark="lag",
        settings={"seconds": seconds, "wanted_per_s": LAG_WRITES_PER_S},
        measurements=[
            Measurement("replica_lag_p50_ms", "ms", (percentile(lags, 0.50),)),
            Measurement("replica_lag_p99_ms", "ms", (percentile(lags, 0.99),)),
            Measurement("writes_per_s", "", (per_s,)),
        ],
    )


async def _write_evenly(dsn: Dsn, writer: int, times: list[float], seconds: float) -> None:
    """Commits at even times, as far as the server is fast enough; when each was acknowledged."""
    session = await connect(Driver.ASYNCPG, dsn, random.Random(writer))  # noqa: S311  # which host is first
    interval_s = LAG_WRITERS / LAG_WRITES_PER_S
    start_s = time.monotonic()
    for number in itertools.count(1):
        due_s = start_s + number * interval_s
        if due_s > start_s + seconds:
            break
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        await session.fetch("insert into lag_rows values ($1, $2)", writer, number)
        times.append(time.monotonic())
    await session.close()


async def _look(
    dsn: Dsn, host: str, port: int, looks: dict[int, list[tuple[float, int]]], stop: asyncio.Event
) -> None:
    """Note again and again what the replica shows, once more after the last write."""
    session = await AsyncpgSession.open(dsn, host, port)
    was_stopped = False
    while not was_stopped:
        was_stopped = stop.is_set()
        if was_stopped:
            await asyncio.sleep(1)
        rows = await session.fetch("select writer, max(n) from lag_rows group by writer")
        now_s = time.monotonic()
        for writer, number in rows:
            looks[writer].append((now_s, number))
    await session.close()


def lags_ms(acknowledged_s: Sequence[float], looks: Sequence[tuple[float, int]]) -> list[float]:
    """Of each row, 1 and so on, how long after its acknowledgement it was seen first."""
    numbers = [number for _, number in looks]
    found = []
    for number, at_s in enumerate(acknowledged_s, 1):
        place = bisect_left(numbers, number)
        if place == len(looks):
            raise TargetError(f"row {number} was never seen on the replica")
        found.append(max(0.0, looks[place][0] - at_s) * 1e3)
    return found


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value that so many are not above."""
    assert ordered, "nothing was measured"
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
