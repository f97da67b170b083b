"""A cluster for a benchmark, and writers whose acknowledgements are timed.

    async with local_cluster(place) as cluster:
        async with writing(cluster, scale=8) as writers:
            await writers.more(500)         # acknowledged from now on
            ...                             # something breaks
        writers.longest_pause_s(after_ns=...)

The writers are the fault suite's clients, half of them through each driver, with pgbench's TPC-B
as their workload; each transaction has an identifier, so that what is lost can be counted.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from bench.faults.clients import ClientPlan, Recorder, run_clients
from bench.faults.cluster_target import ClusterTarget, LocalCluster
from bench.faults.history import Insert, Level, Operation, Result
from bench.faults.invariants import durability_findings
from bench.faults.nemesis import wait_whole
from bench.faults.sessions import Driver, Dsn, Session
from bench.faults.suite import carry_out, persistent_connect
from bench.faults.target import TargetError
from bench.pagefault.workspace import Workspace

WRITERS: Final = 8
ACCOUNTS_A_SCALE: Final = 100_000  # pgbench's numbers
TELLERS_A_SCALE: Final = 10
MORE_DEADLINE_S: Final = 60.0
LOOK_S: Final = 0.01
PATIENCE_S: Final = 1.5  # with one transaction, which takes milliseconds; ends a hang


@contextlib.asynccontextmanager
async def local_cluster(place: Workspace, *options: str) -> AsyncIterator[LocalCluster]:
    """A cluster that is up and whole; gone at the end."""
    cluster = LocalCluster(place.new_directory("c") / "d")
    try:
        await cluster.up("--ha", "--pg-bin", str(place.binaries.bin_dir), *options)
        await wait_whole(await target_of(cluster))
        yield cluster
    finally:
        await cluster.command("destroy", "--yes")


async def target_of(cluster: LocalCluster) -> ClusterTarget:
    """What a nemesis needs."""
    return ClusterTarget(cluster, (await cluster.status()).urls.primary)


async def session_of(cluster: LocalCluster) -> Session:
    """A session on the primary."""
    dsn = Dsn.parse((await cluster.status()).urls.primary)
    return await persistent_connect(dsn, random.Random())  # noqa: S311  # which host comes first


def tpcb_statements(scale: int) -> list[str]:
    """The tables of pgbench, with an identifier in the history."""
    accounts, tellers = scale * ACCOUNTS_A_SCALE, scale * TELLERS_A_SCALE
    return [
        "drop table if exists accounts, tellers, branches, history",
        "create table accounts (id int primary key, balance int, filler char(84))",
        f"insert into accounts select i, 0, '' from generate_series(1, {accounts}) i",  # noqa: S608  # a number
        "create table tellers (id int primary key, balance int, filler char(84))",
        f"insert into tellers select i, 0, '' from generate_series(1, {tellers}) i",  # noqa: S608  # a number
        "create table branches (id int primary key, balance int, filler char(88))",
        f"insert into branches select i, 0, '' from generate_series(1, {scale}) i",  # noqa: S608  # a number
        "create table history (id int, account int, delta int, at timestamptz, filler char(22))",
        "checkpoint",
    ]


@dataclass(slots=True)
class Tpcb:
    """An endless supply of transactions."""

    scale: int
    identifiers: "itertools.count[int]"

    def work(self, rng: random.Random) -> "TpcbWork":
        """One of them."""
        return TpcbWork(
            next(self.identifiers),
            account=rng.randint(1, self.scale * ACCOUNTS_A_SCALE),
            teller=rng.randint(1, self.scale * TELLERS_A_SCALE),
            branch=rng.randint(1, self.scale),
            delta=rng.randint(-5000, 5000),
        )


@dataclass(slots=True)
class TpcbWork:
    """Five statements of pgbench."""

    identifier: int
    account: int
    teller: int
    branch: int
    delta: int

    @property
    def level(self) -> Level | None:
        """PostgreSQL's default."""
        return Level.READ_COMMITTED

    async def do(self, session: Session) -> None:
        """In pgbench's order."""
        change = "update {} set balance = balance + $1 where id = $2"
        await session.fetch(change.format("accounts"), self.delta, self.account)
        await session.fetch("select balance from accounts where id = $1", self.account)
        await session.fetch(change.format("tellers"), self.delta, self.teller)
        await session.fetch(change.format("branches"), self.delta, self.branch)
        await session.fetch(
            "insert into history values ($1, $2, $3, now())",
            self.identifier, self.account, self.delta,
        )  # fmt: skip

    def operation(self, **attempt: Any) -> Insert:
        """It is an insert into the history."""
        return Insert(identifier=self.identifier, **attempt)


class Writers:
    """What the writers were told so far."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @property
    def operations(self) -> list[Operation]:
        """Everything."""
        return self._recorder.operations

    async def more(self, count: int, *, after_ns: int | None = None) -> None:
        """Until so many more transactions were acknowledged whose commit came after a moment."""
        since_ns = time.monotonic_ns() if after_ns is None else after_ns
        end_s = time.monotonic() + MORE_DEADLINE_S
        while self._acknowledged_after(since_ns) < count:  # nobody tells
            if time.monotonic() > end_s:
                raise TargetError(f"{count} more commits were not acknowledged in time")
            await asyncio.sleep(LOOK_S)

    def longest_pause_s(self, *, after_ns: int) -> float:
        """Between two acknowledgements of which the later came after a moment."""
        times = sorted(one.return_ns for one in self.operations if one.result is Result.OK)
        pauses = (b - a for a, b in itertools.pairwise(times) if b > after_ns)
        return max(pauses, default=0) / 1e9

    def failed_after(self, after_ns: int) -> int:
        """How many transactions were not acknowledged that began after a moment, or ran then."""
        return sum(
            one.result is not Result.OK and one.return_ns > after_ns for one in self.operations
        )

    def lost(self, rows: list[int]) -> int:
        """How many acknowledged transactions the history does not have."""
        inserts = [one for one in self.operations if isinstance(one, Insert)]
        findings = list(durability_findings(inserts, rows))
        acknowledged = {one.identifier for one in inserts if one.result is Result.OK}
        return len(acknowledged - set(rows)) if findings else 0

    def _acknowledged_after(self, since_ns: int) -> int:
        count = 0
        for one in reversed(self.operations):  # in the order of their ends
            if one.return_ns <= since_ns:
                break
            count += one.result is Result.OK
        return count


@contextlib.asynccontextmanager
async def writing(cluster: LocalCluster, *, scale: int) -> AsyncIterator[Writers]:
    """New tables, and writers on them; at the end they have finished."""
    dsn = Dsn.parse((await cluster.status()).urls.primary)
    await carry_out(dsn, tpcb_statements(scale), random.Random(1))  # noqa: S311  # which host comes first
    recorder, stop = Recorder(), asyncio.Event()
    workload = Tpcb(scale, itertools.count(1))
    plans = [ClientPlan(n, list(Driver)[n % 2], workload) for n in range(WRITERS)]
    clients = asyncio.create_task(
        run_clients(plans, dsn, recorder, stop, seed=1, patience_s=PATIENCE_S)
    )
    try:
        yield Writers(recorder)
    finally:
        stop.set()
        await clients


async def history_rows(cluster: LocalCluster) -> list[int]:
    """The identifiers that are there."""
    session = await session_of(cluster)
    try:
        return [row[0] for row in await session.fetch("select id from history")]
    finally:
        await session.close()
