"""What a load is asked for, and what it says of itself when it is over."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.targets.target import Address

from .histogram import Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How a workload is put on a target."""

    clients: int
    seconds: float
    seed: int
    rate: float | None = None  # transactions a second in all, of an open loop; None: a closed loop
    warm_seconds: float = 0.0  # before what counts


@dataclass(frozen=True, slots=True)
class Second:
    """What was finished in one second since the load began to count."""

    transactions: int
    errors: int
    worst_ms: float


@dataclass(slots=True, kw_only=True)
class LoadOutcome:
    """What happened."""

    driver: str  # pgbench, asyncpg
    seconds: float
    transactions: int
    errors: int
    latencies: Histogram  # of an open loop from the moment a transaction was due
    series: Sequence[Second]
    driver_cpu_seconds: float
    longest_gap_seconds: float  # between two acknowledgements, over all clients
    extra: dict[str, float] = field(default_factory=dict)  # figures of this workload alone


class Workload(Protocol):
    """One kind of load."""

    @property
    def name(self) -> str:
        """As in `tpcb`, `ycsb-a`, `tpcc`."""

    def prepare(self, address: Address, *, scale: int, seed: int) -> None:
        """Make its tables anew."""

    def run(self, address: Address, settings: LoadSettings) -> LoadOutcome:
        """Put it on, and return when it is over."""

    def findings(self, address: Address) -> Sequence[str]:
        """What is wrong with the tables after all the runs, a sentence each; empty: nothing."""
