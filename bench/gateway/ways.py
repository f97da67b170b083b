"""The ways to a primary that are compared: direct, through pgbouncer, through the gateway.

What a way costs is the processor time of its own processes, to the nanosecond: on a machine with
two cores it is the one thing that does not depend on who else wants them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from bench.failover.footprint import cpu_of, pss_mb
from bench.faults.target import TargetError
from bench.storage.processes import all_processes, descendants

DIRECT: Final = "direct"
PGBOUNCER: Final = "pgbouncer"
GATEWAY: Final = "gateway"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Way:
    """Where a client connects, and who passes its bytes on."""

    name: str
    port: int  # of loopback
    pid: int | None = None  # of the proxy: all below it belong to it; None: there is no proxy

    def pids(self) -> list[int]:
        """All processes of the proxy; none for a direct way."""
        if self.pid is None:
            return []
        return [self.pid, *(one.pid for one in descendants(self.pid, all_processes()))]

    def memory_mb(self) -> float:
        """What the proxy has in memory; pages that several share are divided among them."""
        return sum(map(pss_mb, self.pids()))


@dataclass(slots=True)
class CpuClock:
    """Processor time of the processes that a way has when the clock is made."""

    way: Way
    pids: tuple[int, ...]

    @classmethod
    def of(cls, way: Way) -> "CpuClock":
        """Look for the processes once: looking takes longer than a query."""
        return cls(way, tuple(way.pids()))

    def seconds(self) -> float:
        """Used so far, by all of them."""
        found = cpu_of(self.pids)
        if len(found) < len(self.pids):
            raise TargetError(f"a process of {self.way.name} has ended during a measurement")
        return sum(found.values())


def rotated(items: Sequence[T], number: int) -> list[T]:
    """Who comes first changes from round to round."""
    first = number % len(items)
    return [*items[first:], *items[:first]]
