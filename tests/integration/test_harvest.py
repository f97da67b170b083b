"""The harvest is exact: what it names, and nothing less, is what changed.

In scope: every kind of write that PostgreSQL does, through redo, over blocks that fault in; sizes,
creations and removals; SLRU segments; relations over 1 GB. The oracle and the three machines are
described in `fixtures.redo`. Out of scope: what a compute makes of the image (test_cold_start).
"""

from dataclasses import replace

import pytest
from fixtures.redo import RedoPair, facts_of, seeded, start_redo_pair
from fixtures.servers import Fleet
from fixtures.workload import PHASES, Run, end_prepared_transactions, run_phases
from fixtures.workload_extremes import (
    MULTIXACTS_PER_SEGMENT,
    a_relation_outgrows_its_first_segment,
    burn_multixacts,
    burn_xids,
    freeze_everything,
    the_large_relation_grows_again,
    the_large_relation_shrinks_below_one_segment,
)
from fixtures.workload_wraparound import Distance, StoppedServer, move_counters_near_wraparound

from sqlnode.control_file import read_control_file
from sqlnode.postgres import Postgres

pytestmark = pytest.mark.postgres
slow = pytest.mark.faults


def test_every_kind_of_write_is_harvested(pair: RedoPair) -> None:
    """Two runs: the second one changes what the first has left, faulting it in where needed."""
    facts = facts_of(pair.primary)
    cuts = 0
    for number in (1, 2):
        run = Run(server=facts, rng=seeded(number), number=number)
        for phase in PHASES:
            phase(run)
            pair.cut()
            cuts += 1
            assert pair.differences() == [], f"after {phase.__name__} of run {number}"
    counters = pair.block_map.counters()
    assert cuts == 2 * len(PHASES)
    assert pair.harvested_blocks > 0
    assert counters["fault_blocks"] > 0, "the engine is meant to run over missing blocks"
    assert {name: n for name, n in counters.items() if name.startswith("unexpected") and n} == {}


def test_a_block_that_is_left_out_is_noticed(pair: RedoPair) -> None:
    """The oracle above can fail: drop one block of a harvest."""
    run = Run(server=facts_of(pair.primary), rng=seeded(3), number=1)
    run.execute("create table t as select g from generate_series(1, 10000) g;\n")
    pair.cut()
    run.execute("update t set g = -g where g = 5000;\n")
    complete = pair.image.apply

    def apply_less(harvest, data_dir):  # type: ignore[no-untyped-def]  # as Image.apply
        largest = max(harvest.files, key=lambda file: len(file.changed))
        less = [replace(f, changed=f.changed[1:]) if f is largest else f for f in harvest.files]
        complete(replace(harvest, files=less), data_dir)

    pair.image.apply = apply_less  # type: ignore[method-assign]  # the fault of this test
    pair.cut()
    assert any("differs" in difference for difference in pair.differences())


def test_an_undone_harvest_comes_again(pair: RedoPair) -> None:
    """A storage node that could not store loses nothing: the next harvest has both."""
    run = Run(server=facts_of(pair.primary), rng=seeded(4), number=1)
    run.execute("create table t as select g from generate_series(1, 10000) g;\ndrop table t;\n")
    pair.cut()
    run.execute("create table u as select g from generate_series(1, 10000) g;\n")
    pair.harvester.take()
    pair.harvester.undo()
    run.execute("update u set g = -g where g % 100 = 0;\n")
    pair.cut()
    assert pair.differences() == []


@slow
def test_relations_beyond_one_segment_are_harvested(pair: RedoPair) -> None:
    """A second 1 GiB segment appears, is truncated away, and comes back."""
    run = Run(server=facts_of(pair.primary), rng=seeded(5), number=1)
    a_relation_outgrows_its_first_segment(run)
    harvest = pair.cut()
    assert any(file.path.endswith(".1") for file in harvest.files)
    assert pair.differences() == []
    the_large_relation_shrinks_below_one_segment(run)
    pair.cut()
    assert pair.differences() == []
    the_large_relation_grows_again(run)
    pair.cut()
    assert pair.differences() == []


def test_slru_segments_are_harvested_and_removed(pair: RedoPair) -> None:
    """Transaction ids, commit timestamps and multixacts use segments up; freezing removes them."""
    facts = facts_of(pair.primary)
    run = Run(server=facts, rng=seeded(6), number=1)
    burn_xids(run, 120_000)
    burn_multixacts(run, MULTIXACTS_PER_SEGMENT + 2_000)
    pair.cut()
    assert pair.differences() == []
    freeze_everything(facts, seeded(6))
    harvest = pair.cut()
    assert pair.differences() == []
    removed = {path.rpartition("/")[0] for path in harvest.removed}
    assert {"pg_multixact/offsets", "pg_multixact/members", "pg_commit_ts"} <= removed


@slow
def test_counters_wrap_around(fleet: Fleet) -> None:
    """Transaction ids, multixacts and their members start again at 0, in segments named 0000."""
    if not (fleet.binaries.bin_dir / "pg_resetwal").exists():
        pytest.skip("this build of PostgreSQL has no pg_resetwal")

    def move(primary: Postgres) -> None:
        user = fleet.identity.name if fleet.identity.subprocess_options() else None
        stopped = StoppedServer(fleet.binaries.bin_dir, primary.data_dir, user)
        move_counters_near_wraparound(stopped, Distance(xids=3000, multixacts=300, members=600))

    pair = start_redo_pair(fleet, prepare=move)
    try:
        facts = facts_of(pair.primary)
        run = Run(server=facts, rng=seeded(7), number=1)
        run_phases(run)
        end_prepared_transactions(facts, seeded(7))
        burn_xids(run, 3000)
        burn_multixacts(run, 500)
        harvest = pair.cut()
        assert pair.differences() == []
        assert read_control_file(pair.image.root).next_xid >> 32 == 1
        assert {"pg_xact/0000", "pg_multixact/offsets/0000"} <= {
            file.path for file in harvest.files
        }
    finally:
        pair.close()
