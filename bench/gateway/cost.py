"""Processor time a query, and added latency: direct, pgbouncer and the gateway by turns.

Every round has all ways, in an order that changes from round to round; what is compared are the
figures of one round, so that a slow minute of the machine hits both sides of a ratio.
"""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from bench.faults.target import TargetError
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .bars import CLIENTS, LATENCY_CLIENTS, LATENCY_MODES, MODES, cpu_name, latency_name
from .load import Load, Wanted, loaded, prepare
from .ways import DIRECT, GATEWAY, PGBOUNCER, rotated
from .world import Stage, staged

ROUNDS: Final = 5
ROUNDS_QUICK: Final = 3
ROUND_S: Final = 4
ROUND_QUICK_S: Final = 2

Round = Mapping[str, Load]  # by way


def measure_cpu(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """Processor time of the proxies."""
    return asyncio.run(_cpu(place, arguments))


async def _cpu(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    rounds, seconds = _extent(arguments)
    measurements: list[Measurement] = []
    async with staged(place, arguments) as stage:
        scale = await prepare(stage, is_quick=arguments.quick)
        processes = len(stage.gateway.pids())
        for mode in MODES:
            for clients in CLIENTS:
                wanted = Wanted(mode=mode, clients=clients, seconds=seconds)
                found = await asyncio.to_thread(_rounds, stage, wanted, rounds)
                measurements += cpu_measurements(mode, clients, found)
    return Outcome(
        benchmark="cpu",
        settings={
            "scale": scale,
            "rounds": rounds,
            "round_s": seconds,
            "gateway_processes": processes,
        },
        measurements=measurements,
    )


def cpu_measurements(mode: str, clients: int, rounds: Sequence[Round]) -> list[Measurement]:
    """The ratio, and what it is made of."""
    name = cpu_name(mode, clients)
    if not all(one[PGBOUNCER].cpu_us for one in rounds):
        raise TargetError("pgbouncer used no processor time: there is nothing to compare with")
    ratios = tuple(one[GATEWAY].cpu_us / one[PGBOUNCER].cpu_us for one in rounds)
    return [
        Measurement(name, "", ratios),
        *(
            Measurement(f"{name}_{way}_us", "us", tuple(one[way].cpu_us for one in rounds))
            for way in (PGBOUNCER, GATEWAY)
        ),
        *(
            Measurement(f"{name}_{way}_tps", "/s", tuple(one[way].per_s for one in rounds))
            for way in (DIRECT, PGBOUNCER, GATEWAY)
        ),
    ]


def measure_latency(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """What the proxies add to the median."""
    return asyncio.run(_latency(place, arguments))


async def _latency(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    rounds, seconds = _extent(arguments)
    measurements: list[Measurement] = []
    async with staged(place, arguments) as stage:
        scale = await prepare(stage, is_quick=arguments.quick)
        for mode in LATENCY_MODES:
            wanted = Wanted(
                mode=mode, clients=LATENCY_CLIENTS, seconds=seconds, is_latency_wanted=True
            )
            found = await asyncio.to_thread(_rounds, stage, wanted, rounds)
            measurements += latency_measurements(mode, found)
    return Outcome(
        benchmark="latency",
        settings={
            "scale": scale,
            "rounds": rounds,
            "round_s": seconds,
            "clients": LATENCY_CLIENTS,
        },
        measurements=measurements,
    )


def latency_measurements(mode: str, rounds: Sequence[Round]) -> list[Measurement]:
    """The ratio of what is added, and what it is made of.

    What is added is a small difference, which one disturbed round can turn around: so it is taken
    of the medians of all rounds.
    """
    name = latency_name(mode)
    latency_us = {
        way: Measurement(f"{name}_{way}_us", "us", tuple(one[way].latency_us for one in rounds))
        for way in (DIRECT, PGBOUNCER, GATEWAY)
    }
    added_us = {
        way: latency_us[way].value - latency_us[DIRECT].value for way in (PGBOUNCER, GATEWAY)
    }
    if added_us[PGBOUNCER] <= 0:
        raise TargetError(
            "pgbouncer was faster than no pgbouncer, so there is nothing to compare with: "
            "others use the machine"
        )
    return [
        Measurement(name, "", (added_us[GATEWAY] / added_us[PGBOUNCER],)),
        *(Measurement(f"{name}_{way}_added_us", "us", (us,)) for way, us in added_us.items()),
        *latency_us.values(),
    ]


def _extent(arguments: argparse.Namespace) -> tuple[int, int]:
    return (ROUNDS_QUICK, ROUND_QUICK_S) if arguments.quick else (ROUNDS, ROUND_S)


def _rounds(stage: Stage, wanted: Wanted, rounds: int) -> list[Round]:
    return [
        {way.name: loaded(stage, way, wanted) for way in rotated(stage.ways, number)}
        for number in range(rounds)
    ]
