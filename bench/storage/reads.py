"""Pages over loopback TCP, as a compute's broker asks for them: single blocks, and ranges.

`StoragePages` in this process, with the event loop that a broker has, against a node in another.
Everything is read once before, checked, and warm then. One single block is under way at a time,
because a query waits for it; of ranges a few are, as of a broker that reads ahead.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from bench.log.latency import quantile
from bench.pagefault.machine import wait_for_quiet
from bench.pagefault.pgbench import find_pgbench
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace, connected
from fabric.lsn import LSN_MAX, Lsn
from sqlnode.page_source import DataFile, PageRange, SourceError, relation_block
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages, verify_pages
from storage.client import StorageClient
from storage.storage_pages import StoragePages

from .cut_log import cuts_told
from .loads import make_tables, run_tpcb
from .processes import process_cpu_s
from .world import STORE, World, WorldError, storage_world

RANGE_BLOCKS: Final = 128
RANGES_AT_ONCE: Final = 4
MB: Final = 1_000_000
LOAD_PER_S: Final = 300
CHECKPOINT_EVERY_S: Final = 2.0
CUTS_MIN: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure."""

    scale: int
    rounds: int
    single_reads: int  # a round
    passes: int  # over all ranges
    load_s: int


FULL: Final = Effort(scale=10, rounds=5, single_reads=8_000, passes=5, load_s=20)
QUICK: Final = Effort(scale=5, rounds=3, single_reads=3_000, passes=3, load_s=6)


@dataclass(frozen=True, slots=True)
class Pass:
    """All ranges read once."""

    mb: float
    wall_s: float
    node_cpu_s: float
    client_cpu_s: float


@dataclass(frozen=True, slots=True)
class Read:
    """What was read in all; of single blocks the milliseconds of each, by round."""

    single_ms: list[list[float]]
    passes: list[Pass]
    during_cut_ms: list[float]


def measure_reads(place: Workspace, *, quick: bool) -> Outcome:
    """All of it against one node."""
    effort = QUICK if quick else FULL
    program = find_pgbench(place.binaries)
    with storage_world(place) as world:
        make_tables(program, world, scale=effort.scale)
        world.cut()
        cuts_before = len(cuts_told(world.store.log_of_this_start().splitlines()))
        found = uvloop.run(_read_all(world, effort, program))
        told = cuts_told(world.store.log_of_this_start().splitlines())
        cuts = len(told) - cuts_before
    if cuts < CUTS_MIN:
        raise WorldError(f"{cuts} cuts were taken under load: nothing was read during one")
    return Outcome(
        benchmark="reads",
        settings={
            "scale": effort.scale, "single_reads": effort.single_reads,
            "range_blocks": RANGE_BLOCKS, "ranges_at_once": RANGES_AT_ONCE,
            "load_tps": LOAD_PER_S, "cuts_under_load": cuts,
        },
        measurements=figures(found),
    )  # fmt: skip


def figures(found: Read) -> list[Measurement]:
    """The bars, and the worst that happened."""
    return [
        Measurement("getpage_p50_ms", "ms", tuple(quantile(r, 0.5) for r in found.single_ms)),
        Measurement("getpage_p99_ms", "ms", tuple(quantile(r, 0.99) for r in found.single_ms)),
        Measurement("range_mb_per_s", "MB/s", tuple(p.mb / p.wall_s for p in found.passes)),
        # On a machine that others use, these say what it would be by itself.
        Measurement(
            "range_mb_per_node_cpu_s", "MB/s", tuple(p.mb / p.node_cpu_s for p in found.passes)
        ),
        Measurement(
            "range_mb_per_client_cpu_s", "MB/s", tuple(p.mb / p.client_cpu_s for p in found.passes)
        ),
        Measurement("getpage_during_cut_p50_ms", "ms", (quantile(found.during_cut_ms, 0.5),)),
        Measurement("getpage_during_cut_p99_ms", "ms", (quantile(found.during_cut_ms, 0.99),)),
        Measurement("getpage_during_cut_max_ms", "ms", (max(found.during_cut_ms),)),
    ]


async def _read_all(world: World, effort: Effort, program: Path) -> Read:
    rng = random.Random(secrets.randbits(32))  # noqa: S311  # which blocks
    branch = world.control.branch
    async with StorageClient([world.store.spec.rpc_address], rng=rng) as client:
        cut, description = await client.describe(branch)
        files = [f for f in description.files if f.blocks and relation_block(f.path) is not None]
        at_cut = StoragePages(client, branch, cut.lsn, position=lambda: cut.lsn)
        # A compute that is ahead of all cuts gets its pages of the newest.
        ahead = StoragePages(client, branch, cut.lsn, position=lambda: Lsn(LSN_MAX))
        node = world.store.pid
        await _read_ranges(at_cut, range_list(files), node=node, check=True)
        # What a scan asks for. Hundreds of files of a few blocks are single reads of another kind.
        ranges = [one for one in range_list(files) if one.blocks == RANGE_BLOCKS]
        wait_for_quiet()
        passes = [
            await _read_ranges(at_cut, ranges, node=node, check=False) for _ in range(effort.passes)
        ]
        single = []
        for _ in range(effort.rounds):
            wait_for_quiet()
            wanted = chosen(files, rng, effort.single_reads)
            single.append([await _read_one(at_cut, one) for one in wanted])
        during = []
        with ThreadPoolExecutor(2) as threads:
            pgbench = threads.submit(
                run_tpcb, program, world, seconds=effort.load_s, rate=LOAD_PER_S
            )
            checkpoints = threads.submit(_checkpoints, world, pgbench)
            while not checkpoints.done():
                during += [await _read_one(ahead, one) for one in chosen(files, rng, 100)]
        pgbench.result()
        checkpoints.result()
    return Read(single, passes, during)


def _checkpoints(world: World, load: "Future[None]") -> None:
    """Have cuts taken for as long as the load lasts, and be there until the last is published."""
    with connected(world.primary) as session:
        while not wait([load], CHECKPOINT_EVERY_S).done:
            session.execute("checkpoint")
    world.wait_for_cut(STORE, world.checkpoint())


async def _read_one(pages: StoragePages, wanted: PageRange) -> float:
    """Milliseconds for one block."""
    began_s = time.perf_counter()
    found = await pages.read([wanted])
    took_s = time.perf_counter() - began_s
    _whole(found[0], wanted)
    return took_s * 1000


async def _read_ranges(
    pages: StoragePages, ranges: Sequence[PageRange], *, node: int, check: bool
) -> Pass:
    """Read ranges, a few under way."""
    left = iter(ranges)

    async def worker() -> None:
        for wanted in left:
            found = _whole((await pages.read([wanted]))[0], wanted)
            if check:
                _verify(found, wanted)

    began_s, node_s, client_s = time.perf_counter(), process_cpu_s(node), time.process_time()
    await asyncio.gather(*(worker() for _ in range(RANGES_AT_ONCE)))
    return Pass(
        mb=sum(one.blocks for one in ranges) * BLOCK_BYTES / MB,
        wall_s=time.perf_counter() - began_s,
        node_cpu_s=process_cpu_s(node) - node_s,
        client_cpu_s=time.process_time() - client_s,
    )


def range_list(files: Sequence[DataFile]) -> list[PageRange]:
    """Everything, in ranges as long as files allow."""
    return [
        PageRange(file.path, first, min(RANGE_BLOCKS, file.blocks - first))
        for file in files
        for first in range(0, file.blocks, RANGE_BLOCKS)
    ]


def chosen(files: Sequence[DataFile], rng: random.Random, count: int) -> list[PageRange]:
    """Single blocks at random, each of all blocks as likely as any other."""
    picked = rng.choices(files, weights=[file.blocks for file in files], k=count)
    return [PageRange(file.path, rng.randrange(file.blocks), 1) for file in picked]


def _whole(found: Pages | SourceError, wanted: PageRange) -> Pages:
    if isinstance(found, SourceError):
        raise found
    if len(found) != wanted.blocks * BLOCK_BYTES:
        raise WorldError(f"{wanted} gave {len(found)} bytes")
    return found


def _verify(pages: Pages, wanted: PageRange) -> None:
    relation = relation_block(wanted.path)
    assert relation is not None, "only relations are read"
    bad = verify_pages(pages, first_block=relation + wanted.first)
    if bad is not None:
        raise WorldError(f"{wanted.path} block {wanted.first + bad} came with a bad checksum")
