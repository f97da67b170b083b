"""A blocking SQL session, for commands that do one thing after the other."""

import asyncio
from types import TracebackType
from typing import Self

import asyncpg

from sqlnode.postgres import Postgres

CONNECT_TIMEOUT_S = 30.0


class Session:
    """A connection to a server's Unix socket. Use as `with`."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._connection = self._runner.run(
            asyncpg.connect(
                host=str(self._server.run_dir),
                port=self._server.port,
                user="postgres",
                database="postgres",
                timeout=CONNECT_TIMEOUT_S,
            )
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.terminate()
        self._runner.close()

    def run(self, *statements: str) -> None:
        """Execute statements, each by itself."""
        for statement in statements:
            self._runner.run(self._connection.execute(statement))

    def value(self, query: str) -> object:
        """The one value of a query."""
        return self._runner.run(self._connection.fetchval(query))
