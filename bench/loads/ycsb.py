"""The six core workloads of YCSB over one table, with the statements of its JDBC binding.

    a  50 % read, 50 % update              zipfian        d  95 % read, 5 % insert      latest
    b  95 % read,  5 % update              zipfian        e  95 % scan, 5 % insert      zipfian
    c  read only                           zipfian        f  50 % read, 50 % read-modify-write

A record has ten fields of 100 characters; reads read all, updates write one; each statement is a
transaction. Scans take 1 to 100 records by key. Keys are hashed numbers, so inserts go anywhere.
What is inserted gets numbers that no run had before; `latest` prefers what this process inserted,
and then the newest of the records that were loaded.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from bench.targets.target import Address

from .driver import DRIVER, carry_out, execute, put_on, rule_findings
from .load import LoadOutcome, LoadSettings
from .script import CONFLICTS, PATIENCE_SECONDS, Client, Connection
from .tally import LoadError
from .zipfian import Scrambled, Zipfian, fnv_hash

RECORDS_A_SCALE: Final = 10_000  # some 12 MB
FIELDS: Final = 10
FIELD_CHARACTERS: Final = 100
SCAN_RECORDS_MAX: Final = 100
NUMBERS_A_RUN: Final = 1 << 32  # of new records; nobody inserts so many
NUMBERS_A_CLIENT: Final = 1 << 20
PIECE_RECORDS: Final = 1_000

READ, UPDATE, INSERT, SCAN, MODIFY = "read", "update", "insert", "scan", "read_modify_write"

MIXES: Final[Mapping[str, Mapping[str, int]]] = {
    "a": {READ: 50, UPDATE: 50},
    "b": {READ: 95, UPDATE: 5},
    "c": {READ: 100},
    "d": {READ: 95, INSERT: 5},
    "e": {SCAN: 95, INSERT: 5},
    "f": {READ: 50, MODIFY: 50},
}
LATEST: Final = frozenset({"d"})

_FIELD_NAMES: Final = [f"field{number}" for number in range(FIELDS)]
TABLES: Final = (
    "drop table if exists usertable",
    "drop sequence if exists usertable_runs",
    "create sequence usertable_runs",
    f"create table usertable (ycsb_key varchar(255) not null, {' text, '.join(_FIELD_NAMES)} text)",
)
READ_SQL: Final = "select * from usertable where ycsb_key = $1"
UPDATE_SQL: Final = tuple(
    "update usertable set FIELD = $1 where ycsb_key = $2".replace("FIELD", name)
    for name in _FIELD_NAMES
)
_PLACES: Final = ", ".join(f"${number}" for number in range(1, FIELDS + 2))
INSERT_SQL: Final = "insert into usertable values (PLACES)".replace("PLACES", _PLACES)
SCAN_SQL: Final = "select * from usertable where ycsb_key >= $1 order by ycsb_key limit $2"

RECORDS_SQL: Final = "select obj_description(to_regclass('usertable'), 'pg_class')"
RULES: Final = {
    "a record has a field that is not of 100 characters": (
        "select ycsb_key from usertable where (LENGTHS) is distinct from (WANTED)".replace(
            "LENGTHS", ", ".join(f"length({name})" for name in _FIELD_NAMES)
        ).replace("WANTED", ", ".join([str(FIELD_CHARACTERS)] * FIELDS))
    ),
    "there are fewer records than were loaded": """
        select count(*) from usertable having count(*) < cast(
            substr(obj_description('usertable'::regclass, 'pg_class'), 6) as bigint)""",
}


def key(number: int) -> str:
    """A record's key by its number."""
    return f"user{fnv_hash(number)}"


def field_text(rng: random.Random) -> str:
    """What stands in a field."""
    return rng.randbytes(FIELD_CHARACTERS // 2).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class YcsbScript:
    """As Script has it."""

    patience_seconds: ClassVar[float] = PATIENCE_SECONDS
    retried: ClassVar[frozenset[str]] = CONFLICTS

    letter: str
    records: int
    first_new: int

    def clients(self, numbers: Sequence[int], total: int, seed: int) -> Sequence[Client]:
        """As Script has it."""
        chooser = (_Latest if self.letter in LATEST else _Anywhere)(self.records)
        return [
            _User(
                mix=MIXES[self.letter], chooser=chooser,
                rng=random.Random(f"{seed} {number}"),  # noqa: S311  # a load's choices
                next_new=self.first_new + number * NUMBERS_A_CLIENT,
            )
            for number in numbers
        ]  # fmt: skip


class _Anywhere:
    """Which of the loaded records is wanted."""

    def __init__(self, records: int) -> None:
        self._scrambled = Scrambled(records)

    def number(self, rng: random.Random) -> int:
        return self._scrambled.record(rng)

    def inserted(self, number: int) -> None:
        """Nothing changes."""


class _Latest:
    """Which record is wanted where new ones are: the newest most."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._zipfian = Zipfian(records)
        self._inserted: list[int] = []

    def number(self, rng: random.Random) -> int:
        age = self._zipfian.rank(rng)
        new = len(self._inserted)
        return self._inserted[new - 1 - age] if age < new else self._records - 1 - (age - new)

    def inserted(self, number: int) -> None:
        self._inserted.append(number)
        self._zipfian.grow(self._records + len(self._inserted))


@dataclass(slots=True, kw_only=True)
class _User:
    mix: Mapping[str, int]
    chooser: _Anywhere | _Latest
    rng: random.Random
    next_new: int
    kinds: Sequence[str] = field(init=False)
    shares: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        self.kinds, self.shares = list(self.mix), list(self.mix.values())

    async def once(self, connection: Connection) -> str:
        (kind,) = self.rng.choices(self.kinds, self.shares)
        if kind == INSERT:
            await self._insert(connection)
            return kind
        wanted = key(self.chooser.number(self.rng))
        if kind == SCAN:
            await connection.fetch(SCAN_SQL, wanted, self.rng.randint(1, SCAN_RECORDS_MAX))
        if kind in {READ, MODIFY}:
            await connection.fetch(READ_SQL, wanted)
        if kind in {UPDATE, MODIFY}:
            change = UPDATE_SQL[self.rng.randrange(FIELDS)]
            await connection.execute(change, field_text(self.rng), wanted)
        return kind

    async def _insert(self, connection: Connection) -> None:
        number = self.next_new
        self.next_new += 1  # also if it fails: it may be there all the same
        fields = [field_text(self.rng) for _ in range(FIELDS)]
        await connection.execute(INSERT_SQL, key(number), *fields)
        self.chooser.inserted(number)


@dataclass(frozen=True, slots=True)
class Ycsb:
    """One of the workloads; all of them use the same table, and each makes it anew."""

    letter: str

    @property
    def name(self) -> str:
        """As Workload has it."""
        return f"ycsb-{self.letter}"

    def prepare(self, address: Address, *, scale: int, seed: int) -> None:
        """As Workload has it."""
        records = scale * RECORDS_A_SCALE
        execute(address, *TABLES)
        carry_out(address, lambda connection: _fill(connection, records, seed))
        execute(
            address,
            "alter table usertable add primary key (ycsb_key)",
            f"comment on table usertable is 'YCSB {records}'",
            "vacuum analyze usertable",
        )

    def run(self, address: Address, settings: LoadSettings) -> LoadOutcome:
        """As Workload has it."""
        comment = carry_out(address, lambda connection: connection.fetchval(RECORDS_SQL)) or ""
        if not comment.startswith("YCSB "):
            raise LoadError("there is no table of YCSB: prepare it first")
        records, run = int(comment.split()[1]), 0
        if INSERT in MIXES[self.letter]:
            run = carry_out(
                address, lambda connection: connection.fetchval("select nextval('usertable_runs')")
            )
        script = YcsbScript(
            letter=self.letter, records=records, first_new=records + run * NUMBERS_A_RUN
        )
        tally = put_on(address, script, settings)
        outcome = tally.outcome(DRIVER)
        outcome.extra |= {name: float(count) for name, count in sorted(tally.kinds.items())}
        return outcome

    def findings(self, address: Address) -> Sequence[str]:
        """As Workload has it."""
        return rule_findings(address, RULES)


async def _fill(connection: Connection, records: int, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  # fields of a load
    for first in range(0, records, PIECE_RECORDS):
        numbers = range(first, min(first + PIECE_RECORDS, records))
        await connection.copy_records_to_table(
            "usertable",
            records=[(key(n), *(field_text(rng) for _ in range(FIELDS))) for n in numbers],
        )
