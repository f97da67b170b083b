"""Pages of storage nodes are those of a stock standby that has replayed as far.

In scope: every block at every cut, after every kind of write, and under loads that go on while cuts
are taken. Equal is what bench.storage.page_equality says. Out of scope: crashes and damage, in
test_storage_faults.py; the page store by itself, in tests/unit/storage.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.command import run_seawall
from fixtures.redo import facts_of, seeded
from fixtures.storage_cluster import BRANCH, STORES, StorageWorld
from fixtures.workload import PHASES, Run

from bench.pagefault.pgbench import find_pgbench, parse_result, run_pgbench
from bench.storage.page_equality import directory_differences, infomasks
from bench.tpcc.run import findings, load_tables, run_tpcc
from bench.tpcc.schema import Scale
from fabric.lsn import Lsn
from sqlnode.directory_source import describe_directory
from sqlnode.pagefault.block_map import BLOCK_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from fixtures.servers import Fleet

pytestmark = pytest.mark.postgres
NODE = STORES[0]
CLIENTS = 4
ROUNDS = 3
TRANSACTIONS = 250  # of a client of pgbench, in a round
SCALE = Scale(warehouses=2, districts=5, customers=40, items=400)
TPCC_TRANSACTIONS = 60  # of a client, in a round
CHECKPOINT_EVERY = 20  # of the transactions of one of them
XMAX_INVALID = 0x08  # in the upper byte of a tuple's bits: that nobody has deleted it
XMIN_COMMITTED = 0x01
XMIN_INVALID = 0x02

slow = pytest.mark.faults


@slow
def test_every_block_of_every_cut_is_the_standbys(storage_world: StorageWorld) -> None:
    world = storage_world
    run = Run(server=facts_of(world.primary), rng=seeded(1), number=1)
    for phase in PHASES:
        phase(run)
        lsn = world.cut()
        assert world.differences(NODE, lsn) == [], f"after {phase.__name__}"


@slow
def test_every_block_is_the_standbys_after_rounds_of_tpcb(storage_world: StorageWorld) -> None:
    world = storage_world
    program = find_pgbench(world.fleet.binaries)
    run_pgbench(program, world.primary, "--initialize", "--quiet", "--scale=1")
    assert world.differences(NODE, world.cut()) == []
    for number in range(1, ROUNDS + 1):
        report = run_pgbench(
            program, world.primary, "--no-vacuum", f"--random-seed={number}",
            f"--client={CLIENTS}", f"--transactions={TRANSACTIONS}",
        )  # fmt: skip
        assert parse_result(report).transactions == CLIENTS * TRANSACTIONS
        assert world.differences(NODE, world.cut()) == [], f"round {number}"
        vacuum(world)
    assert world.differences(NODE, world.cut()) == []


@slow
def test_every_block_is_the_standbys_after_rounds_and_amid_a_load_like_tpcc(
    storage_world: StorageWorld,
) -> None:
    world = storage_world
    load_tables(world.primary, SCALE, seed=1)
    first = last = world.cut()
    assert world.differences(NODE, first) == []
    for number in range(1, ROUNDS + 1):
        tally = run_tpcc(
            world.primary, SCALE, clients=CLIENTS, transactions=TPCC_TRANSACTIONS, seed=number,
            checkpoint_every=CHECKPOINT_EVERY,
        )  # fmt: skip
        assert tally.committed["new_order"] > 0
        last = world.cut()
        assert world.differences(NODE, last) == [], f"round {number}"
        vacuum(world)
    assert findings(world.primary, SCALE) == []
    amid = [lsn for lsn in cuts(world) if first < lsn < last]
    assert len(amid) > ROUNDS
    for lsn in amid[:: len(amid) // ROUNDS]:
        assert world.differences_amid_load(NODE, lsn) == [], f"cut at {lsn} of {amid}"


def vacuum(world: StorageWorld) -> None:
    with psycopg.connect(world.primary.conninfo(), autocommit=True) as connection:
        connection.execute("vacuum analyze")


def cuts(world: StorageWorld) -> list[Lsn]:
    """Where the node has cuts, oldest first."""
    address = world.stores[NODE].spec.rpc_address
    done = run_seawall("storage", "cuts", address, BRANCH, "--json")
    return [Lsn.parse(cut["lsn"]) for cut in json.loads(done.stdout)]


def test_a_single_altered_bit_is_found_wherever_it_is(fleet: Fleet) -> None:
    """What all of the above rests on: that the comparison sees every block of every file."""
    want = fleet.make_cluster("want")
    have = fleet.directory / "have"
    shutil.copytree(want, have)
    assert directory_differences(have, want) == []
    rng = seeded(1)
    files = [
        file
        for file in describe_directory(want).files
        if file.blocks and "_fsm" not in file.path and not file.path.startswith("pg_subtrans/")
    ]
    assert len(files) > 100
    for file in rng.sample(files, 20):
        block, byte = rng.randrange(file.blocks), rng.randrange(BLOCK_BYTES)
        flip(have / file.path, block * BLOCK_BYTES + byte, 0x80)
        assert directory_differences(have, want) == [f"{file.path}: block {block} differs"]
        flip(have / file.path, block * BLOCK_BYTES + byte, 0x80)
    with (have / files[0].path).open("ab") as longer:
        longer.write(bytes(BLOCK_BYTES))
    assert len(directory_differences(have, want)) == 1


def test_only_hint_bits_may_differ_and_only_where_they_are_hints(fleet: Fleet) -> None:
    want = fleet.make_cluster("want")
    have = fleet.directory / "have"
    shutil.copytree(want, have)
    path = "base/1/1255"  # pg_proc, whose tuples are committed, and not frozen
    at = 1 + next(infomasks((want / path).read_bytes()[:BLOCK_BYTES]))
    flip(have / path, at, XMAX_INVALID)
    assert (have / path).read_bytes() != (want / path).read_bytes()
    assert directory_differences(have, want) == []
    flip(have / path, 8, 0x80)  # and so may the checksum, which they are in
    assert directory_differences(have, want) == []
    flip(have / path, at, XMAX_INVALID)  # the checksum alone must not
    assert directory_differences(have, want) == [f"{path}: block 0 differs"]
    flip(have / path, 8, 0x80)
    flip(have / path, at, XMIN_COMMITTED)
    assert directory_differences(have, want) == []
    flip(have / path, at, XMIN_COMMITTED)
    for directory in (have, want):
        flip(directory / path, at, XMIN_INVALID)  # both bits: frozen, which is no hint
    flip(have / path, at, XMIN_COMMITTED)
    assert directory_differences(have, want) == [f"{path}: block 0 differs"]


def flip(path: Path, offset: int, bits: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (value,) = file.read(1)
        file.seek(offset)
        file.write(bytes([value ^ bits]))
