"""Writes as sysbench's oltp_write_only has them: the load of the Aurora paper's replica lag.

A transaction has four writes: an update of an indexed column, one of another column, and a row that
is deleted and inserted again. `writes_per_second`, the paper's axis, is four times the transactions
a second, so for 10,000 writes a second ask for a rate of `rate_of(10_000)`.

Other than sysbench's: rows are wanted uniformly, and those of a transaction in the order of their
numbers, so that two transactions do not wait for each other.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from bench.targets.target import Address

from .driver import DRIVER, carry_out, execute, put_on, rule_findings
from .load import LoadOutcome, LoadSettings
from .script import CONFLICTS, PATIENCE_SECONDS, Client, Connection
from .tally import LoadError

ROWS_A_SCALE: Final = 10_000
WRITES: Final = 4  # of a transaction
TEXT_CHARACTERS: Final = 119  # sysbench's c: ten groups of digits
PAD_CHARACTERS: Final = 59
UNIQUE_VIOLATION: Final = "23505"

# Who deletes a row that another transaction has just inserted again sees no row, and may not insert
# it: sysbench, too, counts that as a conflict.
RETRIED: Final = CONFLICTS | {UNIQUE_VIOLATION}

TABLES: Final = (
    "drop table if exists sbtest1",
    "create table sbtest1 (id int not null, k int not null default 0,"
    " c char(120) not null default '', pad char(60) not null default '')",
)
ROWS: Final = (
    "insert into sbtest1 select i, 1 + (hashint8(i + {seed}) & 1073741823) % {rows},"
    " left(repeat(md5((i + {seed})::text), 4), 119), left(repeat(md5(i::text), 2), 59)"
    " from generate_series(1, {rows}) i",
    "alter table sbtest1 add primary key (id)",
    "create index k_1 on sbtest1 (k)",
    "comment on table sbtest1 is 'sysbench {rows}'",
    "vacuum analyze sbtest1",
)
ROWS_SQL: Final = "select obj_description(to_regclass('sbtest1'), 'pg_class')"
RULES: Final = {
    "there are other rows than at first": """
        select count(*), min(id), max(id) from sbtest1 having (count(*), min(id), max(id)) <> (
            select rows, 1, rows from cast(
                substr(obj_description('sbtest1'::regclass, 'pg_class'), 10) as bigint) rows)""",
}


def rate_of(writes_per_second: float) -> float:
    """Transactions a second that make so many writes."""
    return writes_per_second / WRITES


@dataclass(frozen=True, slots=True)
class WriteScript:
    """As Script has it."""

    patience_seconds: ClassVar[float] = PATIENCE_SECONDS
    retried: ClassVar[frozenset[str]] = RETRIED

    rows: int

    def clients(self, numbers: Sequence[int], total: int, seed: int) -> Sequence[Client]:
        """As Script has it."""
        return [
            _Writer(self.rows, random.Random(f"{seed} {number}"))  # noqa: S311  # a load's choices
            for number in numbers
        ]


@dataclass(frozen=True, slots=True)
class _Writer:
    rows: int
    rng: random.Random

    async def once(self, connection: Connection) -> str:
        rng, rows = self.rng, self.rows
        first, second, third = sorted(rng.randint(1, rows) for _ in range(3))
        await connection.execute("begin")
        await connection.execute("update sbtest1 set k = k + 1 where id = $1", first)
        await connection.execute(
            "update sbtest1 set c = $1 where id = $2", digits(rng, TEXT_CHARACTERS), second
        )
        await connection.execute("delete from sbtest1 where id = $1", third)
        await connection.execute(
            "insert into sbtest1 (id, k, c, pad) values ($1, $2, $3, $4)",
            third, rng.randint(1, rows), digits(rng, TEXT_CHARACTERS), digits(rng, PAD_CHARACTERS),
        )  # fmt: skip
        await connection.execute("commit")
        return "write"


def digits(rng: random.Random, count: int) -> str:
    """So many digits."""
    return f"{rng.randrange(10**count):0{count}}"


@dataclass(frozen=True, slots=True)
class WriteOnly:
    """The workload."""

    name: str = "write-only"

    def prepare(self, address: Address, *, scale: int, seed: int) -> None:
        """As Workload has it."""
        rows = scale * ROWS_A_SCALE
        execute(address, *TABLES, *(text.format(rows=rows, seed=seed) for text in ROWS))

    def run(self, address: Address, settings: LoadSettings) -> LoadOutcome:
        """As Workload has it."""
        comment = carry_out(address, lambda connection: connection.fetchval(ROWS_SQL)) or ""
        if not comment.startswith("sysbench "):
            raise LoadError("there is no table of sysbench: prepare it first")
        outcome = put_on(address, WriteScript(int(comment.split()[1])), settings).outcome(DRIVER)
        outcome.extra["writes_per_second"] = outcome.transactions * WRITES / outcome.seconds
        return outcome

    def findings(self, address: Address) -> Sequence[str]:
        """As Workload has it."""
        return rule_findings(address, RULES)
