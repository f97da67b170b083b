"""The arithmetic of the storage nodes' benchmarks, and what they read of other programs.

In scope: bars, a node's log, trees of processes, which pages are read, how much load. Out of
scope: anything that starts a process; see tests/integration.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import pytest

from bench.runner import remark_text
from bench.storage import bulk_copy, cuts, materialise, reads
from bench.storage.__main__ import SUITE
from bench.storage.bars import BARS
from bench.storage.cut_log import CutTold, cuts_told
from bench.storage.loads import TRANSACTIONS_A_CALL, WRITERS, calls_for
from bench.storage.processes import (
    NodeCpu,
    ProcessSeen,
    descendants,
    process_cpu_s,
    role_of,
    thread_kind,
)
from bench.storage.space import Size, directory_bytes
from fabric.lsn import Lsn
from sqlnode.page_source import DataFile, PageRange

# Bars.


def test_every_measurement_that_has_a_bar_is_made_under_its_name() -> None:
    cpu = NodeCpu(2.0, 1.0, {"node_loop": 0.5})
    made = [
        *materialise.figures([materialise.Round(4.0, cpu, 3, 100)], wal_mb=120.0, stock_s=2.0),
        *bulk_copy.figures([bulk_copy.Round(3.0, 2.0, 2.0)], quick=False),
        *cuts.figures([told(pages=10_000)]),
        *reads.figures(reads.Read([[0.1, 0.2]], [reads.Pass(500.0, 1.0, 0.8, 0.4)], [0.3])),
    ]
    names = {measurement.name for measurement in made}
    elsewhere = {
        "store_ratio_one_cut", "store_ratio_ten_cuts", "idle_engines", "idle_core_percent"
    }  # fmt: skip
    assert {bar.name for bar in BARS} <= names | elsewhere
    assert len({bar.name for bar in BARS}) == len(BARS)


def test_a_quick_run_says_so_beside_every_bar() -> None:
    assert "quick" in remark_text(SUITE, "idle_engines", argparse.Namespace(quick=True))
    assert remark_text(SUITE, "idle_engines", argparse.Namespace(quick=False)) == ""


# Figures.


def test_materialising_is_wal_by_all_processor_time_of_the_node_and_its_engine() -> None:
    cpu = NodeCpu(2.0, 0.5, {})
    found = {
        m.name: m.value
        for m in materialise.figures(
            [materialise.Round(4.0, cpu, 3, 100)], wal_mb=120.0, stock_s=2.0
        )
    }
    assert found["materialise_wal_mb_per_core_s"] == pytest.approx(60.0)
    assert found["materialise_wal_mb_per_s"] == pytest.approx(30.0)
    assert found["cpu_engine_s"] == pytest.approx(1.5)


def test_a_small_copy_is_not_held_against_the_bar_of_a_large_one() -> None:
    names = [m.name for m in bulk_copy.figures([bulk_copy.Round(3.0, 2.0, 2.0)], quick=True)]
    assert not {bar.name for bar in BARS} & {*names}


def test_the_ratio_of_a_store_is_by_its_raw_bytes() -> None:
    assert Size(store_bytes=30, raw_bytes=60).ratio == pytest.approx(0.5)


def test_calls_fill_the_wal_that_is_left() -> None:
    assert calls_for(64_000_000, 500.0) * WRITERS * TRANSACTIONS_A_CALL == 128_000
    assert calls_for(10, 500.0) == 1


# The node's log.


def told(*, pages: int) -> CutTold:
    return CutTold(lsn=Lsn(1), pages=pages, replay_ms=1.0, restartpoint_ms=20.0, store_ms=300.0)


def test_cuts_are_found_in_a_log_among_other_lines() -> None:
    line = {
        "event": "cut published", "branch": "main", "lsn": "0/2000028", "pages": 7,
        "replay_ms": 5.5, "restartpoint_ms": 1.0, "store_ms": 2.5,
    }  # fmt: skip
    lines = ['{"event": "redo engine started"}', json.dumps(line), "Traceback:", "7", '{"event":']
    (found,) = cuts_told(lines)
    assert found.lsn == Lsn(0x2000028)
    assert found.pages == 7
    assert found.behind_replay_ms == pytest.approx(3.5)


# Processes.


def seen(pid: int, parent: int, title: str = "") -> ProcessSeen:
    return ProcessSeen(pid, parent, 0, "postgres", title)


def test_all_generations_below_a_process_are_its_own_and_itself_is_not() -> None:
    processes = [seen(4, 3), seen(3, 2), seen(2, 1), seen(9, 1), seen(8, 9)]
    assert {process.pid for process in descendants(2, processes)} == {3, 4}


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("postgres: startup recovering 000000010000000000000002", "startup"),
        ("postgres: walreceiver streaming 0/2000000", "walreceiver"),
        ("postgres: postgres postgres [local] idle", "other"),
    ],
)
def test_postgres_processes_are_told_apart_by_their_titles(title: str, role: str) -> None:
    assert role_of(seen(1, 0, title)) == role


def test_threads_are_told_apart_by_their_names() -> None:
    assert thread_kind("rocksdb:low", is_first=False) == "rocksdb"
    assert thread_kind("python", is_first=True) == "loop"
    assert thread_kind("python", is_first=False) == "threads"


def test_the_processor_time_of_a_process_is_that_of_the_process() -> None:
    before_s, own_s = process_cpu_s(os.getpid()), time.process_time()
    after_s = process_cpu_s(os.getpid())
    assert before_s <= own_s <= after_s


def test_use_between_two_moments_is_their_difference() -> None:
    used = NodeCpu(3.0, 2.0, {"a": 1.5, "new": 0.5}).since(NodeCpu(1.0, 0.5, {"a": 1.0}))
    assert used == NodeCpu(2.0, 1.5, {"a": 0.5, "new": 0.5})


# Pages.


def test_ranges_cover_every_block_of_every_file_once() -> None:
    found = reads.range_list([DataFile("base/5/1", 130), DataFile("base/5/2", 1)])
    assert found == [
        PageRange("base/5/1", 0, 128), PageRange("base/5/1", 128, 2), PageRange("base/5/2", 0, 1),
    ]  # fmt: skip


def test_chosen_blocks_are_single_and_inside_their_files() -> None:
    files = [DataFile("base/5/1", 3), DataFile("base/5/2", 1)]
    found = reads.chosen(files, random.Random(1), 200)
    assert {one[:2] for one in found} == {
        ("base/5/1", 0), ("base/5/1", 1), ("base/5/1", 2), ("base/5/2", 0),
    }  # fmt: skip
    assert {one.blocks for one in found} == {1}


def test_a_directory_takes_what_all_of_its_files_take(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for path in (tmp_path / "a", tmp_path / "deeper" / "b"):
        path.write_bytes(b"x" * 4096)
        os.sync()
    assert directory_bytes(tmp_path) >= 2 * 4096
