"""Two storage nodes of one branch: either may be lost, and is rebuilt from the other.

In scope: adopting under load, reads while a node dies, a wiped directory, forgetting, a node that
lags, calls that are repeated. Out of scope: what one node survives, see test_storage_faults.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from typing import TYPE_CHECKING

import pytest
from fixtures.servers import Fleet, new_run_root
from fixtures.storage_cluster import BRANCH, STORES, storage_worlds
from fixtures.waiting import eventually

from bench.storage.page_equality import directory_differences
from fabric.addresses import parse_address
from fabric.ids import BranchName
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import BadRequestError, RpcError
from sqlnode.page_source import PageRange, SourceError
from sqlnode.pagefault.block_map import BLOCK_BYTES
from storage.client import StorageClient
from storage.node_methods import ADOPT_BRANCH, AdoptBranch
from storage.storage_pages import StoragePages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures.storage_cluster import StorageWorld

    from fabric.lsn import Lsn
    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries


pytestmark = pytest.mark.postgres
slow = pytest.mark.faults

FIRST, SECOND = STORES
CATALOG = "global/1262"  # pg_database: every cluster has it


@pytest.fixture(scope="module")
def world(
    server_binaries: ServerBinaries, identity: Identity, cluster_template: Path
) -> Iterator[StorageWorld]:
    """Two nodes; the second has adopted the branch while there was load."""
    fleet = Fleet(
        binaries=server_binaries,
        identity=identity,
        directory=new_run_root(identity),
        template=cluster_template,
    )
    with contextlib.closing(fleet), storage_worlds(fleet, stores=2) as world:
        with world.churning() as churn:
            churn.wait_for_more(2)
            world.control.adopt(SECOND, sources=[FIRST])
            eventually(lambda: world.control.newest(SECOND) > 0, what="a first cut", deadline_s=120)
            churn.wait_for_more(2)
        yield world


def test_node_that_adopted_under_load_has_the_same_pages(world: StorageWorld) -> None:
    lsn = world.cut()
    for node in STORES:
        assert world.differences(node, lsn) == []


def test_calls_that_are_repeated_change_nothing(world: StorageWorld) -> None:
    lsn = world.cut()
    first, wal = world.control.found(FIRST)
    assert world.control.found(FIRST) == (first, wal)
    world.control.adopt(FIRST, sources=[SECOND])
    world.control.adopt(SECOND, sources=[FIRST])
    with pytest.raises(BadRequestError, match="was not founded here"):
        world.control.found(SECOND)
    assert [world.control.newest(node) for node in STORES] == [lsn, lsn]


def test_address_that_is_none_is_refused_when_a_branch_is_adopted(world: StorageWorld) -> None:
    async def adopt() -> None:
        address = parse_address(world.stores[SECOND].spec.rpc_address)
        async with RpcClient(address, rng=random.Random(1)) as client:
            await client.call(ADOPT_BRANCH, AdoptBranch(BranchName("other"), ("nonsense",)))

    with pytest.raises(BadRequestError, match="no storage node can be at 'nonsense'"):
        asyncio.run(adopt())


@slow
@pytest.mark.parametrize("killed", STORES)
def test_reads_go_on_when_either_node_dies(world: StorageWorld, killed: str) -> None:
    lsn = world.cut()
    asyncio.run(read_while_a_node_dies(world, lsn, killed))
    world.cut()


async def read_while_a_node_dies(world: StorageWorld, lsn: Lsn, killed: str) -> None:
    async with client_of(world, *STORES) as client:
        pages = StoragePages(client, BranchName(BRANCH), lsn, position=lambda: lsn)
        before = await one_page(pages)
        world.stores[killed].kill()
        try:
            for _ in range(20):
                assert await one_page(pages) == before
        finally:
            world.stores[killed].start()


@slow
def test_client_passes_over_a_node_that_lags(world: StorageWorld) -> None:
    world.cut()
    world.stores[SECOND].pause()
    try:
        ahead = world.cut(FIRST)
    finally:
        world.stores[SECOND].kill()  # it would catch up in a moment
    for node in world.log_nodes.values():
        node.pause()
    try:
        world.stores[SECOND].start()
        eventually(lambda: world.control.newest(SECOND) > 0, what="serving")
        asyncio.run(read_beside_a_node_that_lags(world, ahead))
    finally:
        for node in world.log_nodes.values():
            node.resume()
    assert world.control.wait_for_cut(SECOND, ahead) == ahead


async def read_beside_a_node_that_lags(world: StorageWorld, ahead: Lsn) -> None:
    branch = BranchName(BRANCH)
    assert world.control.newest(SECOND) < ahead
    async with client_of(world, SECOND) as client:
        with pytest.raises(RpcError, match="has no cut in"):
            await client.describe(branch, first=ahead, last=ahead, timeout_ms=500)
    async with client_of(world, SECOND, FIRST) as client:
        cut, _ = await client.describe(branch, first=ahead, last=ahead)
        assert cut.lsn == ahead
        await one_page(StoragePages(client, branch, ahead, position=lambda: ahead))


@slow
def test_forgotten_branch_is_gone_and_can_be_adopted_again(world: StorageWorld) -> None:
    eventually(lambda: pin_of(world, SECOND), what="a pin")
    world.control.forget(SECOND)
    assert world.control.status(SECOND) is None
    assert pin_of(world, SECOND) is None
    world.stores[SECOND].kill()
    world.stores[SECOND].start()
    assert world.control.status(SECOND) is None
    world.control.forget(SECOND)
    world.control.adopt(SECOND, sources=[FIRST])
    world.assert_equal(SECOND)


@slow
def test_branch_without_a_source_says_so_and_takes_one(world: StorageWorld) -> None:
    world.control.forget(SECOND)
    world.control.adopt(SECOND, sources=[])
    status = eventually(lambda: complaining(world, SECOND), what="a complaint")
    assert status.endswith("adopt it with the address of a storage node that has it")
    world.control.adopt(SECOND, sources=[FIRST])
    world.assert_equal(SECOND)


@slow
@pytest.mark.parametrize(("lost", "kept"), [STORES, STORES[::-1]])
def test_wiped_node_is_rebuilt_from_the_other(world: StorageWorld, lost: str, kept: str) -> None:
    store = world.stores[lost]
    store.kill()
    shutil.rmtree(store.spec.data_path)
    store.start()
    assert world.control.status(lost) is None
    with world.churning(seed=2) as churn:
        world.control.adopt(lost, sources=[kept])
        churn.wait_for_more(3)
    world.assert_equal(lost)


# --- The judge ------------------------------------------------------------------------------------


def test_judge_finds_a_flipped_byte_and_a_missing_block(world: StorageWorld) -> None:
    """The other tests would pass with a judge that sees nothing; this one would not."""
    lsn = world.cut()
    assert world.differences(FIRST, lsn) == []
    copy = world.fleet.directory / "flipped"
    world.control.materialise(FIRST, copy, lsn)
    with (copy / CATALOG).open("r+b") as file:
        file.seek(BLOCK_BYTES - 1)
        last = file.read(1)[0]
        file.seek(BLOCK_BYTES - 1)
        file.write(bytes([last ^ 1]))
    assert directory_differences(copy, world.standby.data_dir) == [f"{CATALOG}: block 0 differs"]
    with (copy / CATALOG).open("r+b") as file:
        file.truncate(0)
    (found,) = directory_differences(copy, world.standby.data_dir)
    assert found.startswith(f"{CATALOG}: 0 blocks, not ")
    shutil.rmtree(copy)


# --- Helpers --------------------------------------------------------------------------------------


def client_of(world: StorageWorld, *nodes: str) -> StorageClient:
    addresses = [world.stores[node].spec.rpc_address for node in nodes]
    return StorageClient(addresses, rng=random.Random(1))


async def one_page(pages: StoragePages) -> bytes:
    (page,) = await pages.read([PageRange(CATALOG, 0, 1)])
    assert not isinstance(page, SourceError), page
    return bytes(page)


def pin_of(world: StorageWorld, node: str) -> Lsn | None:
    leader = eventually(world.log.leader, what="a leader")
    status = world.log.status(leader)
    assert status is not None
    return status.pins.get(f"storage.{node}")


def complaining(world: StorageWorld, node: str) -> str:
    status = world.control.status(node)
    return "" if status is None else status.complaint
