"""The arithmetic of the benchmarks, and what they read of other programs' output.

In scope: processor time of a tree, usage by others, pgbench's report, the log's start of redo, the
order of rounds, the length of a tail, laps. Out of scope: anything that starts a server.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.pagefault.cpu_time import ProcessTimes, parse_stat, tree_cpu_s, tree_ticks
from bench.pagefault.faulting import BenchmarkError, redo_start_s
from bench.pagefault.images import TAIL_BYTES, transactions_left
from bench.pagefault.machine import Usage, busy_ticks, cpu_model, memory_mib
from bench.pagefault.opening import Opening, Stopwatch, phase_measurements
from bench.pagefault.overhead import Pair, Round, figures, order
from bench.pagefault.pgbench import PgbenchError, parse_result
from bench.pagefault.probe import scattered
from bench.pagefault.workspace import spread_directories

PGBENCH_REPORT = """\
pgbench (15.18)
transaction type: <builtin: select only>
duration: 3 s
number of transactions actually processed: 45017
number of failed transactions: 0 (0.000%)
latency average = 0.133 ms
initial connection time = 3.921 ms
tps = 15013.654321 (without initial connection time)
"""

# Processor time.


def test_stat_of_a_process_with_a_spiteful_name_is_read() -> None:
    text = "42 (a) S 7 (b) S 40 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 1 2\n"
    assert parse_stat(text) == ProcessTimes(42, 40, 127)


def test_what_is_no_stat_is_nothing() -> None:
    assert parse_stat("") is None


def test_tree_counts_itself_and_all_below_it_and_nobody_else() -> None:
    processes = [
        ProcessTimes(3, 2, 100),
        ProcessTimes(1, 0, 1),
        ProcessTimes(2, 1, 10),
        ProcessTimes(9, 0, 1000),
    ]
    assert tree_ticks(1, processes) == 111
    assert tree_ticks(2, processes) == 110
    assert tree_ticks(8, processes) == 0


def test_our_own_tree_has_used_time() -> None:
    assert tree_cpu_s(os.getpid()) > 0


def test_time_of_others_is_what_the_machine_used_and_we_did_not() -> None:
    before = Usage(machine_s=100, ours_s=10, at_s=1000)
    assert Usage(machine_s=104, ours_s=11, at_s=1002).others_since(before) == 1.5
    assert Usage(machine_s=101, ours_s=12, at_s=1002).others_since(before) == 0
    assert before.others_since(before) == 0


def test_idle_waiting_and_guests_are_not_busy() -> None:
    assert busy_ticks("cpu  1 2 4 1000 2000 8 16 32 4000 8000\ncpu0 9 9 9\n") == 63


def test_machine_is_described_from_proc() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n") == "Some CPU @ 3 GHz"
    assert cpu_model("processor\t: 0\n")
    assert memory_mib("MemTotal:       24684544 kB\nMemFree: 1 kB\n") == 24106


# Other programs' output.


def test_report_of_pgbench_is_read() -> None:
    result = parse_result(PGBENCH_REPORT)
    assert result.transactions == 45017
    assert result.per_s == 15013.654321


def test_report_without_a_rate_is_refused() -> None:
    with pytest.raises(PgbenchError, match="unexpected"):
        parse_result("pgbench: error\n")


def test_start_of_redo_is_read_off_the_log() -> None:
    log = (
        "2026-01-02 03:04:04.999 UTC [7] LOG:  entering standby mode\n"
        "2026-01-02 03:04:05.250 UTC [7] LOG:  redo starts at 0/2000028\n"
        "2026-01-02 03:04:06.000 UTC [5] LOG:  database system is ready\n"
    )
    assert redo_start_s(log) == 1767323045.25


def test_log_without_redo_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="redo started"):
        redo_start_s("2026-01-02 03:04:04.999 UTC [7] LOG:  entering standby mode\n")


# What to run.


def test_rounds_are_ordered_so_that_drift_hits_both_alike() -> None:
    assert order(4) == [True, False, True, False]


def test_ratio_is_that_of_each_pair() -> None:
    pairs = [Pair(Round(90, 11), Round(100, 10)), Pair(Round(200, 10), Round(200, 20))]
    ratio, cpu_ratio, *_ = figures("tpcb", pairs)
    assert (ratio.name, ratio.rounds) == ("tpcb_ratio", (0.9, 1.0))
    assert (cpu_ratio.name, cpu_ratio.rounds) == ("tpcb_cpu_ratio", (1.1, 0.5))


def test_tail_comes_to_its_length_in_pieces() -> None:
    bytes_a_transaction, clients = 600, 4
    written = 0
    while count := transactions_left(written):
        assert count > 0
        written += count * clients * bytes_a_transaction
    assert TAIL_BYTES <= written < TAIL_BYTES * 1.1


def test_scattered_blocks_are_the_same_every_time_and_none_comes_twice() -> None:
    blocks = scattered(1000, 500)
    assert blocks == scattered(1000, 500)
    assert len(set(blocks)) == 500
    assert blocks != sorted(blocks)


# Laps.


def test_laps_add_up_to_the_total() -> None:
    watch = Stopwatch()
    watch.lap("whole", inside={"a part": 0.0})
    watch.lap("rest")
    assert list(watch.phases_ms) == ["a part", "whole", "rest"]
    assert sum(watch.phases_ms.values()) == pytest.approx(watch.total_ms)


def test_phases_are_reported_one_by_one() -> None:
    openings = [Opening(3, {"a": 1, "b": 2}, 50), Opening(5, {"a": 2, "b": 3}, 60)]
    found = {m.name: m.rounds for m in phase_measurements("x", openings)}
    assert found == {"x.a": (1, 2), "x.b": (2, 3), "x.interpreter_beside": (50, 60)}


# Directories.


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    spread_directories(tmp_path)
    opened = os.open(tmp_path, os.O_RDONLY)
    yield opened
    os.close(opened)


def test_directories_are_spread_where_the_file_system_can(descriptor: int) -> None:
    try:
        flags = int.from_bytes(fcntl.ioctl(descriptor, 0x80086601, bytes(4)), "little")
    except OSError:
        pytest.skip("this file system has no such flags")
    if not flags & 0x00080000:
        pytest.skip("not ext4: it has no extents")
    assert flags & 0x00020000
