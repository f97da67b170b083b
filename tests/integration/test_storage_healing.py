"""Storage nodes heal: damaged pages, a store that cannot be opened, WAL that the log has no more.

In scope: bits flipped in the files of a node that is down, and what the node, its clients and its
redo engine make of them; a node that was away for too long. Out of scope: which flips are found,
see tests/unit/storage/test_rocks_store_damage.py; a directory that is lost, see
test_storage_nodes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.redo import checkpoint
from fixtures.servers import Fleet, new_run_root
from fixtures.storage_cluster import BRANCH, STORES, storage_worlds
from fixtures.waiting import eventually

from fabric.ids import BranchName
from sqlnode.page_source import DamagedPageError, PageRange, SourceError
from storage.client import StorageClient
from storage.healing import PAGES
from storage.methods import BLOCKS_MAX
from storage.storage_pages import StoragePages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures.storage_cluster import StorageWorld

    from fabric.lsn import Lsn
    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

FIRST, SECOND = STORES
HEAL_DEADLINE_S = 120.0
TRIM_DEADLINE_S = 300.0  # a segment a look, and the log keeps sixteen
PAGE_FLIPPED = 0.5  # where in the largest file: among the pages, far from records and index
RECORD_FLIPPED = 0.0


@pytest.fixture(scope="module")
def world(
    server_binaries: ServerBinaries, identity: Identity, cluster_template: Path
) -> Iterator[StorageWorld]:
    """Two nodes that have the same cuts and know of each other; each test leaves them healed."""
    fleet = Fleet(
        binaries=server_binaries,
        identity=identity,
        directory=new_run_root(identity),
        template=cluster_template,
    )
    with contextlib.closing(fleet), storage_worlds(fleet, stores=2) as world:
        both_have_the_branch(world)
        yield world


def test_page_that_is_damaged_comes_from_the_other_node_and_the_store_is_made_anew(
    world: StorageWorld,
) -> None:
    lsn = world.cut()
    sound = asyncio.run(all_pages(world, lsn, FIRST))
    flip(world, SECOND, PAGE_FLIPPED)
    assert asyncio.run(all_pages(world, lsn, SECOND, FIRST)) == sound
    wait_until_healed(world, SECOND)
    world.assert_equal(SECOND)
    aside = world.stores[SECOND].spec.data_path / f"{PAGES}.damaged"
    eventually(
        lambda: not aside.exists(), what="the end of what was damaged", deadline_s=HEAL_DEADLINE_S
    )


def test_damage_that_nobody_can_mend_is_told_and_what_is_sound_is_served_until_somebody_can(
    world: StorageWorld,
) -> None:
    lsn = world.cut()
    sound = asyncio.run(all_pages(world, lsn, FIRST))
    world.stores[FIRST].kill()
    flip(world, SECOND, PAGE_FLIPPED)
    found = asyncio.run(all_pages(world, lsn, SECOND))
    damaged = [wanted for wanted, pages in found.items() if isinstance(pages, SourceError)]
    assert damaged
    assert all(isinstance(found[wanted], DamagedPageError) for wanted in damaged)
    told = eventually(
        lambda: complaint_with(world, SECOND, "cannot be made anew now"),
        what="a complaint", deadline_s=HEAL_DEADLINE_S,
    )  # fmt: skip
    assert told.startswith("the page store is damaged"), told
    again = asyncio.run(all_pages(world, lsn, SECOND))
    assert {w: p for w, p in again.items() if w not in damaged} == {
        w: p for w, p in sound.items() if w not in damaged
    }
    world.stores[FIRST].start()
    wait_until_healed(world, SECOND)
    world.assert_equal(SECOND)


@pytest.mark.parametrize("what", ["a record", "the manifest"])
def test_store_that_cannot_be_opened_is_made_anew_from_the_other_node(
    world: StorageWorld, what: str
) -> None:
    lsn = world.cut()
    store = world.stores[SECOND]
    if what == "a record":
        flip(world, SECOND, RECORD_FLIPPED)
    else:
        store.kill()
        (store.spec.data_path / PAGES / "rocks" / "CURRENT").write_text("nothing of RocksDB")
        store.start()
    assert "page store is put aside" in store.log_of_this_start()
    world.control.wait_for_cut(SECOND, lsn)
    world.assert_equal(SECOND)


def test_store_that_cannot_be_opened_is_kept_while_nobody_else_has_the_branch(
    fleet: Fleet,
) -> None:
    with storage_worlds(fleet) as world:
        world.cut(FIRST)
        flip(world, FIRST, RECORD_FLIPPED)
        told = eventually(
            lambda: complaint_with(world, FIRST, "has no cut here"),
            what="a word",
            deadline_s=HEAL_DEADLINE_S,
        )
        assert told.endswith("adopt it with the address of a storage node that has it")
        aside = world.stores[FIRST].spec.data_path / f"{PAGES}.damaged"
        assert list(aside.glob("rocks/*.sst"))


def test_redo_engine_goes_on_with_pages_of_the_other_node(world: StorageWorld) -> None:
    """Load on a node whose store is damaged: it is healed, and no cut has a wrong page."""
    with world.churning(seed=3) as churn:
        churn.wait_for_more(2)
        world.stores[SECOND].kill()
        flip(world, SECOND, PAGE_FLIPPED)
        lsn = world.control.newest(SECOND)
        asyncio.run(all_pages(world, lsn, SECOND, FIRST))
        churn.wait_for_more(2)
        wait_until_healed(world, SECOND)
        churn.wait_for_more(2)
    world.assert_equal(SECOND)


@pytest.mark.timeout(600)
def test_node_that_was_away_for_longer_than_the_log_keeps_wal_takes_a_newer_cut(
    fleet: Fleet,
) -> None:
    archive = fleet.directory / "archive"
    archive.mkdir()
    log_settings = {"group": {"segment_bytes": 16 << 20, "keep_bytes": 1}}
    with storage_worlds(fleet, stores=2, archive=archive, log_settings=log_settings) as world:
        both_have_the_branch(world)
        old = world.cut()
        world.stores[SECOND].kill()
        world.log.unpin(f"storage.{SECOND}")
        trim_behind(world, old)
        for segment in archive.glob("**/*"):
            if segment.is_file() and ".history" not in segment.name:
                segment.unlink()
        world.stores[SECOND].start()
        before = world.control.newest(SECOND)
        assert before >= old or before == 0
        eventually(
            lambda: world.control.newest(SECOND) > old,
            what="a newer cut",
            deadline_s=HEAL_DEADLINE_S,
        )
        assert "WAL cannot go on" in world.stores[SECOND].log_of_this_start()
        asyncio.run(all_pages(world, old, SECOND))  # what it had is there still
        world.assert_equal(SECOND)


# --- Helpers --------------------------------------------------------------------------------------


def both_have_the_branch(world: StorageWorld) -> None:
    with world.churning() as churn:
        churn.wait_for_more(2)
        world.control.adopt(SECOND, sources=[FIRST])
        world.control.adopt(FIRST, sources=[SECOND])
        eventually(
            lambda: world.control.newest(SECOND) > 0,
            what="a first cut of the second",
            deadline_s=HEAL_DEADLINE_S,
        )
        churn.wait_for_more(1)


def flip(world: StorageWorld, node: str, where: float) -> None:
    """Change one bit in the largest table file of a node, between two of its lives."""
    store = world.stores[node]
    store.kill()
    tables = (store.spec.data_path / PAGES / "rocks").glob("*.sst")
    largest = max(tables, key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        place = int(largest.stat().st_size * where) + 100
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    store.start()


def wait_until_healed(world: StorageWorld, node: str) -> None:
    """Until the store was made anew, and the node has started again with it."""
    store = world.stores[node]

    def look() -> bool:
        return "page store is in place" in store.log_of_this_start()

    eventually(look, what="a new store", deadline_s=HEAL_DEADLINE_S)
    eventually(lambda: world.control.newest(node) > 0, what="serving", deadline_s=HEAL_DEADLINE_S)
    status = world.control.status(node)
    assert status is not None
    assert "damaged" not in status.complaint


async def all_pages(
    world: StorageWorld, lsn: Lsn, *nodes: str
) -> dict[PageRange, bytes | SourceError]:
    """All pages of a cut, in small ranges, as a client gets them."""
    addresses = [world.stores[node].spec.rpc_address for node in nodes]
    branch = BranchName(BRANCH)
    async with StorageClient(addresses, rng=random.Random(1)) as client:
        pages = StoragePages(client, branch, lsn, position=lambda: lsn)
        description = await pages.describe()
        ranges = [
            PageRange(file.path, first, min(8, file.blocks - first))
            for file in description.files
            for first in range(0, file.blocks, 8)
        ]
        found: dict[PageRange, bytes | SourceError] = {}
        step = BLOCKS_MAX // 8
        for start in range(0, len(ranges), step):
            some = ranges[start : start + step]
            for wanted, outcome in zip(some, await pages.read(some), strict=True):
                found[wanted] = outcome if isinstance(outcome, SourceError) else bytes(outcome)
        return found


def complaint_with(world: StorageWorld, node: str, text: str) -> str:
    status = world.control.status(node)
    return status.complaint if status is not None and text in status.complaint else ""


def trim_behind(world: StorageWorld, lsn: Lsn) -> None:
    """Write WAL until the log has none of a position any more."""

    def look() -> bool:
        with psycopg.connect(world.primary.conninfo(), autocommit=True) as connection:
            connection.execute("select pg_switch_wal()")
            connection.execute("create table if not exists more as select 1 as one")
            connection.execute("insert into more values (2)")
        checkpoint(world.primary)
        leader = world.log.leader()
        status = None if leader is None else world.log.status(leader)
        return status is not None and status.topology.start > lsn

    eventually(look, what="trimming", deadline_s=TRIM_DEADLINE_S)
