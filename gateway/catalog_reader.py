"""Reads from the primary's catalog what a gateway has to know: users, and what functions do.

    reader = CatalogReader(password=..., tls=..., on_catalog=...)
    reader.follow(view)                        whenever there is another primary
    await reader.user(name)                    a User, or None: there is none of that name
    reader.use(database)                       its Catalog; EMPTY until it has been read
    reader.leave(database)                     one session less in that database

Users are read on demand, one query at a time, over one connection to database postgres. Functions,
operators and views belong to a database, so they are read over a connection to it, which is closed
again: when its first session comes, every REFRESH_S while there are sessions, and after a failover.
`on_catalog` hears of a catalog that is another one than before. One that cannot be read changes
nothing: with the EMPTY one everything goes to the primary.

Whoever has no primary to ask gets what is known (users.py says for how long), or waits until
there is one, or its time is up: CatalogAwayError.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import asyncpg
import structlog

from .classification.catalog import (
    FUNCTIONS_SQL,
    OPERATORS_SQL,
    VIEWS_SQL,
    Catalog,
    catalog_of,
)
from .settings import GATEWAY_ROLE
from .topology import ComputesView, Target
from .users import USER_SQL, CatalogRowError, User, Users, can_be_a_name, user_of

CONNECT_S: Final = 1.5
QUERY_S: Final = 1.5
PAUSE_S: Final = 0.5  # after an attempt that failed; meanwhile what is known has to do
CATALOG_S: Final = 20.0  # to read one database; 100,000 functions take two
REFRESH_S: Final = 60.0
RETRY_S: Final = 2.0
LOOK_S: Final = 0.02  # between attempts to ask a primary that does not answer
USER_TIMEOUT_MS: Final = 10_000
DATABASES_MAX: Final = 100  # whose catalogs are kept
ROWS_MAX: Final = 200_000  # of one catalog; more than that is not looked at
LOADING_MAX: Final = 2  # catalogs that are read at the same time
DATABASE: Final = "postgres"

Connection: TypeAlias = asyncpg.Connection
FAILURES: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    CatalogRowError,
    ValueError,  # what comes from a server that is none
)

log = structlog.get_logger()


class CatalogAwayError(Exception):
    """Nobody can say who a user is, because the primary does not answer: try again."""


class _Served:
    """A database with sessions, or that had some."""

    def __init__(self) -> None:
        self.catalog = Catalog.EMPTY
        self.sessions = 0
        self.digest: int | None = None  # of the rows that the catalog was made of
        self.due = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class CatalogReader:
    """What the primary's catalog says, as far as anybody has asked."""

    def __init__(
        self,
        *,
        password: str,
        tls: ssl.SSLContext | None,
        on_catalog: Callable[[str, Catalog], None],
    ) -> None:
        self._password, self._tls, self._on_catalog = password, tls, on_catalog
        self._primary: Target | None = None
        self._users = Users()
        self._reading: dict[str, asyncio.Task[User | None]] = {}
        self._connection: Connection | None = None
        self._connected_to: Target | None = None
        self._turn = asyncio.Lock()  # of the connection
        self._not_before_s = 0.0
        self._databases: dict[str, _Served] = {}
        self._loading = asyncio.Semaphore(LOADING_MAX)
        self._complaint = ""

    def follow(self, view: ComputesView) -> None:
        """Take a new view; another primary may have another catalog."""
        if view.primary == self._primary:
            return
        self._primary = view.primary
        self._not_before_s = 0.0
        if view.primary is not None:
            for served in self._databases.values():
                served.due.set()

    async def close(self) -> None:
        """End everything."""
        tasks: list[asyncio.Task[Any]] = list(self._reading.values())
        tasks += [one.task for one in self._databases.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._disconnect()

    # --- Users --------------------------------------------------------------------------------

    def knows(self, name: str) -> bool:
        """Whether `user` has an answer when there is no primary to ask."""
        known = self._users.get(name, time.monotonic())
        return known is not None and known.user is not None

    async def user(self, name: str, *, timeout_ms: int = USER_TIMEOUT_MS) -> User | None:
        """Return a user as it is now, or None: there is none of that name."""
        if not can_be_a_name(name):
            return None
        known = self._users.get(name, time.monotonic())
        if known is not None and known.needs_no_question:
            return known.user
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await self._read_shared(name)
        except TimeoutError:
            raise CatalogAwayError(
                "the primary does not say who may log in: try again in a moment"
            ) from None

    async def _read_shared(self, name: str) -> User | None:
        """Read a user once for all who want to know, until it was read."""
        task = self._reading.get(name)
        if task is None:
            task = self._reading[name] = asyncio.create_task(self._read_user(name))
            task.add_done_callback(lambda task: self._has_read(name, task))
        return await asyncio.shield(task)

    def _has_read(self, name: str, task: "asyncio.Task[User | None]") -> None:
        del self._reading[name]
        if not task.cancelled():
            task.exception()  # whoever wanted to know may have left

    async def _read_user(self, name: str) -> User | None:
        # Bounded for the task itself, which goes on when whoever began it has left.
        async with asyncio.timeout(USER_TIMEOUT_MS / 1000):
            while True:
                if self._primary is not None and await self._try_to_read(name):
                    known = self._users.get(name, time.monotonic())
                    return None if known is None else known.user
                known = self._users.get(name, time.monotonic())
                if known is not None and known.user is not None:
                    return known.user  # as it was before the primary went away
                await asyncio.sleep(LOOK_S)

    async def _try_to_read(self, name: str) -> bool:
        """Ask the primary; whether it has answered."""
        try:
            async with self._turn:
                if time.monotonic() < self._not_before_s:
                    return False  # whoever had the turn before has just tried
                connection = await self._connect()
                row = await connection.fetchrow(USER_SQL, name, timeout=QUERY_S)
            user = None if row is None else user_of(tuple(row))
        except FAILURES as error:
            self._disconnect()
            self._not_before_s = time.monotonic() + PAUSE_S
            self._complain(error)
            return False
        self._complaint = ""
        self._users.put(name, user, time.monotonic())
        return True

    async def _connect(self) -> Connection:
        if self._connected_to != self._primary:
            self._disconnect()
        if self._connection is None or self._connection.is_closed():
            target = self._primary
            if target is None:
                raise TimeoutError("there is no primary")
            self._connection = await self._connection_to(target, DATABASE)
            self._connected_to = target
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._connected_to = None
        if connection is not None:
            connection.terminate()

    async def _connection_to(self, target: Target, database: str) -> Connection:
        async with asyncio.timeout(CONNECT_S):
            return await asyncpg.connect(
                host=target.host,
                port=target.port,
                user=GATEWAY_ROLE,
                password=self._password,
                database=database,
                ssl=self._tls if self._tls is not None else False,
                timeout=CONNECT_S,
                # Nothing that users have made is looked up, and nothing is written.
                server_settings={
                    "application_name": GATEWAY_ROLE,
                    "default_transaction_read_only": "on",
                    "search_path": "pg_catalog",
                },
            )

    def _complain(self, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"[:300]
        if not self._complaint:
            log.warning("the catalog cannot be read", reason=reason)
        self._complaint = reason

    # --- Functions, operators, views ----------------------------------------------------------

    def use(self, database: str) -> Catalog:
        """Count a session in a database; return what is known of that."""
        served = self._databases.get(database)
        if served is None:
            if len(self._databases) >= DATABASES_MAX and not self._drop_one():
                return Catalog.EMPTY
            served = self._databases[database] = _Served()
        served.sessions += 1
        if served.task is None:
            served.due.set()
            served.task = asyncio.create_task(self._keep_read(database, served))
        return served.catalog

    def leave(self, database: str) -> None:
        """Count a session less. The catalog stays, for the next one, and is read no more."""
        served = self._databases.get(database)
        if served is None or served.sessions == 0:
            return
        served.sessions -= 1

    def catalog(self, database: str) -> Catalog:
        """Return what is known of a database."""
        served = self._databases.get(database)
        return Catalog.EMPTY if served is None else served.catalog

    def _drop_one(self) -> bool:
        """Forget a database that has no sessions; whether there is one."""
        for name, served in self._databases.items():
            if served.sessions == 0 and served.task is None:
                del self._databases[name]
                return True
        return False

    async def _keep_read(self, database: str, served: _Served) -> None:
        """Read a catalog again and again, as long as the database has sessions."""
        try:
            while served.sessions:
                served.due.clear()
                is_read = await self._read_catalog(database, served)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_S if is_read else RETRY_S):
                        await served.due.wait()
        finally:
            served.task = None

    async def _read_catalog(self, database: str, served: _Served) -> bool:
        target = self._primary
        if target is None:
            return False
        try:
            async with self._loading, asyncio.timeout(CATALOG_S):
                connection = await self._connection_to(target, database)
                try:
                    rows: list[Any] = [
                        await self._rows(connection, sql)
                        for sql in (FUNCTIONS_SQL, OPERATORS_SQL, VIEWS_SQL)
                    ]
                finally:
                    connection.terminate()
                # In a thread, which gives way every few milliseconds: sessions go on meanwhile.
                digest = await asyncio.to_thread(_digest, rows)
                if digest == served.digest:
                    return True
                catalog = await asyncio.to_thread(catalog_of, *rows)
        except FAILURES as error:
            log.warning(
                "the functions of a database cannot be read: its reads go to the primary",
                database=database[:100], reason=f"{type(error).__name__}: {error}"[:300],
            )  # fmt: skip
            return False
        served.digest = digest
        if catalog != served.catalog:
            served.catalog = catalog
            self._on_catalog(database, catalog)
        return True

    async def _rows(self, connection: Connection, sql: str) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = await connection.fetch(sql, timeout=CATALOG_S)
        if len(rows) > ROWS_MAX:
            raise CatalogRowError(f"there are {len(rows)} rows, more than {ROWS_MAX}")
        return rows


def _digest(rows: Sequence[Sequence[Sequence[Any]]]) -> int:
    """Return a number that is another one when anything is: within one process."""
    return hash(repr(rows))
