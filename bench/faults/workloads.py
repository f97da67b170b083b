"""What clients do: transactions on lists, transfers of money, rows with identifiers of their own.

A *work* is one transaction: it knows its statements, and notes what it has seen; whoever runs it
(`clients.py`) begins and commits it, and finds out what became of it. Everything that is chosen is
chosen when it is made, by the client's own random numbers.
"""

import itertools
import random
from collections.abc import Sequence
from typing import Any, Final, Protocol

from .history import Append, Balances, Insert, Level, Lists, Operation, Read, Step, Transfer
from .sessions import Session

SCHEMA: Final = "seawall_faults"

LISTS_AT_A_TIME: Final = 6  # few, so that transactions meet
APPENDS_TO_A_LIST: Final = 40  # then another list takes its place: reading costs its length
STEPS_MAX: Final = 5

ACCOUNTS: Final = 8
MONEY_EACH: Final = 100
MONEY: Final = ACCOUNTS * MONEY_EACH
TRANSFER_MAX: Final = 60  # often more than there is


class Work(Protocol):
    """One transaction."""

    @property
    def level(self) -> Level | None:
        """At which isolation level; None: its one statement is the transaction."""

    async def do(self, session: Session) -> None:
        """All between BEGIN and COMMIT."""

    def operation(self, **attempt: Any) -> Operation:
        """What to note about it, given what became of it."""


class Workload(Protocol):
    """An endless supply of works for several clients."""

    def work(self, rng: random.Random) -> Work:
        """The next one."""


def setup_statements() -> list[str]:
    """What makes the tables, empty. A schema that another run left behind is dropped."""
    lists = [
        f"create table {list_table(level)} (key int primary key, items int[] not null)"
        for level in Level
    ]
    return [
        f"drop schema if exists {SCHEMA} cascade",
        f"create schema {SCHEMA}",
        *lists,
        f"create table {SCHEMA}.accounts (id int primary key, balance int not null)",
        f"insert into {SCHEMA}.accounts"  # noqa: S608  # numbers of ours
        f" select i, {MONEY_EACH} from generate_series(1, {ACCOUNTS}) i",
        f"create table {SCHEMA}.rows (id int primary key)",
    ]


def list_table(level: Level) -> str:
    """Each level has lists of its own: what one promises holds among its own transactions."""
    return f"{SCHEMA}.lists_{level.replace(' ', '_')}"


# Lists.


class ListsWorkload:
    """Transactions of appends and reads at one isolation level."""

    def __init__(self, level: Level, *, claimed: Level | None = None) -> None:
        """`claimed` is what the history says; another one than the real one must be found out."""
        self.level = level
        self.claimed = claimed or level
        self.keys_used = LISTS_AT_A_TIME
        self._active = list(range(LISTS_AT_A_TIME))
        self._values = dict.fromkeys(self._active, 0)

    def work(self, rng: random.Random) -> "ListsWork":
        """One to five steps on the lists of the moment."""
        steps = [
            self._append(rng) if rng.randrange(2) else Read(rng.choice(self._active))
            for _ in range(rng.randint(1, STEPS_MAX))
        ]
        return ListsWork(self.level, self.claimed, steps)

    def last_work(self) -> "ListsWork":
        """Read every list that there was."""
        return ListsWork(self.level, self.claimed, [Read(key) for key in range(self.keys_used)])

    def _append(self, rng: random.Random) -> Append:
        place = rng.randrange(len(self._active))
        key = self._active[place]
        self._values[key] += 1
        value = self._values[key]
        if value == APPENDS_TO_A_LIST:
            self._active[place] = self.keys_used
            self._values[self.keys_used] = 0
            self.keys_used += 1
        return Append(key, value)


class ListsWork:
    """One of them."""

    def __init__(self, level: Level, claimed: Level, steps: Sequence[Step]) -> None:
        self.level: Level | None = level
        self._claimed = claimed
        self._steps = list(steps)
        table = list_table(level)
        self._read = f"select items from {table} where key = $1"  # noqa: S608  # a name of ours
        self._append = (
            f"insert into {table} as l values ($1, array[$2::int])"  # noqa: S608  # as above
            " on conflict (key) do update set items = l.items || excluded.items"
        )

    async def do(self, session: Session) -> None:
        """Step by step; what was read is noted at once."""
        for place, step in enumerate(self._steps):
            if isinstance(step, Append):
                await session.fetch(self._append, step.key, step.value)
            else:
                rows = await session.fetch(self._read, step.key)
                values = tuple(rows[0][0]) if rows else ()
                self._steps[place] = Read(step.key, values)

    def operation(self, **attempt: Any) -> Lists:
        """With all that was read until it ended."""
        return Lists(level=self._claimed, steps=tuple(self._steps), **attempt)


# Money.


class BankWorkload:
    """Transfers, and looks at all accounts, at all levels."""

    def work(self, rng: random.Random) -> "TransferWork | BalancesWork":
        """Mostly transfers."""
        level = rng.choice(list(Level))
        if rng.randrange(4) == 0:
            return BalancesWork(level)
        source, target = rng.sample(range(1, ACCOUNTS + 1), 2)
        return TransferWork(level, source, target, rng.randint(1, TRANSFER_MAX))


class TransferWork:
    """From one account to another, if there is as much."""

    def __init__(self, level: Level, source: int, target: int, amount: int) -> None:
        self.level: Level | None = level
        self._source, self._target, self._amount = source, target, amount

    async def do(self, session: Session) -> None:
        """Two statements, between which the money is nowhere."""
        taken = await session.fetch(_TAKE, self._source, self._amount, -1)
        if taken[0][0]:
            await session.fetch(_MOVE, self._target, self._amount, 1)

    def operation(self, **attempt: Any) -> Transfer:
        """Who gives how much to whom."""
        return Transfer(source=self._source, target=self._target, amount=self._amount, **attempt)


_MOVE: Final = f"update {SCHEMA}.accounts set balance = balance + $2::int * $3::int where id = $1"  # noqa: S608  # a name of ours


_TAKE: Final = f"with taken as ({_MOVE} and balance >= $2 returning 1) select count(*) from taken"  # noqa: S608  # as above


class BalancesWork:
    """A look at all accounts: in two statements where the level makes them one snapshot."""

    def __init__(self, level: Level) -> None:
        self.level: Level | None = level
        self._level = level
        self._balances: tuple[int, ...] = ()

    async def do(self, session: Session) -> None:
        """Read them all."""
        half = ACCOUNTS if self._level is Level.READ_COMMITTED else ACCOUNTS // 2
        for low, high in itertools.pairwise(sorted({0, half, ACCOUNTS})):
            rows = await session.fetch(
                f"select balance from {SCHEMA}.accounts where id > $1 and id <= $2",  # noqa: S608  # a name of ours
                low, high,
            )  # fmt: skip
            self._balances += tuple(row[0] for row in rows)

    def operation(self, **attempt: Any) -> Balances:
        """What was seen."""
        return Balances(level=self._level, balances=self._balances, **attempt)


# Rows.


class RowsWorkload:
    """Inserts, each a transaction by itself."""

    def __init__(self) -> None:
        self._identifiers = itertools.count(1)

    def work(self, rng: random.Random) -> "InsertWork":
        """The next identifier."""
        return InsertWork(next(self._identifiers))


class InsertWork:
    """One row."""

    def __init__(self, identifier: int) -> None:
        self.level: Level | None = None
        self._identifier = identifier

    async def do(self, session: Session) -> None:
        """Insert it."""
        sql = f"insert into {SCHEMA}.rows values ($1)"  # noqa: S608  # a name of ours
        await session.fetch(sql, self._identifier)

    def operation(self, **attempt: Any) -> Insert:
        """Its identifier."""
        return Insert(identifier=self._identifier, **attempt)


async def row_identifiers(session: Session) -> list[int]:
    """All rows that there are."""
    rows = await session.fetch(f"select id from {SCHEMA}.rows")  # noqa: S608  # a name of ours
    return [row[0] for row in rows]
