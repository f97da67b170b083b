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

from .schema import Connection, Scale, load
from .transactions import MIX, Client, TakenBackError, Transaction

T = TypeVar("T")

COMMAND_TIMEOUT_S: Final = 120.0

RETRIED: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

# Conditions 1 to 9 of the standard's clause 3.3.2, each as a query for what breaks it.
CONDITIONS: Final = {
    "a warehouse has taken what its districts have": """
        select w_id from warehouse where w_ytd <>
            (select sum(d_ytd) from district where d_w_id = w_id)""",
    "the next order of a district follows its last": """
        select d_w_id, d_id from district where d_next_o_id - 1 <>
            (select max(o_id) from orders where o_w_id = d_w_id and o_d_id = d_id)""",
    "undelivered orders of a district have no gaps": """
        select no_w_id, no_d_id from new_order group by 1, 2
        having max(no_o_id) - min(no_o_id) + 1 <> count(*)""",
    "a district has as many lines as its orders say": """
        select d_w_id, d_id from district where
            (select sum(o_lines) from orders where o_w_id = d_w_id and o_d_id = d_id) <>
            (select count(*) from order_line where ol_w_id = d_w_id and ol_d_id = d_id)""",
    "an order has a carrier exactly if it is delivered": """
        select o_w_id, o_d_id, o_id from orders left join new_order
            on (no_w_id, no_d_id, no_o_id) = (o_w_id, o_d_id, o_id)
        where (o_carrier is null) <> (no_o_id is not null)""",
    "a line is delivered exactly if its order is": """
        select distinct ol_w_id, ol_d_id, ol_o_id from order_line join orders
            on (ol_w_id, ol_d_id, ol_o_id) = (o_w_id, o_d_id, o_id)
        where (ol_delivered is null) <> (o_carrier is null)""",
    "a district has taken what its history says": """
        select d_w_id, d_id from district where abs(d_ytd -
            (select sum(h_amount) from history where h_w_id = d_w_id and h_d_id = d_id)) > 1""",
    "a stock was ordered as often as lines say": """
        select s_w_id, s_i_id from stock where s_orders <> (select count(*) from order_line
            where ol_supply_w_id = s_w_id and ol_i_id = s_i_id and ol_o_id > {customers})""",
}


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
                        server, scale, random.Random(f"{seed} {number}"),  # noqa: S311  # a load
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

    async def look(connection: Connection) -> list[str]:
        found = []
        for name, query in CONDITIONS.items():
            broken = await connection.fetch(query.format(customers=scale.customers))
            found += [f"not so: {name}: {tuple(row)}" for row in broken]
        return found

    return _with_connection(server, look)


async def _client(
    server: Postgres,
    scale: Scale,
    rng: random.Random,
    *,
    transactions: int,
    checkpoint_every: int | None,
) -> Tally:
    connection = await _connect(server)
    client, tally = Client(connection, scale, rng), Tally()
    kinds = [kind for kind, _ in MIX]
    shares = [share for _, share in MIX]
    try:
        for number in range(1, transactions + 1):
            (kind,) = rng.choices(kinds, shares)
            await _carry_out(client, kind, tally)
            if checkpoint_every is not None and number % checkpoint_every == 0:
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
