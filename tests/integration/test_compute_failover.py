"""Computes that die in every way under load: another one takes over, nothing acknowledged is lost.

In scope: kill -9 of postmaster and agent, SIGSTOP of a whole compute, switchover, death of log and
storage nodes, computes alone. Each test leaves a primary and a replica. Out of scope: what a
compute brings back and refuses, see test_compute_state; how long it takes, measured elsewhere.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.compute_cluster import ComputeCluster, compute_clusters
from fixtures.servers import Fleet, new_run_root
from fixtures.waiting import eventually

from bench.log.writers import Writers, create_table, row_findings, rows_of, writing
from fabric.lsn import Lsn
from log_service.compute_methods import ComputeState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries


class ThreadedQuery:
    """A statement that may take long; its answer once there is one."""

    def __init__(self, connection: psycopg.Connection, query: str) -> None:
        self.answer: object = None
        self._connection, self._query = connection, query
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait(self) -> object:
        """Return the answer."""
        self._thread.join()
        return self.answer

    def _run(self) -> None:
        self.answer = self._connection.execute(self._query.encode()).fetchone()


pytestmark = [pytest.mark.postgres, pytest.mark.faults]

ROWS = 50
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def fleet(
    server_binaries: ServerBinaries, identity: Identity, cluster_template: Path
) -> Iterator[Fleet]:
    fleet = Fleet(
        binaries=server_binaries,
        identity=identity,
        directory=new_run_root(identity),
        template=cluster_template,
    )
    with contextlib.closing(fleet):
        yield fleet


@pytest.fixture(scope="module")
def cluster(fleet: Fleet) -> Iterator[ComputeCluster]:
    with compute_clusters(fleet, computes=2, stores=2) as cluster:
        cluster.wait_for_primary()
        create_table(cluster.conninfo_to_write())
        yield cluster


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def complaint(cluster: ComputeCluster, name: str) -> str:
    info = cluster.compute(name)
    return "" if info is None else info.complaint


@contextlib.contextmanager
def under_load(cluster: ComputeCluster, fleet: Fleet) -> Iterator[Writers]:
    """Writers before, while and after something happens; what was acknowledged must be there."""
    cluster.wait_for_replica()
    first = 100 * next(numbers)
    with writing(fleet.directory, cluster.conninfo_to_write(), writers=2, first=first) as writers:
        writers.wait_for_more(ROWS)
        yield writers
        writers.wait_for_more(ROWS)
    journal = writers.journal()
    assert journal.warned == frozenset()
    rows = rows_of(cluster.conninfo(cluster.wait_for_primary()))
    ours = frozenset(row for row in rows if first <= row[0] < first + 100)
    assert row_findings(journal, ours) == []


def test_replica_reads_what_the_primary_wrote(cluster: ComputeCluster) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    with cluster.connect(primary) as connection:
        connection.execute("create table read_there as select generate_series(1, 1000) as n")
    with cluster.connect(replica) as connection:

        def look() -> bool:
            with contextlib.suppress(psycopg.errors.UndefinedTable):
                query = "select sum(n) = 500500 from read_there"
                return bool(connection.execute(query).fetchone() == (True,))
            return False

        eventually(look, what="reading on the replica")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("insert into read_there values (1)")


def test_killed_postmaster_is_relieved_and_comes_back_as_a_replica(
    cluster: ComputeCluster, fleet: Fleet
) -> None:
    old = cluster.wait_for_primary()
    with under_load(cluster, fleet):
        cluster.kill_postmaster(old)
        cluster.wait_for_primary(other_than=old)
        cluster.wait_for_state(old, ComputeState.REPLICA)


def test_killed_agent_takes_its_postgres_along(cluster: ComputeCluster, fleet: Fleet) -> None:
    old = cluster.wait_for_primary()
    with under_load(cluster, fleet):
        others = cluster.processes(old)[1:]
        cluster.agents[old].kill()
        eventually(lambda: not any(map(is_alive, others)), what="the end of its postgres")
        cluster.wait_for_primary(other_than=old)
        cluster.agents[old].start()
        cluster.wait_for_state(old, ComputeState.REPLICA)


def test_killed_compute_is_relieved_when_its_lease_is_over(
    cluster: ComputeCluster, fleet: Fleet
) -> None:
    old = cluster.wait_for_primary()
    with under_load(cluster, fleet):
        for pid in cluster.processes(old):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cluster.agents[old].kill()  # reaps it
        cluster.wait_for_primary(other_than=old)
        shutil.rmtree(cluster.agents[old].spec.run_dir)
        cluster.agents[old].start()
        cluster.wait_for_state(old, ComputeState.REPLICA)


def test_compute_that_hung_is_a_replica_when_it_goes_on(
    cluster: ComputeCluster, fleet: Fleet
) -> None:
    old = cluster.wait_for_primary()
    info = cluster.wait_for_state(old, ComputeState.PRIMARY)
    with under_load(cluster, fleet) as writers:
        stopped = cluster.processes(old)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            new = cluster.wait_for_primary(other_than=old)
            writers.direct(cluster.conninfo(new))
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        back = cluster.wait_for_state(old, ComputeState.REPLICA)
        assert back.postmaster_pid != info.postmaster_pid
        assert cluster.wait_for_primary() == new


def test_switchover_hands_over_to_the_compute_that_is_named(
    cluster: ComputeCluster, fleet: Fleet
) -> None:
    old = cluster.wait_for_primary()
    with under_load(cluster, fleet):
        new = cluster.wait_for_replica()
        cluster.switchover(new)
        assert cluster.wait_for_primary(other_than=old) == new
        cluster.wait_for_state(old, ComputeState.REPLICA)


def test_death_of_the_logs_leader_moves_no_primary(cluster: ComputeCluster, fleet: Fleet) -> None:
    primary, leader = cluster.wait_for_primary(), cluster.log_leader()
    with under_load(cluster, fleet) as writers:
        cluster.log_nodes[leader].kill()
        writers.wait_for_more(ROWS)
        cluster.log_nodes[leader].start()
        assert cluster.wait_for_primary() == primary


@pytest.mark.parametrize("store", ["storage-1", "storage-2"])
def test_death_of_a_storage_node_fails_no_statement(
    cluster: ComputeCluster, fleet: Fleet, store: str
) -> None:
    with under_load(cluster, fleet) as writers:
        failed = len(writers.journal().failed)
        cluster.stores[store].kill()
        try:
            writers.wait_for_more(ROWS)
            assert len(writers.journal().failed) == failed
        finally:
            cluster.stores[store].start()


def test_reads_wait_for_storage_nodes_that_are_all_gone(cluster: ComputeCluster) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    with cluster.connect(primary) as connection:
        connection.execute("create table far as select g as n from generate_series(1, 50000) g")
        connection.execute("checkpoint")
        at = connection.execute("select checkpoint_lsn::text from pg_control_checkpoint()")
        (lsn,) = at.fetchone() or ("",)
    for store in cluster.stores:
        cluster.control.wait_for_cut(store, Lsn.parse(lsn))
    cluster.agents[replica].stop()
    shutil.rmtree(cluster.agents[replica].spec.run_dir)
    cluster.agents[replica].start()
    cluster.wait_for_state(replica, ComputeState.REPLICA)
    with cluster.connect(replica) as connection:
        connection.execute("select 1")
        for node in cluster.stores.values():
            node.kill()
        try:
            connection.execute("set statement_timeout = 0")
            pipeline = ThreadedQuery(connection, "select count(*)::int from far")
            eventually(lambda: "storage node" in complaint(cluster, replica), what="a complaint")
            assert pipeline.answer is None
        finally:
            for node in cluster.stores.values():
                node.start()
        assert pipeline.wait() == (50000,)


def test_compute_alone_comes_back_as_the_primary(cluster: ComputeCluster, fleet: Fleet) -> None:
    primary, replica = cluster.wait_for_primary(), cluster.wait_for_replica()
    with under_load(cluster, fleet):
        cluster.agents[replica].stop()
        cluster.kill_postmaster(primary)
        eventually(lambda: cluster.primary() is None, what="the end of the primary")
        assert cluster.wait_for_primary() == primary
        cluster.agents[replica].start()
        cluster.wait_for_state(replica, ComputeState.REPLICA)


def test_primary_that_is_stopped_hands_over(cluster: ComputeCluster, fleet: Fleet) -> None:
    old = cluster.wait_for_primary()
    with under_load(cluster, fleet):
        assert cluster.agents[old].stop() == 0
        cluster.wait_for_primary(other_than=old)
        cluster.agents[old].start()
        cluster.wait_for_state(old, ComputeState.REPLICA)
