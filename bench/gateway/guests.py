"""Sessions that are to live through the loss of a primary, and what each must find again.

    guest = await open_guest(stage, number)      four kinds, each through two drivers, by turns
    ... the primary dies ...
    await guest.ask()                            the next statement; True: all is as it was

| kind | did before | must find |
|---|---|---|
| idle | nothing | an answer |
| settings | set two variables | both |
| prepared | prepared a statement and ran it | the statement, by its name |
| between | committed a transaction | what it wrote |
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import asyncpg
import psycopg

from .credentials import DATABASE, HOST, USER
from .world import Stage

TABLE: Final = "guests"
SCHEMA: Final = (
    f"drop table if exists {TABLE}",
    f"create table {TABLE} (id int primary key, n int)",
)
TIMEOUT: Final = "12345ms"
SEARCH_PATH: Final = "guests_only, public"
COMMAND_DEADLINE_S: Final = 30.0

CHANGE: Final = f"update {TABLE} set n = n + 1 where id = $1 returning n"  # noqa: S608  # a constant
READ: Final = f"select n from {TABLE} where id = $1"  # noqa: S608  # a constant
SETTINGS: Final = (
    "select current_setting('statement_timeout') || '/' || current_setting('search_path')"
)

Fetch = Callable[..., Awaitable[Any]]  # a statement and its arguments; the first value


class Kind(StrEnum):
    """What a session did before."""

    IDLE = "idle"
    SETTINGS = "settings"
    PREPARED = "prepared"
    BETWEEN = "between"


@dataclass(slots=True)
class Guest:
    """One session. `fetch` uses a statement that is prepared once, and by name."""

    number: int
    kind: Kind
    connection: Any = field(repr=False)
    fetch: Fetch = field(repr=False)
    seen: int | None = None  # of its own row

    async def settle(self) -> None:
        """Do what comes before."""
        match self.kind:
            case Kind.IDLE:
                pass
            case Kind.SETTINGS:
                await self.connection.execute(f"set statement_timeout = '{TIMEOUT}'")
                await self.connection.execute(f"set search_path = {SEARCH_PATH}")
            case Kind.PREPARED:
                self.seen = await self.fetch(READ, self.number)
            case Kind.BETWEEN:
                async with self.connection.transaction():
                    self.seen = await self.fetch(CHANGE, self.number)

    async def ask(self) -> bool:
        """The next statement; whether its answer shows that nothing was lost."""
        match self.kind:
            case Kind.IDLE:
                return bool(await self.fetch("select 1") == 1)
            case Kind.SETTINGS:
                wanted = f"{TIMEOUT}/{SEARCH_PATH}"
                return bool(await self.fetch(SETTINGS) == wanted)
            case Kind.PREPARED | Kind.BETWEEN:
                return bool(await self.fetch(READ, self.number) == self.seen)

    @property
    def is_connected(self) -> bool:
        """Whether the client still has its connection, as its driver sees it."""
        if isinstance(self.connection, psycopg.AsyncConnection):
            return not self.connection.closed
        return not self.connection.is_closed()

    async def close(self) -> None:
        """Let go, whatever the other side does."""
        if isinstance(self.connection, psycopg.AsyncConnection):
            await self.connection.close()
        else:
            self.connection.terminate()


async def open_guest(stage: Stage, number: int) -> Guest:
    """Log in through the gateway."""
    opened = _psycopg if number % 2 else _asyncpg
    kinds = list(Kind)
    return await opened(stage, number, kinds[number // 2 % len(kinds)])


async def _asyncpg(stage: Stage, number: int, kind: Kind) -> Guest:
    connection = await asyncpg.connect(
        host=HOST, port=stage.gateway.port, user=USER, database=DATABASE, ssl=False,
        password=stage.credentials.password, command_timeout=COMMAND_DEADLINE_S,
    )  # fmt: skip
    # The driver keeps what it has prepared by its text, and uses it again by its name.
    return Guest(number, kind, connection, connection.fetchval)


async def _psycopg(stage: Stage, number: int, kind: Kind) -> Guest:
    connection = await psycopg.AsyncConnection.connect(
        host=HOST, port=stage.gateway.port, user=USER, dbname=DATABASE, sslmode="disable",
        password=stage.credentials.password, autocommit=True, prepare_threshold=0,
        cursor_factory=psycopg.AsyncRawCursor,
    )  # fmt: skip

    async def fetch(sql: str, *arguments: object) -> object:
        cursor = await connection.execute(sql.encode(), arguments or None)
        row = await cursor.fetchone() if cursor.description is not None else None
        return None if row is None else row[0]

    return Guest(number, kind, connection, fetch)
