"""Sessions of both drivers that clients of PostgreSQL in Python use, behind one face.

    session = await connect(Driver.ASYNCPG, Dsn.parse(dsn), rng)
    rows = await session.fetch("select $1::int", 1)

`connect` finds the server that may be written to, as libpq does with several hosts and
`target_session_attrs=read-write`: one after the other, in an order of its own at each call, so
that not everybody waits for the same one that hangs. Both drivers get the same patience for a host,
which their own settings do not allow.

Errors are two: `RefusedError`, an answer of the server about the statement, after which the session
lives on; and `BrokenError`, after which it does not, and nobody knows what became of the statement.
A WARNING sets `warned`: PostgreSQL sends one with the success of a commit that has not waited for
its synchronous standby.
"""

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol, Self

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict

HOST_PATIENCE_S: Final = 1.0  # for a connection to one host; a new one takes 20 ms
# Classes of SQLSTATE in which the server tells about itself rather than about the statement.
SERVER_TROUBLE: Final = ("08", "53", "57", "58", "XX")
VERIFYING: Final = ("verify-ca", "verify-full")

# Who waits for a lock that will never come loses it soon: the workload makes many deadlocks.
GREETING: Final = (
    "select case when pg_is_in_recovery() then null else"
    " set_config('deadlock_timeout', '50ms', false)"
    " || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end"
)

Row = tuple[Any, ...]


class RefusedError(Exception):
    """The server has refused a statement; the session can be used further, after a rollback."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(f"{sqlstate}: {text}")
        self.sqlstate = sqlstate

    @property
    def is_definite(self) -> bool:
        """Whether a commit that ends so has certainly not happened."""
        return self.sqlstate[:2] not in SERVER_TROUBLE


class BrokenError(Exception):
    """The session has ended; what was under way may have happened."""


class Driver(StrEnum):
    """Whose code talks to the server."""

    ASYNCPG = "asyncpg"
    PSYCOPG = "psycopg"


class Session(Protocol):
    """A connection in autocommit mode."""

    server: str  # timeline and port
    warned: bool

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Carry a statement out; its rows."""

    def abort(self) -> None:
        """Break the connection at once; a statement that waits ends with BrokenError."""

    async def close(self) -> None:
        """Let go of it, whatever the server does."""


@dataclass(frozen=True, slots=True)
class Dsn:
    """The parts of a connection string."""

    hosts: tuple[tuple[str, int], ...]
    others: Mapping[str, str] = field(default_factory=dict, repr=False)  # has the password

    @classmethod
    def parse(cls, dsn: str) -> Self:
        """Take a URL, or key=value pairs, of one host or several."""
        values = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
        names = values.pop("host", "localhost").split(",")
        ports = values.pop("port", "5432").split(",")
        if len(ports) == 1:
            ports *= len(names)
        values.pop("target_session_attrs", None)
        values.pop("load_balance_hosts", None)
        return cls(tuple(zip(names, map(int, ports), strict=True)), values)


async def connect(driver: Driver, dsn: Dsn, rng: random.Random) -> Session:
    """A session on the one host that may be written to; BrokenError if there is none now."""
    last: Exception | None = None
    for host, port in rng.sample(dsn.hosts, len(dsn.hosts)):
        try:
            async with asyncio.timeout(HOST_PATIENCE_S):
                opened = await _OPENERS[driver](dsn, host, port)
                try:
                    greeting = (await opened.fetch(GREETING))[0][0]
                except BaseException:
                    await opened.close()
                    raise
        except (TimeoutError, OSError, RefusedError, BrokenError) as error:
            last = error
            continue
        if greeting is not None:
            opened.server = f"{greeting[-8:].lstrip('0')}@{port}"
            return opened
        await opened.close()
    raise BrokenError(f"no host takes writes ({last or 'all are replicas'})")


class AsyncpgSession:
    """A session of asyncpg."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.server = ""
        self.warned = False
        connection.add_log_listener(self._note)

    @classmethod
    async def open(cls, dsn: Dsn, host: str, port: int) -> "AsyncpgSession":
        """Connect to one host."""
        values = dsn.others
        with _asyncpg_errors():
            connection = await asyncpg.connect(
                host=host, port=port, user=values.get("user", "postgres"),
                password=values.get("password"), passfile=values.get("passfile"),
                database=values.get("dbname", "postgres"),
                ssl=_ssl_of(values), timeout=HOST_PATIENCE_S,
            )  # fmt: skip
        return cls(connection)

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """As Session has it."""
        with _asyncpg_errors():
            if not arguments and not sql.startswith("select"):
                await self._connection.execute(sql)
                return []
            return [tuple(row) for row in await self._connection.fetch(sql, *arguments)]

    def abort(self) -> None:
        """As Session has it."""
        self._connection.terminate()

    async def close(self) -> None:
        """As Session has it."""
        self._connection.terminate()

    def _note(self, _: object, message: Any) -> None:
        self.warned |= getattr(message, "severity_en", None) == "WARNING"


class PsycopgSession:
    """A session of psycopg, and so of libpq."""

    def __init__(self, connection: "psycopg.AsyncConnection[Row]") -> None:
        self._connection = connection
        self.server = ""
        self.warned = False
        connection.add_notice_handler(self._note)

    @classmethod
    async def open(cls, dsn: Dsn, host: str, port: int) -> "PsycopgSession":
        """Connect to one host."""
        values: dict[str, Any] = {"user": "postgres", "dbname": "postgres", **dsn.others}
        with _psycopg_errors():
            connection = await psycopg.AsyncConnection.connect(
                **{**values, "host": host, "port": port},
                autocommit=True,
                cursor_factory=psycopg.AsyncRawCursor,
            )
        return cls(connection)

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """As Session has it."""
        with _psycopg_errors():
            cursor = await self._connection.execute(sql.encode(), arguments or None)
            return [] if cursor.description is None else await cursor.fetchall()

    def abort(self) -> None:
        """As Session has it.

        Closing would free what a coroutine waits for, and cancelling has psycopg ask the server
        first, which may hang: so the socket is shut down under it.
        """
        if self._connection.closed:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(self._connection.fileno())) as under,
        ):
            under.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """As Session has it."""
        await self._connection.close()

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        self.warned |= notice.severity_nonlocalized == "WARNING"


_OPENERS: Final[Mapping[Driver, Callable[[Dsn, str, int], Awaitable[Session]]]] = {
    Driver.ASYNCPG: AsyncpgSession.open,
    Driver.PSYCOPG: PsycopgSession.open,
}


@contextlib.contextmanager
def _asyncpg_errors() -> Iterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _told(error.sqlstate or "", str(error)) from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise BrokenError(str(error) or repr(error)) from error


@contextlib.contextmanager
def _psycopg_errors() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise _told(error.sqlstate or "", str(error)) from error


def _told(sqlstate: str, text: str) -> RefusedError | BrokenError:
    """Without a state it is the driver that speaks; 08 and 57P0 are ends of sessions."""
    if not sqlstate or sqlstate.startswith(("08", "57P0")):
        return BrokenError(f"{sqlstate}: {text}" if sqlstate else text)
    return RefusedError(sqlstate, text)


def _ssl_of(values: Mapping[str, str]) -> ssl.SSLContext | str | None:
    mode = values.get("sslmode")
    if mode not in VERIFYING:
        return mode
    context = ssl.create_default_context(cafile=values.get("sslrootcert"))
    context.check_hostname = mode == "verify-full"
    return context
