"""What thousands of clients weigh that have logged in and say nothing."""

import argparse
import asyncio
from typing import Final

from bench.faults.target import TargetError
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .light_client import LightClient, raise_descriptor_limit
from .ways import Way, rotated
from .world import Stage, staged

CLIENTS: Final = 5_000
AT_A_TIME: Final = 32
OTHER_FILES: Final = 1_000
SETTLED_S: Final = 3.0
ASKED: Final = 20  # clients that say something at the end: each is given a link of its own


def measure_idle(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """The gateway's memory, and pgbouncer's."""
    return asyncio.run(_idle(place, arguments))


async def _idle(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    raise_descriptor_limit(CLIENTS + OTHER_FILES)
    measurements: list[Measurement] = []
    async with staged(place, arguments) as stage:
        for way in rotated(stage.ways[1:], 1):
            before_mb = way.memory_mb()
            total_mb = await _memory_mb(stage, way)
            name = "idle" if way is stage.gateway else f"idle_{way.name}"
            measurements += [
                Measurement(f"{name}_memory_mb", "MB", (total_mb,)),
                Measurement(f"{name}_memory_before_mb", "MB", (before_mb,)),
                Measurement(f"{name}_kb_a_client", "kB", ((total_mb - before_mb) / CLIENTS * 1e3,)),
            ]
    return Outcome(benchmark="idle", settings={"clients": CLIENTS}, measurements=measurements)


async def _memory_mb(stage: Stage, way: Way) -> float:
    """Memory while all are logged in; they must be there still when it is known."""
    clients: list[LightClient] = []
    free = asyncio.Semaphore(AT_A_TIME)

    async def come() -> None:
        async with free:
            clients.append(await LightClient.open(way.port, stage.credentials.keys))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(come())
        await asyncio.sleep(SETTLED_S)
        total_mb = way.memory_mb()
        gone = sum(not client.is_open for client in clients)
        if gone:
            raise TargetError(f"{gone} of {CLIENTS} idle clients were closed by {way.name}")
        for client in clients[:: CLIENTS // ASKED]:
            await client.ask("select 1")
    finally:
        for client in clients:
            client.close()
        for client in clients:
            await client.leave()
    return total_mb
