"""How far a server is: one small question over one connection, as seldom as that will do.

    busy     every `BUSY_MS`, while something moves
    idle     every `IDLE_MS`
    hurried  every `HURRIED_MS`, while a promotion waits for the last WAL

What is told may be old, and is always a lower bound: neither replay nor WAL ever goes back in one
life. (`received` does: a replica that follows to another timeline begins with the segment again.)
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, TypeAlias

import asyncpg
import structlog

from fabric.lsn import Lsn, Tli
from sqlnode.postgres import Postgres

BUSY_MS: Final = 200
IDLE_MS: Final = 1_000
HURRIED_MS: Final = 5
IDLE_AFTER_LOOKS: Final = 10  # without a change
CONNECT_TIMEOUT_S: Final = 30.0  # catalogs may have to come from storage first
RETRY_PAUSE_S: Final = 0.1
LOOKS_UNTIL_STUCK: Final = 5  # with WAL that is received and not replayed
DATABASES: Final = ("postgres", "template1")
SQL_FAILURES: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)

_LOOK: Final = """
    select case when pg_is_in_recovery() then pg_last_wal_receive_lsn()
                else pg_current_wal_lsn() end::text,
           case when pg_is_in_recovery() then pg_last_wal_replay_lsn() end::text,
           case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver)::text
                else left(pg_walfile_name(pg_current_wal_lsn()), 8) end,
           pg_is_in_recovery()
"""
_PAUSED: Final = "select pg_get_wal_replay_pause_state() <> 'not paused'"

Connection: TypeAlias = asyncpg.Connection

log = structlog.get_logger()


async def connect(postgres: Postgres) -> Connection:
    """Connect as the superuser, by the socket; raises one of `SQL_FAILURES`."""
    failure: Exception = TimeoutError("there is no database to connect to")
    for database in DATABASES:
        try:
            return await asyncpg.connect(
                host=str(postgres.run_dir),
                port=postgres.port,
                user="postgres",
                database=database,
                timeout=CONNECT_TIMEOUT_S,
                server_settings={"application_name": "seawall agent"},
            )
        except asyncpg.InvalidCatalogNameError as error:  # somebody dropped it
            failure = error
    raise failure


class Positions:
    """Looks again and again, and tells; nothing is known before the first look."""

    def __init__(
        self, postgres: Postgres, *, moved: Callable[[], None], paused: Callable[[], None]
    ) -> None:
        """`moved` is called after each look, `paused` when replay waits for larger settings."""
        self.received, self.replayed, self.tli = Lsn(0), Lsn(0), Tli(1)
        self.in_recovery = True
        self._postgres, self._moved, self._paused = postgres, moved, paused
        self._is_hurried = False
        self._wake = asyncio.Event()
        self._same = 0
        self._sql: Connection | None = None

    @property
    def reached(self) -> Lsn:
        """How far the files are at least: what was replayed, or written."""
        return self.replayed

    def hurry(self, is_hurried: bool) -> None:
        """Look all the time, or as usual again."""
        if is_hurried != self._is_hurried:
            self._is_hurried = is_hurried
            self._wake.set()

    def look_now(self) -> None:
        """Do not wait until the next look is due: something has happened."""
        self._same = 0
        self._wake.set()

    async def run(self) -> None:
        """Look until cancelled. A connection that breaks is made again."""
        try:
            while True:
                try:
                    self._sql = await connect(self._postgres)
                    while True:
                        await self._look(self._sql)
                        await self._pause()
                except SQL_FAILURES as error:
                    log.debug("no position", reason=str(error))
                    await asyncio.sleep(RETRY_PAUSE_S)
                finally:
                    self.close()
        finally:
            self.close()

    def close(self) -> None:
        """Hang up."""
        if self._sql is not None:
            self._sql.terminate()
            self._sql = None

    async def _look(self, sql: Connection) -> None:
        received, replayed, tli, in_recovery = await sql.fetchrow(_LOOK)
        before = (self.received, self.replayed, self.tli)
        if received is not None:
            self.received = Lsn.parse(received)
        if in_recovery:
            self.replayed = self.replayed if replayed is None else Lsn.parse(replayed)
        else:
            self.replayed = self.received
        if tli is not None:
            self.tli = Tli(int(tli, 10 if in_recovery else 16))
        self.in_recovery = in_recovery
        self._same = self._same + 1 if before == (self.received, self.replayed, self.tli) else 0
        self._moved()
        is_behind = in_recovery and self.replayed < self.received
        if is_behind and self._same == LOOKS_UNTIL_STUCK and await sql.fetchval(_PAUSED):
            self._paused()

    async def _pause(self) -> None:
        pause_ms = BUSY_MS if self._same < IDLE_AFTER_LOOKS else IDLE_MS
        pause_ms = HURRIED_MS if self._is_hurried else pause_ms
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_ms / 1000):
                await self._wake.wait()
