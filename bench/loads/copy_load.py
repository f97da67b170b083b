"""Bulk COPY: each client sends rows of 1 kB into a table of its own, as fast as they are taken.

A transaction is a COPY of 4 MB. A table is emptied when it has grown enough, because the disk's
size is not what is measured; the extra figure is megabytes (1e6 bytes of COPY's text) a second.
"""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from bench.targets.target import Address

from .driver import DRIVER, carry_out, execute, put_on
from .load import LoadOutcome, LoadSettings
from .script import CONFLICTS, Client, Connection
from .tally import LoadError

PATIENCE_SECONDS: Final = 30.0  # with 4 MB
LINE_BYTES: Final = 1_000  # with number, tab and newline
LINES: Final = 4_000  # of one COPY
BYTES: Final = LINES * LINE_BYTES
COPIES_A_SCALE: Final = 16  # 64 MB of a client, then its table is emptied
TABLES_MAX: Final = 1_000  # as many clients; only looked at to be dropped

TABLES_SQL: Final = (
    "select relname::text from pg_class where relkind = 'r'"
    " and relnamespace = current_schema()::regnamespace and relname like 'bulk\\_%'"
    " order by length(relname), relname limit $1"
)
SETTINGS_TABLE: Final = "bulk"


@dataclass(frozen=True, slots=True)
class CopyScript:
    """As Script has it."""

    patience_seconds: ClassVar[float] = PATIENCE_SECONDS
    retried: ClassVar[frozenset[str]] = CONFLICTS

    copies_max: int  # in a table

    def clients(self, numbers: Sequence[int], total: int, seed: int) -> Sequence[Client]:
        """As Script has it."""
        content = rows(seed)  # the same for all of them: it is the server that is measured
        return [_Copier(f"bulk_{number}", content, self.copies_max) for number in numbers]


@dataclass(slots=True)
class _Copier:
    table: str
    content: bytes = field(repr=False)
    copies_max: int
    copies: int = 0

    async def once(self, connection: Connection) -> str:
        if self.copies == 0:
            await connection.execute(f"create table if not exists {self.table} (id int, line text)")
        if self.copies % self.copies_max == 0:
            await connection.execute(f"truncate {self.table}")
        await connection.copy_to_table(self.table, source=io.BytesIO(self.content), format="text")
        self.copies += 1
        return "copy"


def rows(seed: int) -> bytes:
    """What one COPY sends: numbered lines that do not compress to nothing."""
    rng = random.Random(seed)  # noqa: S311  # rows of a load
    lines = []
    for number in range(LINES):
        head = f"{number}\t"
        width = LINE_BYTES - len(head) - 1
        lines.append(f"{head}{rng.randbytes(width // 2 + 1).hex()[:width]}\n")
    return "".join(lines).encode()


@dataclass(frozen=True, slots=True)
class CopyLoad:
    """The workload."""

    name: str = "copy"

    def prepare(self, address: Address, *, scale: int, seed: int) -> None:
        """As Workload has it."""
        if tables := carry_out(address, _tables):
            execute(address, f"drop table {', '.join(tables)}")
        execute(
            address,
            f"drop table if exists {SETTINGS_TABLE}",
            f"create table {SETTINGS_TABLE} (copies_max int)",
            f"insert into {SETTINGS_TABLE} values ({scale * COPIES_A_SCALE})",  # noqa: S608  # a number
        )

    def run(self, address: Address, settings: LoadSettings) -> LoadOutcome:
        """As Workload has it."""
        copies_max = carry_out(
            address, lambda connection: connection.fetchval("select copies_max from bulk")
        )
        if copies_max is None:
            raise LoadError("there is no table bulk with a size: prepare it first")
        outcome = put_on(address, CopyScript(copies_max), settings).outcome(DRIVER)
        outcome.extra["mb_per_second"] = outcome.transactions * BYTES / 1e6 / outcome.seconds
        return outcome

    def findings(self, address: Address) -> Sequence[str]:
        """As Workload has it: each COPY is there with all its rows, or not at all."""

        async def look(connection: Connection) -> list[str]:
            found = []
            for table in await _tables(connection):
                count, different, damaged = await connection.fetchrow(
                    "select count(*), count(distinct id),"  # noqa: S608  # a name of ours
                    f" count(*) filter (where length(line) + length(id::text) <> {LINE_BYTES - 2})"
                    f" from {table}"
                )
                if count % LINES or (count and different != LINES) or damaged:
                    found.append(
                        f"{table} has {count} rows with {different} numbers, {damaged} of them"
                        f" damaged, which are not whole copies of {LINES}"
                    )
            return found

        return carry_out(address, look)


async def _tables(connection: Connection) -> list[str]:
    return [row[0] for row in await connection.fetch(TABLES_SQL, TABLES_MAX)]
