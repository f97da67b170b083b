"""Whether our own driver says the same as pgbench, and what it costs beside it.

    agreement = measure(program, address, LoadSettings(clients=8, seconds=5, seed=1), pairs=3)
    print(agreement.verdict())

Rounds come in pairs, ABBA, on the same tables; each ratio is of one pair, and the median counts.
Beside them, pgbench runs with and without its log, because the log is what our figures are made of.

A driver in Python costs several times what pgbench does. Where server and driver share processors,
what a driver costs is missing in the server, so it changes the figure that it measures: then the
verdict says so, and that pgbench is used for what pgbench can do.
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


@dataclass(frozen=True, slots=True)
class Round:
    """What one driver made of one round."""

    per_s: float
    cpu_us: float  # of the driver, a transaction


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
    """What the pairs say."""

    kind: Builtin
    clients: int
    pairs: Sequence[Pair]

    @property
    def tps_ratio(self) -> float:
        """The median of the pairs'."""
        return statistics.median(pair.tps_ratio for pair in self.pairs)

    @property
    def cpu_ratio(self) -> float:
        """The median of the pairs'."""
        return statistics.median(pair.cpu_ratio for pair in self.pairs)

    @property
    def is_agreed(self) -> bool:
        """Whether both say the same of the server."""
        return abs(self.tps_ratio - 1) <= TPS_DIFFERENCE_MAX

    @property
    def is_own_driver_cheap(self) -> bool:
        """Whether it may stand in for pgbench."""
        return self.cpu_ratio <= CPU_RATIO_MAX

    def verdict(self) -> str:
        """One sentence for the report: which driver is used, and why."""
        agreed = "agrees with" if self.is_agreed else "differs from"
        text = (
            f"{self.kind} with {self.clients} clients: our own driver {agreed} pgbench"
            f" (TPS ratio {self.tps_ratio:.3f}) and costs {self.cpu_ratio:.2f} times its processor"
            " time a transaction, so "
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
    ours, theirs = AsyncpgTpcb("ours", kind), PgbenchLoad("pgbench", kind, program)
    found = []
    for number in range(pairs):
        of_round = replace(settings, seed=settings.seed + number)
        # ABBA: what changes slowly on a shared machine hits both alike.
        if number % 2:
            pgbench, own = theirs.run(address, of_round), ours.run(address, of_round)
        else:
            own, pgbench = ours.run(address, of_round), theirs.run(address, of_round)
        found.append(Pair(round_of(own), round_of(pgbench)))
    return Agreement(kind, settings.clients, tuple(found))


def log_cost(
    program: Path,
    address: Address,
    settings: LoadSettings,
    *,
    pairs: int,
    kind: Builtin = Builtin.SELECT_ONLY,
) -> float:
    """pgbench's processor time a transaction with its log by that without; the pairs' median."""
    logging = PgbenchLoad("pgbench", kind, program)
    ratios = []
    for number in range(pairs):
        is_first = number % 2 == 0
        quiet_us = logging.run_quietly(address, settings) if is_first else 0.0
        logged = round_of(logging.run(address, settings))
        if not is_first:
            quiet_us = logging.run_quietly(address, settings)
        ratios.append(logged.cpu_us / quiet_us)
    return statistics.median(ratios)


def round_of(outcome: LoadOutcome) -> Round:
    """What counts of an outcome; LoadError if it is nothing."""
    if not outcome.transactions or outcome.driver_cpu_seconds <= 0:
        raise LoadError(f"{outcome.driver} has done nothing to compare: give it more time")
    return Round(
        outcome.transactions / outcome.seconds,
        outcome.driver_cpu_seconds * 1e6 / outcome.transactions,
    )
