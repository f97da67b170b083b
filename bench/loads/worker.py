"""A process of our own driver: some of the clients of a load, on one event loop.

It connects, says that it is ready, is told when the load begins, and sends its tally at the end.
A client that loses its connection, or its patience, opens another one: loads go on while a system
changes its primary. Patience is the driver's and not the server's, because a server that hangs
cannot keep a promise.
"""

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Final

import asyncpg
import uvloop

from bench.targets.target import Address

from .load import LoadSettings
from .open_loop import Schedule
from .precise_timer import PreciseTimer
from .script import Client, Connection, Script
from .tally import LoadError, Tally

CONNECT_SECONDS: Final = 1.0  # for a connection while the load runs; a new one takes 20 ms
FIRST_CONNECT_SECONDS: Final = 30.0  # for those before it
CONNECT_PAUSE_SECONDS: Final = 0.1  # on average; together the clients look every few milliseconds
RETRIES_MAX: Final = 20  # of one transaction; then it counts as an error

BROKEN: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
# Classes of SQLSTATE in which the server tells about itself, and "this server takes no writes".
SERVER_TROUBLE: Final = ("broken", "53", "57", "58", "XX", "25006")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process does of a load."""

    address: Address
    script: Script
    settings: LoadSettings
    process: int
    processes: int

    @property
    def numbers(self) -> Sequence[int]:
        """Its clients."""
        return range(self.process, self.settings.clients, self.processes)


def work(share: Share, pipe: Pipe) -> None:
    """The body of the process."""
    # Ctrl-C reaches it as well; its parent ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            pipe.send(runner.run(_put_on(share, pipe)))
    except LoadError as error:
        pipe.send(error)


async def _put_on(share: Share, pipe: Pipe) -> Tally:
    settings = share.settings
    tally = Tally(settings.seconds)
    schedule = None
    if settings.rate is not None:
        schedule = Schedule(settings.rate / share.processes, f"{settings.seed} {share.process}")
    timer = PreciseTimer(asyncio.get_running_loop())
    made = share.script.clients(share.numbers, settings.clients, settings.seed)
    actors = [
        _Actor(
            share=share, client=client, tally=tally, schedule=schedule, timer=timer,
            rng=random.Random(f"{settings.seed} actor {number}"),  # noqa: S311  # when to look again
        )
        for number, client in zip(share.numbers, made, strict=True)
    ]  # fmt: skip
    await asyncio.gather(*(actor.connect_first() for actor in actors))
    pipe.send("ready")
    begin_s = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_measure_cpu(tally, timer, begin_s + settings.warm_seconds))
            for actor in actors:
                group.create_task(actor.run(begin_s))
    finally:
        for actor in actors:
            actor.leave()
        timer.close()
    if schedule is not None:
        for due in schedule.take_until(settings.warm_seconds + settings.seconds):
            tally.leave(due - settings.warm_seconds)
    return tally


async def _measure_cpu(tally: Tally, timer: PreciseTimer, counting_s: float) -> None:
    await timer.wait_until(counting_s)
    before_s = time.process_time()
    await timer.wait_until(counting_s + tally.seconds)
    tally.cpu_seconds = time.process_time() - before_s


@dataclass(slots=True, kw_only=True)
class _Actor:
    """A client and its connection."""

    share: Share
    client: Client
    tally: Tally
    schedule: Schedule | None
    timer: PreciseTimer
    rng: random.Random
    connection: "Connection | None" = None
    gave_up: bool = False
    counting_s: float = field(default=0.0)

    async def connect_first(self) -> None:
        """Before the load begins there must be a server."""
        try:
            self.connection = await self._open(FIRST_CONNECT_SECONDS)
        except (asyncpg.PostgresError, *BROKEN) as error:
            address = self.share.address
            raise LoadError(
                f"no connection to {address.host}:{address.port}: {str(error) or repr(error)}:"
                " start the server, or allow more connections"
            ) from error

    async def run(self, begin_s: float) -> None:
        """Until the time is over; what has begun then is finished."""
        self.counting_s = begin_s + self.share.settings.warm_seconds
        end_s = self.counting_s + self.tally.seconds
        await self.timer.wait_until(begin_s)
        while time.monotonic() < end_s:
            if self.connection is None:
                await self._reconnect()
                continue
            due_seconds = None
            if self.schedule is not None:
                due_s = begin_s + self.schedule.take()
                due_seconds = due_s - self.counting_s
                if due_s >= end_s:
                    return
                await self.timer.wait_until(due_s)
            await self._carry_out(self.connection, due_seconds)

    def leave(self) -> None:
        """Let go of the connection, whatever the server does."""
        if self.connection is not None:
            self.connection.terminate()
            self.connection = None

    def _now(self) -> float:
        """In seconds since the load counts."""
        return time.monotonic() - self.counting_s

    async def _carry_out(self, connection: Connection, due_seconds: float | None) -> None:
        """One transaction, and another one in its place after a conflict."""
        error = ""
        begun = self._now() if due_seconds is None else due_seconds
        for _ in range(RETRIES_MAX + 1):
            kind, error = await self._attempt(connection)
            now = self._now()
            if not error:
                self.tally.acknowledge(now, now - begun, kind, due_seconds=due_seconds)
                return
            if self.connection is None or error not in self.share.script.retried:
                break
            self.tally.retry(now)
        self.tally.fail(self._now(), error, due_seconds=due_seconds)

    async def _attempt(self, connection: Connection) -> tuple[str, str]:
        """The kind of transaction, and how it failed; a connection of no more use is gone then."""
        self.gave_up = False
        patience_seconds = self.share.script.patience_seconds
        watchdog = asyncio.get_running_loop().call_later(patience_seconds, self._give_up)
        try:
            kind = await self.client.once(connection)
        except asyncpg.PostgresError as caught:
            error = caught.sqlstate or "unknown"
            # Class 08 is mostly the driver's own word for a connection that is gone.
            error = "broken" if error.startswith("08") else error
            if connection.is_closed() or error.startswith(SERVER_TROUBLE):
                self.leave()
            elif connection.is_in_transaction():
                await self._roll_back(connection)
        except BROKEN:
            error = "broken"
            self.leave()
        else:
            return kind, ""
        finally:
            watchdog.cancel()
        return "", "patience" if self.gave_up else error

    async def _roll_back(self, connection: Connection) -> None:
        try:
            await connection.execute("rollback")
        except (asyncpg.PostgresError, *BROKEN):
            self.leave()

    def _give_up(self) -> None:
        self.gave_up = True
        self.leave()

    async def _reconnect(self) -> None:
        try:
            self.connection = await self._open(CONNECT_SECONDS)
        except (asyncpg.PostgresError, *BROKEN):
            await asyncio.sleep(CONNECT_PAUSE_SECONDS * self.rng.uniform(0.5, 1.5))

    async def _open(self, patience_seconds: float) -> Connection:
        async with asyncio.timeout(patience_seconds):
            return await connect(self.share.address)


async def connect(address: Address) -> Connection:
    """A session there, for a client or for what a workload does beside its load."""
    return await asyncpg.connect(
        host=address.host, port=address.port, user=address.user, database=address.database,
        password=address.password or None, timeout=FIRST_CONNECT_SECONDS,
    )  # fmt: skip
