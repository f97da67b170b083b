"""Clients: each has one connection at a time, does one work after the other, and notes the end.

    await run_clients(plans, dsn, recorder, stop, seed=1)

A client that loses its connection, or its patience, opens another one. What it may conclude about
the transaction that was under way is decided by `result_of`, and by nothing else.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .history import Operation, Result
from .sessions import BrokenError, Driver, Dsn, RefusedError, Session, connect
from .workloads import Work, Workload

PATIENCE_S: Final = 5.0  # with one transaction; longer than a failover may take
RECONNECT_PAUSE_S: Final = 0.1  # on average; together the clients look every few milliseconds
ERROR_CHARACTERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """Who does what through which driver."""

    process: int
    driver: Driver
    workload: Workload


@dataclass(slots=True)
class Recorder:
    """All that was done, in the order in which it ended."""

    operations: list[Operation] = field(default_factory=list)


def result_of(error: Exception | None, *, was_commit_sent: bool, warned: bool) -> Result:
    """What a client may conclude.

    Before COMMIT was sent no transaction can have happened. A commit that succeeded with a warning
    has not waited for the log, so it may be lost; one that was refused for what the transaction
    is has not happened; everything else about a commit is unknown.
    """
    if error is None:
        return Result.UNKNOWN if warned else Result.OK
    if not was_commit_sent:
        return Result.FAIL
    is_definite = isinstance(error, RefusedError) and error.is_definite
    return Result.FAIL if is_definite else Result.UNKNOWN


async def attempt(
    session: Session, work: Work, process: int, *, patience_s: float = PATIENCE_S
) -> tuple[Operation, bool]:
    """Run one work; what to note, and whether the session can be used further."""
    watchdog = asyncio.get_running_loop().call_later(patience_s, session.abort)
    invoke_ns = time.monotonic_ns()
    session.warned = False
    was_commit_sent = work.level is None
    error: Exception | None = None
    try:
        if work.level is not None:
            await session.fetch(f"begin isolation level {work.level}")
        await work.do(session)
        if work.level is not None:
            session.warned = False
            was_commit_sent = True
            await session.fetch("commit")
    except (RefusedError, BrokenError) as caught:
        error = caught
    finally:
        watchdog.cancel()
    result = result_of(error, was_commit_sent=was_commit_sent, warned=session.warned)
    noted: dict[str, Any] = {
        "process": process,
        "result": result,
        "invoke_ns": invoke_ns,
        "return_ns": time.monotonic_ns(),
        "server": session.server,
        "error": str(error)[:ERROR_CHARACTERS_MAX] if error else "",
    }
    operation = work.operation(**noted)
    return operation, not isinstance(error, BrokenError) and await _rolled_back(session, error)


async def _rolled_back(session: Session, error: Exception | None) -> bool:
    if error is None:
        return True
    watchdog = asyncio.get_running_loop().call_later(PATIENCE_S, session.abort)
    try:
        await session.fetch("rollback")
    except (RefusedError, BrokenError):
        return False
    finally:
        watchdog.cancel()
    return True


async def run_client(
    plan: ClientPlan,
    dsn: Dsn,
    recorder: Recorder,
    stop: asyncio.Event,
    rng: random.Random,
    *,
    pause_s: float = 0.0,
    patience_s: float = PATIENCE_S,
) -> None:
    """Work until told to stop; the last work is finished."""
    session: Session | None = None
    try:
        while not stop.is_set():
            if session is None:
                session = await _connected(plan.driver, dsn, stop, rng)
                continue
            work = plan.workload.work(rng)
            operation, is_usable = await attempt(session, work, plan.process, patience_s=patience_s)
            recorder.operations.append(operation)
            if not is_usable:
                await session.close()
                session = None
            elif pause_s:
                await asyncio.sleep(pause_s)
    finally:
        if session is not None:
            await session.close()


async def _connected(
    driver: Driver, dsn: Dsn, stop: asyncio.Event, rng: random.Random
) -> Session | None:
    try:
        return await connect(driver, dsn, rng)
    except BrokenError:
        await _pause(stop, RECONNECT_PAUSE_S * rng.uniform(0.5, 1.5))
        return None


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


async def run_clients(
    plans: Sequence[ClientPlan],
    dsn: Dsn,
    recorder: Recorder,
    stop: asyncio.Event,
    *,
    seed: int,
    pause_s: float = 0.0,
    patience_s: float = PATIENCE_S,
) -> None:
    """All of them, each with random numbers of its own."""
    async with asyncio.TaskGroup() as group:
        for plan in plans:
            rng = random.Random(f"{seed}/{plan.process}")  # noqa: S311  # replays, protects nothing
            group.create_task(
                run_client(plan, dsn, recorder, stop, rng, pause_s=pause_s, patience_s=patience_s)
            )
