"""TPC-C as a workload: `bench.tpcc` through our own driver, without think times.

Its extra figure `tpm_c` is committed new orders a minute. Without key and think times a few clients
load a warehouse as hundreds of terminals would, so it may be far above the 12.86 that the standard
allows for a warehouse, and compares only with what was measured the same way.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar

from bench.targets.target import Address
from bench.tpcc.conditions import findings_of
from bench.tpcc.loading import ScaleError, load, scale_of
from bench.tpcc.schema import FULL_CUSTOMERS, FULL_ITEMS, Scale
from bench.tpcc.transactions import Client, TakenBackError, new_order, next_kind

from . import script
from .driver import DRIVER, carry_out, put_on
from .load import LoadOutcome, LoadSettings
from .script import CONFLICTS, Connection
from .tally import LoadError

T = TypeVar("T")

PATIENCE_SECONDS: Final = 10.0  # a delivery has fifty statements and waits for other deliveries
TAKEN_BACK: Final = "taken_back"  # a new order that ends as it should: it is not committed


@dataclass(frozen=True, slots=True)
class TpccScript:
    """As Script has it."""

    patience_seconds: ClassVar[float] = PATIENCE_SECONDS
    retried: ClassVar[frozenset[str]] = CONFLICTS

    scale: Scale

    def clients(self, numbers: Sequence[int], total: int, seed: int) -> Sequence[script.Client]:
        """As Script has it."""
        return [
            _Terminal(self.scale, random.Random(f"{seed} {number}"), number)  # noqa: S311  # a load
            for number in numbers
        ]


@dataclass(frozen=True, slots=True)
class _Terminal:
    scale: Scale
    rng: random.Random
    number: int

    async def once(self, connection: Connection) -> str:
        client = Client(connection, self.scale, self.rng, self.number)
        kind = next_kind(self.rng)
        await connection.execute("begin")
        try:
            await kind(client)
        except TakenBackError:
            await connection.execute("rollback")
            return TAKEN_BACK
        await connection.execute("commit")
        return kind.__name__


@dataclass(frozen=True, slots=True)
class Tpcc:
    """The workload; `scale` of `prepare` is the number of warehouses."""

    name: str = "tpcc"
    customers: int = FULL_CUSTOMERS  # of a district
    items: int = FULL_ITEMS

    def prepare(self, address: Address, *, scale: int, seed: int) -> None:
        """As Workload has it."""
        made = Scale(warehouses=scale, customers=self.customers, items=self.items)
        _carry_out(address, lambda connection: load(connection, made, seed))

    def run(self, address: Address, settings: LoadSettings) -> LoadOutcome:
        """As Workload has it."""
        scale = _carry_out(address, scale_of)
        tally = put_on(address, TpccScript(scale), settings)
        outcome = tally.outcome(DRIVER)
        outcome.extra["tpm_c"] = tally.kinds[new_order.__name__] * 60 / tally.seconds
        outcome.extra |= {name: float(count) for name, count in sorted(tally.kinds.items())}
        return outcome

    def findings(self, address: Address) -> Sequence[str]:
        """As Workload has it."""

        async def look(connection: Connection) -> list[str]:
            return await findings_of(connection, await scale_of(connection))

        return _carry_out(address, look)


def _carry_out(address: Address, what: Callable[[Connection], Awaitable[T]]) -> T:
    try:
        return carry_out(address, what)
    except ScaleError as error:
        raise LoadError(str(error)) from error
