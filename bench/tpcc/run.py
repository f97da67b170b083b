"""Run the load against a server, from code that blocks; and what must hold of its tables.

Every client has a connection and a random source of its own, made of the seed and its number. What
it tries depends on the others only where a deadlock makes it try again.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import asyncpg

from sqlnode.postgres import Postgres

from .conditions import CONDITIONS, findings_of
from .loading import load
from .schema import Connection, Scale
from .transactions import Client, TakenBackError, Transaction, next_kind

__all__ = ["CONDITIONS", "Tally", "findings", "load_tables", "run_tpcc"]

T = TypeVar("T")

COMMAND_TIMEOUT_S: Final = 120.0

RETRIED: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

TAKEN_BACK_IN_TESTS: Final = 1 / 30  # the standard says 1 of 100; tests are shorter


@dataclass(slots=True)
class Tally:
    """What became of the transactions."""

    committed: Counter[str] = field(default_factory=Counter)  # by name
    taken_back: int = 0
    retries: int = 0

    def add(self, other: "Tally") -> None:
        """Count another's as well."""
        self.committed += other.committed
        self.taken_back += other.taken_back
        self.retries += other.retries


def load_tables(server: Postgres, scale: Scale, *, seed: int) -> None:
    """Make the tables, with all that they have at first."""
    _with_connection(server, lambda connection: load(connection, scale, seed))


def run_tpcc(
    server: Postgres,
    scale: Scale,
    *,
    clients: int,
    transactions: int,
    seed: int,
    checkpoint_every: int | None = None,
) -> Tally:
    """Let each client carry out so many transactions; errors of the server end all of them.

    With `checkpoint_every` the first client asks for a checkpoint after each so many of its own, so
    that there are cuts in the middle of the others' work.
    """

    async def run() -> Tally:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    _client(
                        server, scale, number, random.Random(f"{seed} {number}"),  # noqa: S311  # a load
                        transactions=transactions,
                        checkpoint_every=None if number else checkpoint_every,
                    )
                )
                for number in range(clients)
            ]  # fmt: skip
        total = Tally()
        for task in tasks:
            total.add(task.result())
        return total

    return asyncio.run(run())


def findings(server: Postgres, scale: Scale) -> list[str]:
    """Say which of the conditions are broken, and where; empty: none."""

    return _with_connection(server, lambda connection: findings_of(connection, scale))


async def _client(
    server: Postgres,
    scale: Scale,
    number: int,
    rng: random.Random,
    *,
    transactions: int,
    checkpoint_every: int | None,
) -> Tally:
    connection = await _connect(server)
    client = Client(connection, scale, rng, number, taken_back=TAKEN_BACK_IN_TESTS)
    tally = Tally()
    try:
        for count in range(1, transactions + 1):
            await _carry_out(client, next_kind(rng), tally)
            if checkpoint_every is not None and count % checkpoint_every == 0:
                await connection.execute("checkpoint")
    finally:
        connection.terminate()
    return tally


async def _carry_out(client: Client, kind: Transaction, tally: Tally) -> None:
    """Once, or again after a deadlock."""
    while True:
        try:
            async with client.connection.transaction():
                await kind(client)
        except TakenBackError:
            tally.taken_back += 1
            return
        except RETRIED:
            tally.retries += 1
        else:
            tally.committed[kind.__name__] += 1
            return


async def _connect(server: Postgres) -> Connection:
    return await asyncpg.connect(
        host=str(server.run_dir),
        port=server.port,
        user="postgres",
        database="postgres",
        command_timeout=COMMAND_TIMEOUT_S,
    )


def _with_connection(server: Postgres, what: Callable[[Connection], Awaitable[T]]) -> T:
    async def run() -> T:
        connection = await _connect(server)
        try:
            return await what(connection)
        finally:
            await connection.close()

    return asyncio.run(run())
