"""Whether our own driver says the same as pgbench, and what it costs beside it.

    agreement = measure(program, address, LoadSettings(clients=8, seconds=5, seed=1), pairs=3)
    print(agreement.verdict())

Rounds come in pairs, ABBA, on the same tables; each ratio is of one pair, and the median counts.

A driver in Python costs several times what pgbench does. Where server and driver share processors,
what a driver costs is missing in the server: in a closed loop it changes the figure that it
measures, however exact it is. So there are two questions. What a transaction costs, and how far the
figures of a closed loop are apart, is asked of closed loops: the verdict says so, and that pgbench
is used for what pgbench can do. Whether both put the same load on a server and count alike is asked
where the processors do not decide: of open loops at a quarter of what pgbench has reached.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.targets.target import Address

from .load import LoadOutcome, LoadSettings
from .pgbench_binary import PgbenchLoad
from .tally import LoadError
from .tpcb import AsyncpgTpcb, Builtin

CPU_RATIO_MAX: Final = 1.1  # our driver may cost a tenth more than pgbench
TPS_DIFFERENCE_MAX: Final = 0.05
PACED_SHARE: Final = 0.25  # of what pgbench reaches in a closed loop: ours is busy at half of it


@dataclass(frozen=True, slots=True)
class Round:
    """What one driver made of one round."""

    per_s: float
    cpu_us: float  # of the driver, a transaction
    p50_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rounds that followed each other."""

    ours: Round
    pgbench: Round

    @property
    def tps_ratio(self) -> float:
        """Ours by pgbench's."""
        return self.ours.per_s / self.pgbench.per_s

    @property
    def cpu_ratio(self) -> float:
        """Likewise, of processor time a transaction."""
        return self.ours.cpu_us / self.pgbench.cpu_us


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the pairs say: closed loops, then open ones at a rate."""

    kind: Builtin
    clients: int
    closed: Sequence[Pair]
    rate: float
    paced: Sequence[Pair]

    @property
    def closed_ratio(self) -> float:
        """Of transactions a second, of closed loops; the median of the pairs'."""
        return statistics.median(pair.tps_ratio for pair in self.closed)

    @property
    def tps_ratio(self) -> float:
        """The same at the rate."""
        return statistics.median(pair.tps_ratio for pair in self.paced)

    @property
    def cpu_ratio(self) -> float:
        """Of processor time a transaction, of closed loops."""
        return statistics.median(pair.cpu_ratio for pair in self.closed)

    @property
    def is_agreed(self) -> bool:
        """Whether both say the same of the server."""
        return abs(self.tps_ratio - 1) <= TPS_DIFFERENCE_MAX

    @property
    def is_own_driver_cheap(self) -> bool:
        """Whether it may stand in for pgbench."""
        return self.cpu_ratio <= CPU_RATIO_MAX

    def verdict(self) -> str:
        """What the report says: which driver is used, and why."""
        agreed = "agrees with" if self.is_agreed else "differs from"
        text = (
            f"{self.kind} with {self.clients} clients: at {self.rate:.0f} transactions a second"
            f" our own driver {agreed} pgbench (TPS ratio {self.tps_ratio:.3f}); in a closed loop"
            f" it reaches {self.closed_ratio:.3f} of it and costs {self.cpu_ratio:.2f} times its"
            " processor time a transaction, so "
        )
        if self.is_agreed and self.is_own_driver_cheap:
            return text + "either may be used"
        return text + "pgbench is used where there is one"


def measure(
    program: Path,
    address: Address,
    settings: LoadSettings,
    *,
    pairs: int,
    kind: Builtin = Builtin.TPCB,
) -> Agreement:
    """Load tables that are there already with both, by turns."""
    closed = _pairs(program, address, settings, pairs, kind)
    rate = PACED_SHARE * statistics.median(pair.pgbench.per_s for pair in closed)
    paced = _pairs(program, address, replace(settings, rate=rate), pairs, kind)
    return Agreement(kind, settings.clients, closed, rate, paced)


def _pairs(
    program: Path, address: Address, settings: LoadSettings, count: int, kind: Builtin
) -> list[Pair]:
    ours, theirs = AsyncpgTpcb("ours", kind), PgbenchLoad("pgbench", kind, program)
    found = []
    for number in range(count):
        of_round = replace(settings, seed=settings.seed + number)
        # ABBA: what changes slowly on a shared machine hits both alike.
        if number % 2:
            pgbench, own = theirs.run(address, of_round), ours.run(address, of_round)
        else:
            own, pgbench = ours.run(address, of_round), theirs.run(address, of_round)
        found.append(Pair(round_of(own), round_of(pgbench)))
    return found


def round_of(outcome: LoadOutcome) -> Round:
    """What counts of an outcome; LoadError if it is nothing."""
    if not outcome.transactions or outcome.driver_cpu_seconds <= 0:
        raise LoadError(f"{outcome.driver} has done nothing to compare: give it more time")
    return Round(
        outcome.transactions / outcome.seconds,
        outcome.driver_cpu_seconds * 1e6 / outcome.transactions,
        outcome.latencies.percentile_ms(50.0) if outcome.latencies.count else 0.0,
    )
