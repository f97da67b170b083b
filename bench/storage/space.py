"""How large the page store is beside the files that are in it.

Raw are the files of the newest cut, each with all of its blocks. The store's bytes are what its
files take on disk, once that has not changed for a while: RocksDB compacts behind a cut.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.pagefault.pgbench import find_pgbench
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace
from sqlnode.pagefault.block_map import BLOCK_BYTES

from .loads import make_tables, run_tpcb
from .world import CUT_DEADLINE_S, STORE, World, storage_world

CUTS: Final = 10
DISK_BLOCK_BYTES: Final = 512  # of st_blocks
STEADY_S: Final = 1.0
STEADY_DEADLINE_S: Final = 30.0
MB: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure."""

    scale: int
    load_s: int  # before each cut


FULL: Final = Effort(scale=100, load_s=20)
QUICK: Final = Effort(scale=10, load_s=2)


@dataclass(frozen=True, slots=True)
class Size:
    """A store at one moment."""

    store_bytes: int
    raw_bytes: int

    @property
    def ratio(self) -> float:
        """The store's bytes for each of the data."""
        return self.store_bytes / self.raw_bytes


def measure_space(place: Workspace, *, quick: bool) -> Outcome:
    """The size of a store that was copied from another, so that it has one cut; then ten more."""
    effort = QUICK if quick else FULL
    program = find_pgbench(place.binaries)
    with storage_world(place) as world:
        make_tables(program, world, scale=effort.scale)
        lsn = world.cut()
        many = _size(world, STORE)
        world.new_node("copied").start()
        world.control.adopt("copied", sources=[STORE])
        world.control.watch_for_cut("copied", lsn, deadline_s=CUT_DEADLINE_S)
        one = _size(world, "copied")
        world.end_node("copied")
        for _ in range(CUTS):
            run_tpcb(program, world, seconds=effort.load_s)
            world.cut()
        ten = _size(world, STORE)
    return Outcome(
        benchmark="space",
        settings={"scale": effort.scale, "load_s": effort.load_s, "cuts": CUTS},
        measurements=[
            Measurement("store_ratio_one_cut", "", (one.ratio,)),
            Measurement("store_ratio_ten_cuts", "", (ten.ratio,)),
            Measurement("store_ratio_as_loaded", "", (many.ratio,)),
            Measurement("store_one_cut_mb", "MB", (one.store_bytes / MB,)),
            Measurement("store_ten_cuts_mb", "MB", (ten.store_bytes / MB,)),
            Measurement("raw_one_cut_mb", "MB", (one.raw_bytes / MB,)),
            Measurement("raw_ten_cuts_mb", "MB", (ten.raw_bytes / MB,)),
        ],
    )


def _size(world: World, node: str) -> Size:
    _, description = world.control.describe(node)
    raw_bytes = sum(file.blocks for file in description.files) * BLOCK_BYTES
    return Size(steady_bytes(world.stores[node].spec.data_path / "pages"), raw_bytes)


def steady_bytes(directory: Path) -> int:
    """Bytes on disk of a directory, once they stay the same; of one that never rests, the last."""
    end_s = time.monotonic() + STEADY_DEADLINE_S
    before, now = -1, directory_bytes(directory)
    while now != before and time.monotonic() < end_s:
        time.sleep(STEADY_S)
        before, now = now, directory_bytes(directory)
    return now


def directory_bytes(directory: Path) -> int:
    """What all files below a directory take on disk; a file that goes meanwhile takes nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += Path(folder, name).stat().st_blocks * DISK_BLOCK_BYTES
            except FileNotFoundError:
                continue
    return total
