"""The fault path: from a process that needs a block, through the broker, to the page in its file.

Three ways to use it, each over a directory in which everything is MISSING:

* `prefetch`: PostgreSQL's own recovery replays a tail that touches tens of thousands of pages in
  random order, and hints at each before it needs it (`recovery_prefetch`). Pages that were hinted,
  by the time from the start of redo to its end: what a user waits for. The bar is on this one.
  Beside it a program that only hints 1,000 blocks ahead and reads shows the path without redo,
  and a loop of bare system calls how fast this machine copies pages at all.
* `scan`: a sequential scan by one process (the bar), and by as many as PostgreSQL would take.
* `fault`: a program reads random blocks one after the other, each read waiting for the broker.

The pages come from a directory in the page cache, through the broker as it is deployed: a process
of its own, checksums verified.
"""

import json
import os
import re
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import psycopg

from sqlnode.lazy_compute import LazyCompute
from sqlnode.pagefault.block_map import BLOCK_BYTES, LIBRARY_PATH

from .images import WIDE_ANSWER, WideImage
from .machine import prepare_round
from .probe import scattered
from .report import Measurement, Outcome
from .workspace import Workspace, connected, one_value

HINTS_AHEAD: Final = 1000  # maintenance_io_concurrency of every compute
SINGLE_FAULTS: Final = 5000
WARM_UP_FAULTS: Final = 200
REPLAY_DEADLINE_S: Final = 120.0
REPLAY_POLL_S: Final = 0.005
PROBE_TIMEOUT_S: Final = 120
COUNT_DEADLINE_S: Final = 5.0
COLD_SHARE_MIN: Final = 0.99  # planning reads a block or two

_REDO_START: Final = re.compile(r"^([-\d]+ [:.\d]+) \S+ .*redo starts at", re.MULTILINE)


class BenchmarkError(Exception):
    """What was measured was not what was meant: the figure would be worthless."""


# Prefetch.


def measure_prefetch(workspace: Workspace, image: WideImage, *, quick: bool) -> Outcome:
    """Recovery of the tail, and the synthetic reader."""
    rounds = 2 if quick else 5
    replays = [_replay(workspace, image) for _ in range(rounds)]
    hinted = [_probe(workspace, image, image.touched, HINTS_AHEAD) for _ in range(rounds)]
    bare = [_bare_copy_pages_per_s(workspace, image) for _ in range(rounds)]
    return Outcome(
        benchmark="prefetch",
        settings={"pages": image.touched, "tail_bytes": image.tail_bytes, "rounds": rounds},
        measurements=[
            Measurement(
                "prefetched_pages_per_s", "1/s", tuple(replay.pages_per_s for replay in replays)
            ),
            Measurement(
                "prefetch_blocking_faults", "", tuple(float(replay.faults) for replay in replays)
            ),
            Measurement("prefetch_replay_s", "s", tuple(replay.seconds for replay in replays)),
            Measurement(
                "prefetch_synthetic_pages_per_s",
                "1/s",
                tuple(image.touched / probe.seconds for probe in hinted),
            ),
            Measurement("bare_copy_pages_per_s", "1/s", tuple(bare)),
        ],
    )


@dataclass(frozen=True, slots=True)
class _Replay:
    """One recovery of the tail."""

    seconds: float
    prefetched: int
    faults: int

    @property
    def pages_per_s(self) -> float:
        return self.prefetched / self.seconds


def _replay(workspace: Workspace, image: WideImage) -> _Replay:
    prepare_round(workspace.directory, image.blocks * BLOCK_BYTES, read=image.data_dir)
    with workspace.compute(image.data_dir, wal_dir=image.tail_dir, shared_buffers="512MB") as node:
        node.start()
        with connected(node.postgres) as session:
            end_s = _wait_for_replay(session, image.end_lsn)
            with node.block_map() as block_map:
                counters = block_map.counters()
            if one_value(session, WIDE_ANSWER) != image.answer:
                raise BenchmarkError("the compute's rows differ from the primary's")
        log = node.postgres.log_path.read_text(encoding="utf-8", errors="replace")
        # Redo was under way before the first connection: its log says since when.
        seconds = end_s - redo_start_s(log)
    prefetched = counters["prefetch_blocks"]
    if prefetched < image.touched // 2:
        raise BenchmarkError(f"only {prefetched} of {image.touched} pages were prefetched")
    return _Replay(seconds, prefetched, counters["faults"])


def redo_start_s(log: str) -> float:
    """When PostgreSQL began to replay, of the wall clock, from its log."""
    match = _REDO_START.search(log)
    if match is None:
        raise BenchmarkError("the server's log does not say when redo started")
    return datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp()


def _wait_for_replay(session: psycopg.Connection, end_lsn: str) -> float:
    """When the standby had replayed so far, of the wall clock."""
    give_up_s = time.monotonic() + REPLAY_DEADLINE_S
    sql = f"select pg_last_wal_replay_lsn() >= '{end_lsn}'"
    while not one_value(session, sql):
        if time.monotonic() > give_up_s:
            raise BenchmarkError(f"the tail was not replayed to {end_lsn}")
        select.select([], [], [], REPLAY_POLL_S)
    return time.time()


def _bare_copy_pages_per_s(workspace: Workspace, image: WideImage) -> float:
    """The machine's own speed on that day: the same pages, in random order, by one loop of system
    calls into a sparse file. Whatever the broker does, it does this too.
    """
    prepare_round(workspace.directory, image.blocks * BLOCK_BYTES, read=image.data_dir)
    source = os.open(image.data_dir / image.path, os.O_RDONLY)
    target_path = workspace.directory / "bare"
    target = os.open(target_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(target, image.blocks * BLOCK_BYTES)
        blocks = scattered(image.blocks, image.touched)
        return image.touched / _seconds(lambda: _copy_blocks(source, target, blocks))
    finally:
        os.close(source)
        os.close(target)
        target_path.unlink()


def _copy_blocks(source: int, target: int, blocks: Sequence[int]) -> None:
    for block in blocks:
        os.pwrite(target, os.pread(source, BLOCK_BYTES, block * BLOCK_BYTES), block * BLOCK_BYTES)


# Single faults.


def measure_fault(workspace: Workspace, image: WideImage, *, quick: bool) -> Outcome:
    """One block after the other, each waited for."""
    rounds = 2 if quick else 5
    probes = [_probe(workspace, image, SINGLE_FAULTS, 0) for _ in range(rounds)]
    latencies = [probe.reads_us[WARM_UP_FAULTS:] for probe in probes]
    return Outcome(
        benchmark="fault",
        settings={"faults": SINGLE_FAULTS, "rounds": rounds},
        measurements=[
            Measurement("single_fault_p50_us", "us", tuple(map(statistics.median, latencies))),
            Measurement(
                "single_fault_p99_us",
                "us",
                tuple(statistics.quantiles(latency, n=100)[98] for latency in latencies),
            ),
        ],
    )


@dataclass(frozen=True, slots=True)
class _Probe:
    """What bench.pagefault.probe found."""

    seconds: float
    reads_us: list[float]


def _probe(workspace: Workspace, image: WideImage, wanted: int, hints_ahead: int) -> _Probe:
    """Run it over a directory without a postgres."""
    prepare_round(workspace.directory, wanted * BLOCK_BYTES, read=image.data_dir)
    with workspace.compute(image.data_dir, wal_dir=image.wal_dir) as node:
        node.prepare()
        command = [
            sys.executable, "-P", "-m", "bench.pagefault.probe",
            str(node.paths.data / image.path), str(image.blocks), str(wanted), str(hints_ahead),
        ]  # fmt: skip
        result = subprocess.run(
            command,
            capture_output=True,
            check=True,
            encoding="utf-8",
            env={
                **os.environ,
                "LD_PRELOAD": str(LIBRARY_PATH),
                "SEAWALL_BLOCK_MAP": str(node.paths.block_map),
            },
            timeout=PROBE_TIMEOUT_S,
        )
        _require_faulted(node, image.path, wanted)
    found = json.loads(result.stdout)
    return _Probe(float(found["seconds"]), [float(read) for read in found["reads_us"]])


def _require_faulted(node: LazyCompute, path: str, blocks: int) -> None:
    with node.block_map() as block_map:
        slot = block_map.find(path)
        counters = block_map.counters()
    if slot is None or counters["fault_blocks"] + counters["prefetch_blocks"] < blocks:
        raise BenchmarkError(f"fewer than {blocks} blocks of {path} were faulted in")


# Scans.


def measure_scan(workspace: Workspace, image: WideImage, *, quick: bool) -> Outcome:
    """The whole table, by one process and by several."""
    rounds = 2 if quick else 5
    serial = [_scan(workspace, image, "0") for _ in range(rounds)]
    parallel = [_scan(workspace, image, "2") for _ in range(rounds)]
    return Outcome(
        benchmark="scan",
        settings={"megabytes": _megabytes(image), "rounds": rounds},
        measurements=[
            Measurement("cold_seq_scan_mb_s", "MB/s", tuple(scan.cold_mb_s for scan in serial)),
            Measurement("warm_seq_scan_mb_s", "MB/s", tuple(scan.warm_mb_s for scan in serial)),
            Measurement(
                "cold_parallel_scan_mb_s", "MB/s", tuple(scan.cold_mb_s for scan in parallel)
            ),
        ],
    )


@dataclass(frozen=True, slots=True)
class _Scan:
    """The same scan twice: everything faulted in, and everything there."""

    cold_mb_s: float
    warm_mb_s: float


def _scan(workspace: Workspace, image: WideImage, workers: str) -> _Scan:
    prepare_round(workspace.directory, image.blocks * BLOCK_BYTES, read=image.data_dir)
    with workspace.compute(
        image.data_dir, wal_dir=image.wal_dir, max_parallel_workers_per_gather=workers
    ) as node:
        node.start()
        with connected(node.postgres) as session:
            # The catalogs are faulted in by the planner, which is no part of the scan.
            session.execute("explain select count(*) from wide")
            missing = _missing(node, image.path)
            if missing < image.blocks * COLD_SHARE_MIN:
                raise BenchmarkError(f"only {missing} of {image.blocks} blocks were cold")
            cold_s = _seconds(lambda: one_value(session, "select count(*) from wide"))
            _require_local(node, image.path)
            warm_s = _seconds(lambda: one_value(session, "select count(*) from wide"))
    return _Scan(_megabytes(image) / cold_s, _megabytes(image) / warm_s)


def _require_local(node: LazyCompute, path: str) -> None:
    """Nothing is MISSING any more. The count follows the blocks, so it may be a moment late."""
    give_up_s = time.monotonic() + COUNT_DEADLINE_S
    while _missing(node, path):
        if time.monotonic() > give_up_s:
            raise BenchmarkError(f"the scan did not touch every block of {path}")
        select.select([], [], [], REPLAY_POLL_S)


def _missing(node: LazyCompute, path: str) -> int:
    with node.block_map() as block_map:
        slot = block_map.find(path)
    assert slot is not None, f"{path} is in the block map"
    return slot.missing


def _megabytes(image: WideImage) -> float:
    return image.blocks * BLOCK_BYTES / 1e6


def _seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s
