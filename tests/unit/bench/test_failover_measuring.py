"""The arithmetic of the benchmarks of a whole cluster.

In scope: lags, pauses, what is lost, which bars there are. Out of scope: anything that starts a
cluster; `make bench-failover` and `make bench-elastic` do.
"""

import os
import random
from pathlib import Path

import pytest

from bench.failover.__main__ import SUITE, remark
from bench.failover.bars import BARS
from bench.failover.elastic import lags_ms, percentile, stored_bytes
from bench.failover.footprint import cpu_of, pss_mb
from bench.failover.gaps import SCENARIOS
from bench.failover.world import Tpcb, Writers
from bench.faults.clients import Recorder
from bench.faults.history import Insert, Operation, Result
from bench.faults.plan import ACTIONS, Action, kills_plan
from bench.faults.target import TargetError


def insert(number: int, at_s: float, result: Result = Result.OK) -> Insert:
    at_ns = int(at_s * 1e9)
    return Insert(process=0, result=result, invoke_ns=at_ns, return_ns=at_ns, identifier=number)


def writers(*operations: Operation) -> Writers:
    return Writers(Recorder(list(operations)))


# Gaps.


def test_gap_is_the_longest_pause_that_ends_behind_the_blow() -> None:
    told = writers(insert(1, 1), insert(2, 4), insert(3, 4.5), insert(4, 5.5), insert(5, 5.6))
    assert told.longest_pause_s(after_ns=0) == pytest.approx(3)
    assert told.longest_pause_s(after_ns=int(4.6e9)) == pytest.approx(1)


def test_pause_before_anything_was_acknowledged_is_none() -> None:
    assert writers(insert(1, 1, Result.FAIL)).longest_pause_s(after_ns=0) == 0


def test_what_was_not_acknowledged_counts_from_the_blow_on() -> None:
    told = writers(
        insert(1, 1, Result.FAIL), insert(2, 3, Result.UNKNOWN), insert(3, 4, Result.FAIL)
    )
    assert told.failed_after(int(2e9)) == 2


def test_acknowledged_transactions_that_are_gone_are_lost_and_unknown_ones_are_not() -> None:
    told = writers(insert(1, 1), insert(2, 2), insert(3, 3, Result.UNKNOWN))
    assert told.lost([1, 2]) == 0
    assert told.lost([1]) == 1


def test_transactions_stay_in_the_tables() -> None:
    workload = Tpcb(scale=2, identifiers=iter(range(1, 100)))  # type: ignore[arg-type]  # any will do
    works = [workload.work(random.Random(seed)) for seed in range(50)]
    assert all(1 <= work.account <= 200_000 for work in works)
    assert all(1 <= work.branch <= 2 for work in works)
    assert len({work.identifier for work in works}) == 50


# Lag.


def test_lag_is_from_the_acknowledgement_to_the_first_look_that_shows_the_row() -> None:
    looks = [(1.0, 0), (2.0, 1), (3.0, 3)]
    assert lags_ms([1.5, 1.9, 3.5], looks) == pytest.approx([500, 1100, 0])


def test_row_that_is_never_seen_cannot_be_measured() -> None:
    with pytest.raises(TargetError, match="row 2"):
        lags_ms([1.0, 2.0], [(1.5, 1)])


def test_percentile_is_a_value_that_was_measured() -> None:
    assert percentile(list(range(100)), 0.99) == 99
    assert percentile([7.0], 0.5) == 7


# Costs.


def test_memory_and_processor_time_of_this_process_are_seen() -> None:
    assert pss_mb(os.getpid()) > 1
    assert cpu_of([os.getpid()])[os.getpid()] > 0


def test_stores_are_counted_and_nothing_else(tmp_path: Path) -> None:
    for name in ("storage-1/data/x/a", "storage-2/data/b", "log-1/data/c", "storage-1/node.log"):
        path = tmp_path / "nodes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10))
    assert stored_bytes(tmp_path) == 20


# The program.


def test_every_bar_belongs_to_a_benchmark() -> None:
    gaps = {f"{s.name}_{what}" for s in SCENARIOS for what in (
        "gap_s", "worst_gap_s", "failed_statements", "rows_lost",
    )}  # fmt: skip
    others = {
        "acknowledged_rows_lost", "random_kills_violations", "new_replica_s",
        "new_replica_large_over_small", "new_replica_storage_bytes", "replica_lag_p99_ms",
        "up_first_s", "up_again_s", "idle_core_percent", "python_memory_mb",
        "ha_tps_ratio_32_clients",
    }  # fmt: skip
    assert {bar.name for bar in BARS} <= gaps | others
    assert len(SUITE.names) == len(set(SUITE.names)) == len(SCENARIOS) + 6


@pytest.mark.parametrize(("large_mb", "words"), [(None, ""), (300, "with 300 MB instead of 5000")])
def test_smaller_database_than_promised_is_told(large_mb: int | None, words: str) -> None:
    class Arguments:
        quick = False

    arguments = Arguments()
    setattr(arguments, "large_mb", large_mb)  # noqa: B010  # argparse does so, too
    assert remark("new_replica_large_over_small", arguments) == words  # type: ignore[arg-type]  # has what is read
    assert remark("up_first_s", arguments) == ""  # type: ignore[arg-type]  # as above


def test_fifty_kills_are_fifty_kills_of_what_can_be_killed() -> None:
    plan = kills_plan(1, 50, ACTIONS, interval_s=2)
    blows = [blow for fault in plan for blow in fault.blows]
    assert len(blows) == 50
    assert {blow.action for blow in blows} == {Action.KILL}
    assert {blow.kind for blow in blows} == {k for k, a in ACTIONS.items() if Action.KILL in a}
    assert plan == kills_plan(1, 50, ACTIONS, interval_s=2)
