"""Our own driver: clients of asyncpg in as many processes as they need, for closed and open loops.

    tally = put_on(address, script, settings)
    outcome = tally.outcome(DRIVER)

All processes begin at the same moment, once all clients are connected. Their processor time is
counted while the load counts, and only theirs: this process waits. How it compares with pgbench is
what `agreement` measures; for what pgbench can do, pgbench is the better driver.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Final, TypeVar

import asyncpg

from bench.targets.target import Address

from .load import LoadSettings
from .script import Connection, Script
from .tally import LoadError, Tally
from .worker import BROKEN, Share, connect, work

T = TypeVar("T")

DRIVER: Final = "asyncpg"
CLIENTS_A_PROCESS: Final = 8  # an interpreter that waits for eight clients is rarely the bottleneck
BEGIN_SECONDS: Final = 0.05  # from "all are ready" to the begin: to tell it to all of them
READY_SECONDS: Final = 60.0  # interpreters and connections take one
END_SECONDS: Final = 30.0  # beyond patience with what had begun
FINDINGS_A_RULE: Final = 10  # of thousands that one fault makes


def put_on(address: Address, script: Script, settings: LoadSettings) -> Tally:
    """Load a server for as long as the settings say; LoadError if it cannot be done."""
    if settings.clients < 1 or settings.seconds <= 0:
        raise LoadError(
            f"{settings.clients} clients for {settings.seconds:g} s are no load: ask for more of it"
        )
    count = process_count(settings.clients)
    shares = [
        Share(address=address, script=script, settings=settings, process=n, processes=count)
        for n in range(count)
    ]
    context = multiprocessing.get_context("spawn")
    running: list[tuple[BaseProcess, Pipe]] = []
    try:
        for share in shares:
            here, there = context.Pipe()
            process: BaseProcess = context.Process(target=work, args=(share, there), daemon=True)
            process.start()
            there.close()  # so that its end is seen here
            running.append((process, here))
        return _carried_out(running, script, settings)
    finally:
        for process, pipe in running:
            process.kill()
            process.join()
            pipe.close()


def process_count(clients: int) -> int:
    """So many as keep up, of which no more than this machine runs at a time."""
    return max(1, min(-(-clients // CLIENTS_A_PROCESS), os.cpu_count() or 1))


def carry_out(address: Address, what: Callable[[Connection], Awaitable[T]]) -> T:
    """Do something on a session of its own, from code that blocks."""

    async def run() -> T:
        connection = await connect(address)
        try:
            return await what(connection)
        finally:
            await connection.close()

    try:
        return asyncio.run(run())
    except (asyncpg.PostgresError, *BROKEN) as error:
        raise LoadError(
            f"a statement on {address.host}:{address.port} failed: {str(error) or repr(error)}:"
            " look at the server's log, and prepare the tables again"
        ) from error


def execute(address: Address, *statements: str) -> None:
    """Carry statements out one after the other."""

    async def run(connection: Connection) -> None:
        for statement in statements:
            await connection.execute(statement)

    carry_out(address, run)


def rule_findings(address: Address, rules: Mapping[str, str]) -> list[str]:
    """What breaks rules, each a sentence and a query for what breaks it."""

    async def look(connection: Connection) -> list[str]:
        found = []
        for sentence, query in rules.items():
            rows = await connection.fetch(query)
            found += [f"{sentence}: {', '.join(map(str, row))}" for row in rows[:FINDINGS_A_RULE]]
        return found

    return carry_out(address, look)


def _carried_out(
    running: list[tuple[BaseProcess, Pipe]], script: Script, settings: LoadSettings
) -> Tally:
    end_s = time.monotonic() + READY_SECONDS
    for _, pipe in running:
        ready = _received(pipe, end_s, "connect its clients")
        assert ready == "ready", "the first message of a process"
    begin_s = time.monotonic() + BEGIN_SECONDS
    for _, pipe in running:
        pipe.send(begin_s)
    load_seconds = settings.warm_seconds + settings.seconds
    end_s = begin_s + load_seconds + script.patience_seconds + END_SECONDS
    total = Tally(settings.seconds)
    for _, pipe in running:
        tally = _received(pipe, end_s, "finish")
        assert isinstance(tally, Tally), "the second message of a process"
        total.merge(tally)
    return total


def _received(pipe: Pipe, end_s: float, what: str) -> object:
    try:
        if not pipe.poll(max(0.0, end_s - time.monotonic())):
            raise LoadError(f"a process of the load did not {what} in time: use fewer clients")
        message = pipe.recv()
    except EOFError as error:
        raise LoadError(
            f"a process of the load ended before it could {what}: read its errors above"
        ) from error
    if isinstance(message, LoadError):
        raise message
    return message
