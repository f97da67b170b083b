"""A compute whose cache is smaller than its data: it makes room, and what it gives stays right.

In scope: a primary and a replica under writes and reads for longer than the cache lasts; sums, rows
and indexes afterwards; how much is on disk; a transaction that needs what only its own compute's
pages say. Out of scope: races of single blocks (tests/native/test_drop), the choice of blocks
(tests/unit/sqlnode/compute/test_cache_bound).
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.compute_cluster import ComputeCluster, compute_clusters
from fixtures.redo import one
from fixtures.servers import Fleet, new_run_root
from fixtures.waiting import eventually

from sqlnode.compute.cache_keeper import allocated_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

BOUND_BYTES = 64 << 20
ROWS = 600_000  # 87 MB, and 13 MB of index
WRITERS = 2
WITHOUT_CONTRIB = (psycopg.errors.UndefinedFile, psycopg.errors.FeatureNotSupported)
SUMS = "select sum(balance) from accounts"
DIGEST = "select md5(string_agg(id || ':' || balance, ',' order by id)) from accounts"


@pytest.fixture(scope="module")
def cluster(
    server_binaries: ServerBinaries, identity: Identity, cluster_template: Path
) -> Iterator[ComputeCluster]:
    fleet = Fleet(
        binaries=server_binaries,
        identity=identity,
        directory=new_run_root(identity),
        template=cluster_template,
    )
    with (
        contextlib.closing(fleet),
        compute_clusters(fleet, computes=2, cache_bytes_max=BOUND_BYTES) as cluster,
    ):
        cluster.wait_for_primary()
        cluster.wait_for_replica()
        yield cluster


def dropped(cluster: ComputeCluster, name: str) -> int:
    """How many blocks a compute has let go, by its log."""
    lines = cluster.agents[name].log_of_this_start().splitlines()
    return sum(json.loads(line)["dropped"] for line in lines if "cache trimmed" in line)


def has_dropped(cluster: ComputeCluster, name: str, blocks: int) -> bool:
    return dropped(cluster, name) >= blocks


def read(connection: psycopg.Connection) -> None:
    with contextlib.suppress(psycopg.errors.SerializationFailure):  # a replica's replay goes first
        one(connection, DIGEST)


def transfer(connection: psycopg.Connection, rng: random.Random) -> None:
    delta = rng.randrange(-1000, 1000)
    with connection.transaction():
        account = (delta, rng.randrange(ROWS))
        connection.execute("update accounts set balance = balance + %s where id = %s", account)
        connection.execute("insert into history (delta) values (%s)", (delta,))


@contextlib.contextmanager
def repeating(*works: Callable[[], None]) -> Iterator[None]:
    """Each again and again in a thread of its own; raises what one of them has raised."""
    done = threading.Event()
    failures: list[Exception] = []

    def run(work: Callable[[], None]) -> None:
        try:
            while not done.is_set():
                work()
        except Exception as error:  # noqa: BLE001  # handed over to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures


def fill(connection: psycopg.Connection) -> None:
    connection.execute("create table history (delta int)")
    connection.execute(
        "create table accounts as select id, 0::bigint as balance, repeat('x', 84) as filler "
        f"from generate_series(0, {ROWS - 1}) as id"
    )
    connection.execute("alter table accounts add primary key (id)")
    connection.execute("create unlogged table scratch as select generate_series(1, 50000) as n")


def test_transaction_that_is_older_than_the_cut_keeps_what_it_needs(
    cluster: ComputeCluster,
) -> None:
    """Which of a transaction's own commands made and deleted a row stands in its pages only."""
    primary = cluster.wait_for_primary()
    with cluster.connect(primary) as connection, cluster.connect(primary) as old:
        old.execute("create table own (n int)")
        old.execute("begin")
        old.execute("insert into own select generate_series(1, 1000)")
        old.execute("declare early cursor for select count(*) from own")
        old.execute("update own set n = n + 1")
        old.execute("delete from own")
        fill(connection)
        log = cluster.agents[primary]
        replica = cluster.wait_for_replica()
        # The replica makes room, so there are cuts by which the primary could.
        eventually(
            partial(has_dropped, cluster, replica, 1), what="room on the replica", deadline_s=180
        )
        connection.execute("checkpoint")
        assert one(connection, SUMS) == "0"
        assert "cache trimmed" not in log.log_of_this_start()
        assert one(old, "fetch all from early") == "1000"
        old.execute("commit")
        eventually(
            partial(has_dropped, cluster, primary, 1), what="room on the primary", deadline_s=180
        )


def test_data_stays_right_under_load(cluster: ComputeCluster) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    before = {name: dropped(cluster, name) for name in (primary, replica)}
    with contextlib.ExitStack() as ends:
        writers = [ends.enter_context(cluster.connect(primary)) for _ in range(WRITERS)]
        readers = [ends.enter_context(cluster.connect(name)) for name in (primary, replica)]
        works = [
            *(partial(transfer, writer, random.Random(n)) for n, writer in enumerate(writers)),
            *(partial(read, reader) for reader in readers),
        ]
        with repeating(*works):
            for name in (primary, replica):
                eventually(
                    partial(has_dropped, cluster, name, before[name] + 10_000),
                    what=f"much room on {name}",
                    deadline_s=240,
                )
        verify(cluster, primary, replica)


def verify(cluster: ComputeCluster, primary: str, replica: str) -> None:
    with cluster.connect(primary) as connection, cluster.connect(replica) as other:
        expected = one(connection, "select coalesce(sum(delta), 0) from history")
        assert one(connection, SUMS) == expected
        end = one(connection, "select pg_current_wal_lsn()")
        query = f"select pg_last_wal_replay_lsn() >= '{end}'::pg_lsn"
        eventually(lambda: one(other, query) == "True", what="the replica's replay")
        assert one(other, DIGEST) == one(connection, DIGEST)
        assert one(connection, "select count(*) from scratch") == "50000"
        with contextlib.suppress(*WITHOUT_CONTRIB):
            connection.execute("create extension if not exists amcheck")
            for index in ("accounts_pkey", "pg_class_oid_index", "pg_attribute_relid_attnum_index"):
                connection.execute(f"select bt_index_check('{index}', true)")


def test_data_files_come_down_to_the_bound(cluster: ComputeCluster) -> None:
    for agent in cluster.agents.values():
        eventually(
            partial(is_within_bound, agent.spec.run_dir / "data"),
            what="files within the bound",
            deadline_s=120,
        )


def is_within_bound(data_dir: Path) -> bool:
    return allocated_bytes(data_dir) <= BOUND_BYTES
