"""How much WAL one core makes into published cuts in a second.

The WAL is in the log before the storage node starts, over a copy of a store that has the cut before
it. What counts is the processor time of the node and of everything below it, from the start of the
process to the moment when it tells somebody who waits that the cut at the last checkpoint is
published: the start of the interpreter and of the engine are in it. Beside it stands what a stock
standby needs to replay the same WAL and store nothing: the machine's own speed.
"""

import time
from dataclasses import dataclass
from typing import Final

from bench.pagefault.machine import prepare_round
from bench.pagefault.pgbench import find_pgbench
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace
from fabric.lsn import Lsn

from .cut_log import cuts_told
from .loads import make_tables, write_wal
from .processes import NodeCpu, node_cpu
from .stock import replay_cpu_s, standby_at
from .verify import require_same_rows
from .world import CUT_DEADLINE_S, STORE, World, storage_world

MB: Final = 1_000_000
SCALE: Final = 10
BACKING_BYTES: Final = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure."""

    wal_bytes: int
    checkpoint_bytes: int
    rounds: int


FULL: Final = Effort(wal_bytes=500 * MB, checkpoint_bytes=64 * MB, rounds=3)
QUICK: Final = Effort(wal_bytes=60 * MB, checkpoint_bytes=20 * MB, rounds=1)


@dataclass(frozen=True, slots=True)
class Round:
    """One node's way from the log to the newest cut."""

    wall_s: float
    cpu: NodeCpu
    cuts: int
    stored_pages: int


def measure_materialise(place: Workspace, *, quick: bool) -> Outcome:
    """Write the WAL once, then let one node after the other work it off."""
    effort = QUICK if quick else FULL
    program = find_pgbench(place.binaries)
    with storage_world(place) as world:
        make_tables(program, world, scale=SCALE)
        start = world.cut()
        standby_dir = standby_at(world, start)
        world.store.stop()
        write_wal(
            program,
            world,
            scale=SCALE,
            size_bytes=effort.wal_bytes,
            checkpoint_bytes=effort.checkpoint_bytes,
        )
        end = world.checkpoint()
        stock_s = replay_cpu_s(world, standby_dir, end)
        rounds = [
            _round(world, f"twin-{number}", end, verify=number == 0)
            for number in range(effort.rounds)
        ]
    return Outcome(
        benchmark="materialise",
        settings={
            "scale": SCALE, "wal_mb": round((end - start) / MB),
            "checkpoint_mb": effort.checkpoint_bytes // MB, "protocol": "prepared",
        },
        measurements=figures(rounds, wal_mb=(end - start) / MB, stock_s=stock_s),
    )  # fmt: skip


def _round(world: World, name: str, end: Lsn, *, verify: bool) -> Round:
    node = world.new_node(name, copy_of=STORE)
    prepare_round(world.place.directory, BACKING_BYTES)
    began_s = time.monotonic()
    node.start()
    newest = world.control.watch_for_cut(name, end, deadline_s=CUT_DEADLINE_S)
    wall_s = time.monotonic() - began_s
    cpu = node_cpu(node.pid)
    assert newest == end, "nothing is behind the last checkpoint"
    if verify:
        require_same_rows(world, name, ("pgbench_accounts", "pgbench_history"))
    told = cuts_told(node.log_of_this_start().splitlines())
    world.end_node(name)
    return Round(wall_s, cpu, len(told), sum(cut.pages for cut in told))


def figures(rounds: list[Round], *, wal_mb: float, stock_s: float) -> list[Measurement]:
    """The bar, the same by the clock, and where the processor time went."""
    parts = sorted({part for one in rounds for part in one.cpu.parts_s})
    return [
        Measurement(
            "materialise_wal_mb_per_core_s", "MB/s", tuple(wal_mb / r.cpu.all_s for r in rounds)
        ),
        Measurement("materialise_wal_mb_per_s", "MB/s", tuple(wal_mb / r.wall_s for r in rounds)),
        Measurement("stock_replay_wal_mb_per_core_s", "MB/s", (wal_mb / stock_s,)),
        Measurement("cpu_s", "s", tuple(r.cpu.all_s for r in rounds)),
        Measurement("cpu_node_s", "s", tuple(r.cpu.node_s for r in rounds)),
        Measurement("cpu_engine_s", "s", tuple(r.cpu.all_s - r.cpu.node_s for r in rounds)),
        *(
            Measurement(f"cpu_{part}_s", "s", tuple(r.cpu.parts_s.get(part, 0.0) for r in rounds))
            for part in parts
        ),
        Measurement("cuts", "", tuple(float(r.cuts) for r in rounds)),
        Measurement("stored_pages", "", tuple(float(r.stored_pages) for r in rounds)),
    ]
