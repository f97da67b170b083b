"""One stock PostgreSQL that somebody starts again whenever it dies: the suite's own test.

What is found here is the fault of the suite, or what its settings deserve: without synchronous
commits, kill -9 loses acknowledged rows, and the suite has to say so.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from sqlnode.postgres import Mode, Postgres, PostgresError

from .target import Component, Disk, Kind, Link, Role

RETRY_S: Final = 0.1
NAME: Final = "stock"


class StockTarget:
    """A server, and who starts it again."""

    def __init__(
        self, server: Postgres, *, dsn: str | None = None, links: Mapping[str, Link] | None = None
    ) -> None:
        self._server = server
        self._dsn = dsn or server.conninfo()
        self._links = dict(links or {})

    @property
    def dsn(self) -> str:
        """Its Unix socket, unless another way was named."""
        return self._dsn

    @property
    def links(self) -> Mapping[str, Link]:
        """Those that were named."""
        return self._links

    @property
    def disks(self) -> Mapping[str, Disk]:
        """None."""
        return {}

    @property
    def keeper_pid(self) -> int | None:
        """It is this process."""
        return None

    async def rebuild(self, component: Component) -> None:
        """Nothing can be lost that has to be made again."""

    async def components(self) -> list[Component]:
        """The server, and the links to it."""
        found = [Component(Kind.LINK, name, Role.ANY) for name in self._links]
        if self._server.running:
            pids = (self._server.pid,)
            found.append(Component(Kind.POSTGRES, NAME, Role.LEADING, pids, mark="postgres"))
        return found

    async def missing(self) -> str:
        """A server that accepts connections is whole."""
        return (
            ""
            if self._server.running and self._server.mode() is Mode.READ_WRITE
            else "postgres is down"
        )

    async def keep_running(self) -> None:
        """Start the server again whenever it ends, for ever."""
        while True:
            if self._server.running:
                await self._server.wait_exit()
            # Backends that have not noticed yet hold the shared memory for a moment.
            with contextlib.suppress(PostgresError):
                await self._server.start()
                continue
            await asyncio.sleep(RETRY_S)


@contextlib.asynccontextmanager
async def kept_running(target: StockTarget) -> AsyncIterator[StockTarget]:
    """While this lasts the server is started again."""
    keeper = asyncio.create_task(target.keep_running())
    try:
        yield target
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
