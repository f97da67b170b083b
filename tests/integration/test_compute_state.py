"""What a compute brings back that is not in WAL, what it refuses, and what it leaves on its disk.

In scope: ALTER SYSTEM, statistics, settings that grow, local WAL, who may log in, one agent in a
directory, a directory that is lost. Out of scope: deaths under load, see test_compute_failover.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.compute_cluster import ComputeCluster, ComputeProcess, compute_clusters
from fixtures.redo import one
from fixtures.servers import Fleet, new_run_root
from fixtures.waiting import eventually

from bench.node_process import HOST
from log_service.compute_methods import ComputeState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

STAT_BLOCKS_SEEN = 16 * 8192 // 512
WAL_BYTES_MAX = 160 << 20  # ten segments: what a restartpoint and its successor leave


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
    with contextlib.closing(fleet), compute_clusters(fleet, computes=2) as cluster:
        cluster.wait_for_primary()
        cluster.wait_for_replica()
        yield cluster


def restart(cluster: ComputeCluster, *names: str) -> None:
    """Stop computes in order, and start them over nothing."""
    for name in names:
        assert cluster.agents[name].stop() == 0
        shutil.rmtree(cluster.agents[name].spec.run_dir)
    for name in names:
        cluster.agents[name].start()


def shows(cluster: ComputeCluster, name: str, setting: str) -> str:
    with cluster.connect(name) as connection:
        return one(connection, f"show {setting}")


def eventually_shows(cluster: ComputeCluster, name: str, setting: str, value: str) -> None:
    eventually(lambda: shows(cluster, name, setting) == value, what=f"{setting} = {value}")


def times_saved(cluster: ComputeCluster, name: str) -> int:
    """How often this agent has saved settings."""
    return cluster.agents[name].log_of_this_start().count("postgresql.auto.conf")


def test_altered_setting_holds_on_every_compute_and_after_a_failover(
    cluster: ComputeCluster,
) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    before = times_saved(cluster, primary)
    with cluster.connect(primary) as connection:
        connection.execute("alter system set work_mem = '7777kB'")
        connection.execute("alter system set primary_conninfo = 'host=/nowhere'")
    eventually(lambda: times_saved(cluster, primary) > before, what="saving the settings")
    cluster.switchover(replica)
    assert cluster.wait_for_primary(other_than=primary) == replica
    eventually_shows(cluster, replica, "work_mem", "7777kB")
    cluster.wait_for_state(primary, ComputeState.REPLICA)
    assert shows(cluster, primary, "work_mem") == "7777kB"


def test_setting_that_is_altered_just_before_a_switchover_is_not_lost(
    cluster: ComputeCluster,
) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    for size_kb in range(6001, 6004):  # one of them is between two looks
        with cluster.connect(primary) as connection:
            connection.execute(f"alter system set work_mem = '{size_kb}kB'".encode())
        cluster.switchover(replica)
        assert cluster.wait_for_primary(other_than=primary) == replica
        eventually_shows(cluster, replica, "work_mem", f"{size_kb}kB")
        cluster.wait_for_state(primary, ComputeState.REPLICA)
        primary, replica = replica, primary


def test_settings_that_grow_on_the_primary_grow_on_the_replica(cluster: ComputeCluster) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    before = times_saved(cluster, primary)
    with cluster.connect(primary) as connection:
        connection.execute("alter system set max_connections = 150")
    eventually(lambda: times_saved(cluster, primary) > before, what="saving the settings")
    cluster.kill_postmaster(primary)
    cluster.wait_for_primary(other_than=primary)
    cluster.wait_for_state(primary, ComputeState.REPLICA)
    cluster.switchover(primary)
    cluster.wait_for_primary(other_than=replica)
    assert shows(cluster, primary, "max_connections") == "150"
    cluster.wait_for_state(replica, ComputeState.REPLICA)
    eventually(lambda: shows(cluster, replica, "max_connections") == "150", what="the larger one")


def test_statistics_survive_an_orderly_restart(cluster: ComputeCluster) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    query = """
        select coalesce(sum(n_tup_ins), 0)::text
        from pg_stat_user_tables where relname = 'counted'
    """
    with cluster.connect(primary) as connection:
        connection.execute("create table counted as select generate_series(1, 1234) as n")
    with cluster.connect(primary) as connection:
        eventually(lambda: one(connection, query) == "1234", what="statistics")
    assert cluster.agents[replica].stop() == 0
    restart(cluster, primary)
    assert cluster.wait_for_primary() == primary
    with cluster.connect(primary) as connection:
        assert one(connection, query) == "1234"
    cluster.agents[replica].start()
    cluster.wait_for_state(replica, ComputeState.REPLICA)


def test_new_compute_fetches_what_the_primary_has_read(cluster: ComputeCluster) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    with cluster.connect(primary) as connection:
        connection.execute(
            "create table wanted as select repeat('x', 500) from generate_series(1, 5000)"
        )
        connection.execute("create table unwanted as table wanted")
        connection.execute("checkpoint")
    cluster.switchover(replica)
    cluster.wait_for_primary(other_than=primary)
    cluster.wait_for_state(primary, ComputeState.REPLICA)
    restart(cluster, replica)  # it has read nothing
    cluster.wait_for_primary(other_than=replica)
    cluster.wait_for_state(replica, ComputeState.REPLICA)
    cluster.switchover(replica)
    cluster.wait_for_primary(other_than=primary)
    with cluster.connect(replica) as connection:
        connection.execute("select count(*) from wanted")
        path = one(connection, "select pg_relation_filepath('wanted')")
        other = one(connection, "select pg_relation_filepath('unwanted')")
    eventually(
        lambda: '"what":"prewarm"' in cluster.agents[replica].log_of_this_start(),
        what="saving the list",
    )
    cluster.wait_for_state(primary, ComputeState.REPLICA)
    restart(cluster, primary)
    cluster.wait_for_state(primary, ComputeState.REPLICA)
    data = cluster.agents[primary].spec.run_dir / "data"
    # Not all of it: what read-ahead brought is not noted once the whole file is there.
    eventually(lambda: (data / path).stat().st_blocks >= STAT_BLOCKS_SEEN, what="fetching")
    assert (data / other).stat().st_blocks == 0


def test_local_wal_stays_small_on_both(cluster: ComputeCluster) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    with cluster.connect(primary) as connection:
        connection.execute("create table bulk (line text)")
        for _ in range(25):
            connection.execute(
                "insert into bulk select repeat('x', 1000) from generate_series(1, 16000)"
            )
            connection.execute("truncate bulk")
        written = one(connection, "select (pg_current_wal_lsn() - '0/2000000')::bigint::text")
    assert int(written) > 2 * WAL_BYTES_MAX
    for name in (primary, replica):
        wal = cluster.agents[name].spec.run_dir / "data" / "pg_wal"
        eventually(functools.partial(is_small, wal), what=f"trimming of {name}")


def is_small(directory: Path) -> bool:
    found = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it goes this moment
            found += path.stat().st_size if path.is_file() else 0
    return found <= WAL_BYTES_MAX


def test_tcp_takes_a_password_and_gives_no_wal(cluster: ComputeCluster) -> None:
    primary = cluster.wait_for_primary()
    port = cluster.agents[primary].spec.pg_port
    with cluster.connect(primary) as connection:
        connection.execute("create role knocker superuser login password 'sesame'")
    known = f"host={HOST} port={port} user=knocker dbname=postgres"
    with psycopg.connect(f"{known} password=sesame") as connection:
        assert one(connection, "select 'in'") == "in"
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"{known} password=wrong")
    with pytest.raises(psycopg.OperationalError, match="entry for replication"):
        psycopg.connect(f"{known} password=sesame replication=true")


def test_second_agent_in_a_directory_is_refused(cluster: ComputeCluster) -> None:
    primary = cluster.wait_for_primary()
    second = ComputeProcess(cluster.agents[primary].spec)
    assert "another agent runs in" in second.start_refused()
    assert cluster.wait_for_primary() == primary


def test_replica_whose_files_are_deleted_is_built_anew(cluster: ComputeCluster) -> None:
    replica = cluster.wait_for_replica()
    old = cluster.wait_for_state(replica, ComputeState.REPLICA)
    shutil.rmtree(cluster.agents[replica].spec.run_dir / "data")

    def look() -> bool:
        info = cluster.compute(replica)
        is_new = info is not None and info.postmaster_pid not in {0, old.postmaster_pid}
        return is_new and info is not None and info.state is ComputeState.REPLICA

    eventually(look, what="another life")


def test_a_socket_that_a_dead_server_has_left_is_in_nobodys_way(cluster: ComputeCluster) -> None:
    """Its lock names a number that some other process has by now, as after a power cut."""
    agent = cluster.agents["c2"]
    assert agent.stop() == 0
    port = agent.spec.pg_port
    lock = agent.spec.run_dir / f".s.PGSQL.{port}.lock"
    other = cluster.agents["c1"].pid  # of the same user: PostgreSQL believes nobody else
    lock.write_text(f"{other}\n{agent.spec.run_dir / 'data'}\n0\n{port}\n{lock.parent}\n\n")
    agent.start()
    cluster.wait_for_replica()
