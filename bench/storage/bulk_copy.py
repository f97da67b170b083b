"""A bulk COPY: how long a storage node takes for it, beside a stock standby.

The WAL is in the log before either starts, each over a copy of what was there before the COPY.

ours    from the start of a storage node to the moment when the cut behind the COPY is published
stock   from the start of a standby without our library to the end of its CHECKPOINT, with fsync
        and all that PostgreSQL does by itself: a published cut is durable, too

One after the other, in turns; a ratio is of the two that followed each other.
"""

import shutil
import time
from dataclasses import dataclass
from typing import Final

from bench.pagefault.machine import prepare_round
from bench.pagefault.overhead import order
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace, connected
from fabric.lsn import Lsn
from sqlnode.control_file import read_control_file

from .processes import node_cpu
from .stock import stock_standby
from .verify import require_same_rows
from .world import (
    CUT_DEADLINE_S,
    STORE,
    World,
    WorldError,
    storage_world,
    wait_for_replay,
)

MB: Final = 1_000_000
PIECE_BYTES: Final = 20 * MB
ROWS_A_PIECE: Final = 100_000
BACKING_BYTES: Final = 1 << 30

# Rows that compress as those of a business do: words, numbers, and something that is nowhere else.
PIECE_SQL: Final = (
    "copy (select i, i % 1000, 'customer ' || (i * 7919 % 100000), now(), md5(i::text), "
    "repeat('status ok; ', 9) from generate_series(1, {rows}) i) to '{path}'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure."""

    size_bytes: int
    rounds: int


FULL: Final = Effort(size_bytes=2_000 * MB, rounds=2)
QUICK: Final = Effort(size_bytes=200 * MB, rounds=1)


@dataclass(frozen=True, slots=True)
class Round:
    """Both sides once."""

    ours_s: float
    ours_cpu_s: float
    stock_s: float


def measure_copy(place: Workspace, *, quick: bool) -> Outcome:
    """Copy once, then let both sides work it off."""
    effort = QUICK if quick else FULL
    with storage_world(place) as world:
        start = world.cut()
        world.store.stop()
        size_bytes = _copy_rows(world, effort.size_bytes)
        end = world.checkpoint()
        rounds = [
            _round(world, start, end, number=number, ours_first=ours_first, size_bytes=size_bytes)
            for number, ours_first in enumerate(order(effort.rounds))
        ]
    return Outcome(
        benchmark="copy",
        settings={"table_mb": size_bytes // MB, "wal_mb": round((end - start) / MB)},
        measurements=figures(rounds, quick=quick),
    )


def figures(rounds: list[Round], *, quick: bool) -> list[Measurement]:
    """The ratio, and what it was made of. About less than 2 GB nothing is promised."""
    name = "copy_200mb_ratio" if quick else "copy_2gb_ratio"
    return [
        Measurement(name, "", tuple(r.ours_s / r.stock_s for r in rounds)),
        Measurement("copy_ours_s", "s", tuple(r.ours_s for r in rounds)),
        Measurement("copy_ours_cpu_s", "s", tuple(r.ours_cpu_s for r in rounds)),
        Measurement("copy_stock_s", "s", tuple(r.stock_s for r in rounds)),
    ]


def _round(
    world: World, start: Lsn, end: Lsn, *, number: int, ours_first: bool, size_bytes: int
) -> Round:
    ours_s = cpu_s = stock_s = 0.0
    for is_ours in (True, False) if ours_first else (False, True):
        prepare_round(world.place.directory, BACKING_BYTES)
        if is_ours:
            ours_s, cpu_s = _ours(world, f"twin-{number}", end, verify=number == 0)
        else:
            stock_s = _stock(world, start, end, size_bytes=size_bytes)
    return Round(ours_s, cpu_s, stock_s)


def _ours(world: World, name: str, end: Lsn, *, verify: bool) -> tuple[float, float]:
    node = world.new_node(name, copy_of=STORE)
    began_s = time.monotonic()
    node.start()
    world.wait_for_cut(name, end)
    took_s = time.monotonic() - began_s
    cpu_s = node_cpu(node.pid).all_s
    if verify:
        require_same_rows(world, name, ("bulk",))
    world.end_node(name)
    return took_s, cpu_s


def _stock(world: World, start: Lsn, end: Lsn, *, size_bytes: int) -> float:
    data_dir = world.place.copy_cluster(world.origin, "s")
    with stock_standby(world, data_dir) as standby:
        began_s = time.monotonic()
        standby.start_blocking()
        wait_for_replay(standby, end, deadline_s=CUT_DEADLINE_S)
        with connected(standby) as session:
            session.execute("checkpoint")
            took_s = time.monotonic() - began_s
            row = session.execute("select pg_relation_size('bulk')").fetchone()
        if row != (size_bytes,) or read_control_file(data_dir).checkpoint <= start:
            raise WorldError(f"the standby has {row} bytes, or made no restartpoint behind {start}")
    shutil.rmtree(data_dir.parent)
    return took_s


def _copy_rows(world: World, size_bytes: int) -> int:
    """Copy the same rows in again and again in one table; its bytes."""
    path = world.primary.data_dir.parent / "rows.copy"
    with connected(world.primary) as session:
        session.execute(PIECE_SQL.format(rows=ROWS_A_PIECE, path=path).encode())
        session.execute(
            "create table bulk (id int, part int, name text, at timestamptz, hash text, line text)"
        )
        pieces = max(1, round(size_bytes / path.stat().st_size))
        for _ in range(pieces):
            session.execute(f"copy bulk from '{path}'".encode())
        row = session.execute("select pg_relation_size('bulk')").fetchone()
    path.unlink()
    assert row is not None
    return int(row[0])
