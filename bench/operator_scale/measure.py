"""The world of the benchmark, and one measurement of an operator in it."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.pagefault.report import Measurement, Outcome

from .api_server import ApiServer, Asked, writes_of
from .kubelet import Kubelet
from .objects import Json, Objects
from .operator_process import OperatorProcess, Used

NAMESPACES: Final = 10
LOOK_S: Final = 1.0
SAMPLE_S: Final = 5.0
QUIET_S: Final = 20.0  # without a write: twice as long as between two looks
SETTLING_S_MAX: Final = 900.0
CLUSTERS: Final = "postgresclusters"


class SettlingError(Exception):
    """The clusters did not come to be."""


class World:
    """An API with nodes that answer, while it is a context."""

    def __init__(self, directory: Path) -> None:
        self.objects = Objects()
        self.api = ApiServer(self.objects, directory)
        self.kubelet = Kubelet(self.objects)

    async def __aenter__(self) -> Self:
        await self.api.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.api.__aexit__(kind, error, traceback)
        await self.kubelet.close()

    def ask_for(self, clusters: int) -> None:
        """Have a user ask for so many clusters, each with all that is the default."""
        for number in range(clusters):
            metadata = {"namespace": f"team-{number % NAMESPACES}", "name": f"pg-{number:03}"}
            self.objects.put(
                CLUSTERS,
                {
                    "apiVersion": "seawall.dev/v1alpha1",
                    "kind": "PostgresCluster",
                    "metadata": metadata,
                    "spec": {"version": 17},
                },
            )

    def unsettled(self) -> list[str]:
        """Return the clusters that are not whole, with what they say of themselves."""
        clusters = self.objects.of(CLUSTERS)
        return [
            f"{one['metadata']['name']}: {phase_of(one)}" for one in clusters if not is_settled(one)
        ]

    def writes(self) -> int:
        """Return how often somebody wrote, but for the election."""
        return writes_of(self.api.requests, leases=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What was seen while nothing happened."""

    clusters: int
    objects: int
    settling_s: float
    settling_cpu_s: float
    before: Used
    samples: tuple[Used, ...]
    requests: Counter[Asked]
    calls: Counter[str]

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.samples[-1].at_s - self.before.at_s

    def core_percents(self) -> tuple[float, ...]:
        """Return the share of a core between each sample and the next one."""
        pairs = zip((self.before, *self.samples), self.samples, strict=False)
        return tuple(100 * (b.cpu_s - a.cpu_s) / (b.at_s - a.at_s) for a, b in pairs)

    def lines(self) -> list[str]:
        """Return what was asked for, a minute, for people."""
        asked = {f"{one.verb} {one.plural}": count for one, count in self.requests.items()}
        found = ["  requests to the API, and calls to nodes, a minute:"]
        for name, count in (*sorted(asked.items()), *sorted(self.calls.items())):
            found.append(f"    {name:34} {60 * count / self.seconds:10.1f}")
        return found


async def measure(
    world: World, operator: OperatorProcess, seconds: float, *, quiet_s: float = QUIET_S
) -> Window:
    """Wait until all is settled and nothing was written for `quiet_s`, then look on."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await _settle(world, operator, quiet_s)
    before, asked, called = operator.used(), +world.api.requests, +world.kubelet.calls
    settling_s = loop.time() - began_s
    samples = []
    end_s = before.at_s + seconds
    while loop.time() < end_s:
        await asyncio.sleep(min(SAMPLE_S, end_s - loop.time()))
        samples.append(operator.used())
    left = world.unsettled()
    if left:
        raise SettlingError(f"{len(left)} clusters did not stay settled: {left[:3]}")
    return Window(
        clusters=len(world.objects.of(CLUSTERS)),
        objects=world.objects.count(),
        settling_s=settling_s,
        settling_cpu_s=before.cpu_s,
        before=before,
        samples=tuple(samples),
        requests=world.api.requests - asked,
        calls=world.kubelet.calls - called,
    )


async def _settle(world: World, operator: OperatorProcess, quiet_s: float) -> None:
    now_s = asyncio.get_running_loop().time
    end_s = now_s() + SETTLING_S_MAX
    writes, quiet_since_s = world.writes(), now_s()
    while now_s() < end_s:
        await asyncio.sleep(LOOK_S)
        operator.used()  # or it has ended
        if failures := world.kubelet.failures():
            raise SettlingError(f"a pod did not start: {failures[0]}")
        if world.writes() != writes or world.unsettled():
            writes, quiet_since_s = world.writes(), now_s()
        elif now_s() - quiet_since_s >= quiet_s:
            return
    left = world.unsettled()
    raise SettlingError(
        f"{len(left)} clusters were not settled after {SETTLING_S_MAX:g} s: {left[:3]}; "
        f"the operator's log ends: {operator.last_lines()}"
    )


def outcome_of(window: Window) -> Outcome:
    """Return the figures: memory at its most, the share of a core over all of the time."""
    first, last = window.before, window.samples[-1]
    core_percent = 100 * (last.cpu_s - first.cpu_s) / window.seconds
    memory_mb = max(sample.memory_mb for sample in window.samples)
    shares = window.core_percents()
    figures = {
        "operator_200_memory_mb": ("MB", memory_mb),
        "operator_200_core_percent": ("%", core_percent),
        "operator_200_settled_writes": ("", float(writes_of(window.requests, leases=False))),
        "lease_writes": ("", float(writes_of(window.requests, leases=True))),
        "core_percent_worst_sample": ("%", max(shares)),
        "calls_to_nodes_a_second": ("", window.calls.total() / window.seconds),
        "settling_s": ("s", window.settling_s),
        "settling_cpu_s": ("s", window.settling_cpu_s),
    }
    return Outcome(
        benchmark="operator_scale",
        settings={
            "clusters": window.clusters,
            "objects": window.objects,
            "seconds": round(window.seconds, 1),
            "open_files": last.connections,
        },
        measurements=[Measurement(n, unit, (value,)) for n, (unit, value) in figures.items()],
    )


def phase_of(cluster: Json) -> str:
    """Return what a cluster says of itself."""
    return str(cluster.get("status", {}).get("phase", "nothing"))


def is_settled(cluster: Json) -> bool:
    """Return whether a cluster says that nothing is to be done, and nothing is missing."""
    conditions = cluster.get("status", {}).get("conditions", ())
    said = {one["type"]: one["status"] for one in conditions}
    return (said.get("Ready"), said.get("Progressing"), said.get("Degraded")) == (
        "True",
        "False",
        "False",
    )
