"""Short conversations with a server, each bounded in time: does it take a write, what does it say.

A server that hangs, or whose commits wait for a standby that is gone, must not hang who asks.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

from .target import Address, TargetError

ASK_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.25

# Writes WAL and needs no table, so its commit waits for whoever a commit waits for.
WRITE: Final = "select pg_logical_emit_message(true, 'bench', 'alive')"


def ask(address: Address, *statements: str, seconds: float = ASK_SECONDS) -> list[Any]:
    """Run statements in autocommit mode; the first row of the last one.

    psycopg.Error, or TimeoutError when it takes too long. For code that blocks: there must not be
    a running event loop in this thread.
    """
    return asyncio.run(_ask(address, statements, seconds))


async def _ask(address: Address, statements: tuple[str, ...], seconds: float) -> list[Any]:
    row: Any = None
    async with asyncio.timeout(seconds):
        connection = await psycopg.AsyncConnection.connect(
            address.conninfo(), password=address.password, autocommit=True
        )
        try:
            for statement in statements:
                cursor = await connection.execute(statement.encode())
                row = await cursor.fetchone() if cursor.description else None
        finally:
            await connection.close()
    return list(row or ())


def takes_writes(address: Address) -> str:
    """Whether a server acknowledges a write: empty, or why not."""
    try:
        ask(address, WRITE)
    except TimeoutError:
        return f"port {address.port} acknowledges no write within {ASK_SECONDS:g} s"
    except psycopg.Error as error:
        return f"port {address.port} takes no write: {str(error).strip()}"
    return ""


def wait_until_nothing_is_missing(
    name: str, missing: Callable[[], str], *, deadline_seconds: float
) -> None:
    """Look again and again; TargetError says what is missing for too long."""
    end = time.monotonic() + deadline_seconds
    while found := missing():
        if time.monotonic() > end:
            raise TargetError(f"{name} is not whole after {deadline_seconds:g} s: {found}")
        time.sleep(LOOK_SECONDS)
