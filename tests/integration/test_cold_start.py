"""A compute that starts with nothing: right answers from the first query on, and for ever after.

In scope: boot from an image with a tail of WAL behind it, reading as a replica, promotion, writing,
equality with the primary that is gone, a second generation booted from the first one's harvest.
"""

import psycopg
import pytest
from fixtures.redo import (
    RedoPair,
    facts_of,
    one,
    seeded,
    settings,
    wait_for_replay,
)
from fixtures.verify import data_checksum_failures, index_findings, scan_everything
from fixtures.verify_dump import differences, dump
from fixtures.workload import PHASES, Run, end_prepared_transactions, run_phases

from sqlnode.lazy_compute import LazyCompute
from sqlnode.postgres import Mode, PostgresSettings

pytestmark = pytest.mark.postgres


def last_lsn(pair: RedoPair) -> str:
    """The end of a record: the WAL writer may have flushed half of one, a commit flushes it all."""
    with psycopg.connect(pair.primary.conninfo(), autocommit=True) as connection:
        one(connection, "select pg_logical_emit_message(true, 'end', '')::text")
        return one(connection, "select pg_current_wal_flush_lsn()::text")


def assert_sound(compute: LazyCompute) -> None:
    facts = facts_of(compute.postgres)
    assert index_findings(facts) == []
    assert data_checksum_failures(facts) == 0


def test_a_promoted_compute_equals_the_lost_primary(pair: RedoPair) -> None:
    """Image, tail, replica, primary: the dump is the old primary's, and the indexes are sound."""
    facts = facts_of(pair.primary)
    left_open = run_phases(Run(server=facts, rng=seeded(1), number=1))
    pair.cut()
    tail = Run(server=facts, rng=seeded(2), number=2)
    for phase in PHASES[:6]:
        phase(tail)
    expected, end = dump(facts), last_lsn(pair)
    pair.primary.kill_blocking()

    compute = pair.compute("c")
    compute.start()
    wait_for_replay(compute.postgres, end)
    assert compute.postgres.mode() is Mode.READ_ONLY
    assert differences(expected, dump(facts_of(compute.postgres)), replayed=True) == []
    compute.promote()
    with compute.block_map() as block_map:
        still_missing = sum(slot.missing for slot in block_map.slots())
    assert still_missing > 0, "a cold start that copies everything is none"

    after = facts_of(compute.postgres)
    assert differences(expected, dump(after), replayed=True) == []
    with after.connect() as connection:
        scan_everything(connection)
    assert_sound(compute)
    assert left_open, "the workload leaves prepared transactions open"
    end_prepared_transactions(after, seeded(1))
    run_phases(Run(server=after, rng=seeded(3), number=3))
    assert_sound(compute)
    log = compute.postgres.log_path.read_text()
    assert "PANIC" not in log
    assert "seawall:" not in log


def test_a_compute_can_be_deleted_and_started_again(pair: RedoPair) -> None:
    """Nothing on its disk matters: killed in the middle of faults, deleted, booted, equal."""
    facts = facts_of(pair.primary)
    for phase in PHASES[:4]:
        phase(Run(server=facts, rng=seeded(1), number=1))
    pair.cut()
    expected, end = dump(facts), last_lsn(pair)
    first = pair.compute("c1")
    first.start()
    with facts_of(first.postgres).connect() as connection:
        connection.execute("select count(*) from pg_class")
        first.kill()
    second = pair.compute("c2")
    second.start()
    wait_for_replay(second.postgres, end)
    assert differences(expected, dump(facts_of(second.postgres)), replayed=True) == []


def test_a_replica_follows_its_primary_over_missing_blocks(pair: RedoPair) -> None:
    """A streaming replica reads and replays over blocks that it has never held."""
    facts = facts_of(pair.primary)
    run_phases(Run(server=facts, rng=seeded(1), number=1))
    pair.cut()
    conninfo = f"host={facts.host} port={facts.port} user=postgres"
    replica = pair.compute("r", settings=settings(primary_conninfo=conninfo))
    replica.start()
    run_phases(Run(server=facts, rng=seeded(2), number=2))
    wait_for_replay(replica.postgres, last_lsn(pair))
    assert differences(dump(facts), dump(facts_of(replica.postgres)), replayed=True) == []


def test_a_filled_directory_needs_neither_broker_nor_library(pair: RedoPair) -> None:
    """`fill` brings every block: then the directory is an ordinary one, for offline tools."""
    facts = facts_of(pair.primary)
    for phase in PHASES[:4]:
        phase(Run(server=facts, rng=seeded(1), number=1))
    pair.cut()
    expected, end = dump(facts), last_lsn(pair)
    compute = pair.compute("c", fill=True)
    compute.start()
    wait_for_replay(compute.postgres, end)
    wait_until_filled(compute)
    compute.stop()
    plain = pair.fleet.server("plain", data_dir=compute.paths.data, settings=settings())
    plain.start_blocking()
    assert differences(expected, dump(facts_of(plain)), replayed=True) == []


def wait_until_filled(compute: LazyCompute) -> None:
    with compute.block_map() as block_map:
        while any(slot.missing for slot in block_map.slots()):
            assert compute.postgres.running


def test_input_output_workers_fault_too(pair: RedoPair) -> None:
    """The default of PostgreSQL 18: other processes read for a backend, through our library."""
    if pair.fleet.binaries.version.major < 18:
        pytest.skip("asynchronous input and output came with PostgreSQL 18")
    facts = facts_of(pair.primary)
    for phase in PHASES[:4]:
        phase(Run(server=facts, rng=seeded(1), number=1))
    pair.cut()
    expected, end = dump(facts), last_lsn(pair)
    workers = PostgresSettings(io_method="worker", extra=settings().extra)
    compute = pair.compute("c", settings=workers)
    compute.start()
    wait_for_replay(compute.postgres, end)
    with facts_of(compute.postgres).connect() as connection:
        assert one(connection, "show io_method") == "worker"
        scan_everything(connection)
    assert differences(expected, dump(facts_of(compute.postgres)), replayed=True) == []
