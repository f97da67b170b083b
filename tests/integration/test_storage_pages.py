"""Pages of storage nodes are those of a stock standby that has replayed as far.

In scope: every block at every cut, after every kind of write. Out of scope: crashes and damage, in
test_storage_faults.py; the page store by itself, in tests/unit/storage.
"""

import pytest
from fixtures.redo import facts_of, seeded
from fixtures.storage_cluster import STORES, StorageWorld
from fixtures.workload import PHASES, Run

pytestmark = pytest.mark.postgres


def test_every_block_of_every_cut_is_the_standbys(storage_world: StorageWorld) -> None:
    world = storage_world
    run = Run(server=facts_of(world.primary), rng=seeded(1), number=1)
    for phase in PHASES:
        phase(run)
        lsn = world.cut()
        assert world.differences(STORES[0], lsn) == [], f"after {phase.__name__}"
