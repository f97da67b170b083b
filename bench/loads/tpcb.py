"""pgbench's three scripts through our own driver: same tables, same statements, same order.

It runs where pgbench is not, and where pgbench will not do: a client of pgbench ends for good with
its connection, so it cannot load a system that changes its primary. Tables are pgbench's in every
respect, and each may be made by the one and loaded by the other.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from bench.targets.target import Address

from .driver import DRIVER, carry_out, execute, put_on, rule_findings
from .load import LoadOutcome, LoadSettings
from .script import CONFLICTS, PATIENCE_SECONDS, Client, Connection

ACCOUNTS_A_SCALE: Final = 100_000
TELLERS_A_SCALE: Final = 10
DELTA_MAX: Final = 5000

TABLES: Final = (
    "drop table if exists pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers",
    "create table pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp,"
    " filler char(22))",
    "create table pgbench_tellers (tid int not null, bid int, tbalance int, filler char(84))"
    " with (fillfactor=100)",
    "create table pgbench_accounts (aid int not null, bid int, abalance int, filler char(84))"
    " with (fillfactor=100)",
    "create table pgbench_branches (bid int not null, bbalance int, filler char(88))"
    " with (fillfactor=100)",
)
ROWS: Final = (
    "insert into pgbench_branches (bid, bbalance) select b, 0 from generate_series(1, {scale}) b",
    "insert into pgbench_tellers (tid, bid, tbalance) select t, (t - 1) / 10 + 1, 0"
    " from generate_series(1, {scale} * 10) t",
    "insert into pgbench_accounts (aid, bid, abalance, filler)"
    " select a, (a - 1) / 100000 + 1, 0, '' from generate_series(1, {scale} * 100000) a",
    "vacuum analyze pgbench_branches, pgbench_tellers, pgbench_accounts, pgbench_history",
    "alter table pgbench_branches add primary key (bid)",
    "alter table pgbench_tellers add primary key (tid)",
    "alter table pgbench_accounts add primary key (aid)",
)

ACCOUNT: Final = "update pgbench_accounts set abalance = abalance + $1 where aid = $2"
BALANCE: Final = "select abalance from pgbench_accounts where aid = $1"
TELLER: Final = "update pgbench_tellers set tbalance = tbalance + $1 where tid = $2"
BRANCH: Final = "update pgbench_branches set bbalance = bbalance + $1 where bid = $2"
HISTORY: Final = (
    "insert into pgbench_history (tid, bid, aid, delta, mtime)"
    " values ($1, $2, $3, $4, current_timestamp)"
)

SCALE: Final = "select count(*) from pgbench_branches"

HISTORY_SUM: Final = "(select coalesce(sum(delta), 0) from pgbench_history)"
# Query for what breaks a rule, by the sentence that says so.
ACCOUNTS_RULE: Final = {
    "the accounts have not changed by what the history says": f"""
        select sum(abalance), {HISTORY_SUM} from pgbench_accounts
        having sum(abalance) <> {HISTORY_SUM}""",  # noqa: S608  # our own text
}
ALL_RULES: Final = {
    **ACCOUNTS_RULE,
    "the tellers have not changed by what the history says": f"""
        select sum(tbalance), {HISTORY_SUM} from pgbench_tellers
        having sum(tbalance) <> {HISTORY_SUM}""",  # noqa: S608  # our own text
    "the branches have not changed by what the history says": f"""
        select sum(bbalance), {HISTORY_SUM} from pgbench_branches
        having sum(bbalance) <> {HISTORY_SUM}""",  # noqa: S608  # our own text
    "a branch has not changed by what its history says": """
        select bid from pgbench_branches left join pgbench_history using (bid)
        group by bid, bbalance having bbalance <> coalesce(sum(delta), 0)""",
}


class Builtin(StrEnum):
    """The scripts that pgbench brings, by its own names."""

    TPCB = "tpcb-like"
    SIMPLE_UPDATE = "simple-update"
    SELECT_ONLY = "select-only"

    @property
    def rules(self) -> Mapping[str, str]:
        """What must hold of the tables behind it."""
        return ALL_RULES if self is Builtin.TPCB else ACCOUNTS_RULE


@dataclass(frozen=True, slots=True)
class TpcbScript:
    """As Script has it."""

    patience_seconds: ClassVar[float] = PATIENCE_SECONDS
    retried: ClassVar[frozenset[str]] = CONFLICTS

    kind: Builtin
    scale: int

    def clients(self, numbers: Sequence[int], total: int, seed: int) -> Sequence[Client]:
        """As Script has it."""
        return [
            _Teller(self, random.Random(f"{seed} {number}"))  # noqa: S311  # a load's choices
            for number in numbers
        ]


@dataclass(frozen=True, slots=True)
class _Teller:
    script: TpcbScript
    rng: random.Random

    async def once(self, connection: Connection) -> str:
        rng, scale = self.rng, self.script.scale
        account = rng.randint(1, scale * ACCOUNTS_A_SCALE)
        if self.script.kind is Builtin.SELECT_ONLY:
            await connection.fetchval(BALANCE, account)
            return self.script.kind
        branch, teller = rng.randint(1, scale), rng.randint(1, scale * TELLERS_A_SCALE)
        delta = rng.randint(-DELTA_MAX, DELTA_MAX)
        await connection.execute("begin")
        await connection.execute(ACCOUNT, delta, account)
        await connection.fetchval(BALANCE, account)
        if self.script.kind is Builtin.TPCB:
            await connection.execute(TELLER, delta, teller)
            await connection.execute(BRANCH, delta, branch)
        await connection.execute(HISTORY, teller, branch, account, delta)
        await connection.execute("end")
        return self.script.kind


@dataclass(frozen=True, slots=True)
class AsyncpgTpcb:
    """One of pgbench's scripts, without pgbench."""

    name: str
    kind: Builtin

    def prepare(self, address: Address, *, scale: int, seed: int) -> None:
        """As Workload has it."""
        execute(address, *TABLES, *(rows.format(scale=scale) for rows in ROWS))

    def run(self, address: Address, settings: LoadSettings) -> LoadOutcome:
        """As Workload has it."""
        scale = int(
            carry_out(address, lambda c: c.fetchval("select count(*) from pgbench_branches"))
        )
        return put_on(address, TpcbScript(self.kind, scale), settings).outcome(DRIVER)

    def findings(self, address: Address) -> Sequence[str]:
        """As Workload has it."""
        return rule_findings(address, self.kind.rules)


def vacuum(address: Address) -> None:
    """What pgbench does before a run, but for emptying the history, which would hide losses."""
    execute(address, "vacuum pgbench_branches", "vacuum pgbench_tellers")
