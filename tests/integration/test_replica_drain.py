"""A replica that is told to end: what runs on it may go on, for as long as its settings say.

In scope: a real agent and its PostgreSQL, statements and transactions that are open, clients that
are idle. Out of scope: where gateways send reads meanwhile, see tests/unit/gateway/test_leaving.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.compute_cluster import ComputeCluster, compute_clusters
from fixtures.redo import one
from fixtures.servers import Fleet, new_run_root
from fixtures.waiting import eventually

from log_service.compute_methods import ComputeState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

PATIENT_MS = 120_000  # nobody waits for so long: what is waited for ends before
IMPATIENT_MS = 1_500
END_S = 100.0


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
    # The third never leads, so there are two primaries to be had and one that has no patience.
    own = {"c3": {"drain_ms": IMPATIENT_MS, "can_lead": False}}
    with (
        contextlib.closing(fleet),
        compute_clusters(fleet, computes=3, own=own, drain_ms=PATIENT_MS) as made,
    ):
        made.wait_for_primary()
        yield made


@pytest.fixture
def patient(cluster: ComputeCluster) -> Iterator[str]:
    """A replica that waits; it is back after the test."""
    primary = cluster.wait_for_primary()
    name = next(one for one in ("c1", "c2") if one != primary)
    yield from _there(cluster, name)


@pytest.fixture
def impatient(cluster: ComputeCluster) -> Iterator[str]:
    yield from _there(cluster, "c3")


def _there(cluster: ComputeCluster, name: str) -> Iterator[str]:
    cluster.wait_for_state(name, ComputeState.REPLICA)
    yield name
    if cluster.agents[name].running:
        cluster.agents[name].stop(END_S)
    cluster.agents[name].start()
    cluster.wait_for_state(name, ComputeState.REPLICA)


def tell_to_end(cluster: ComputeCluster, name: str) -> None:
    """Return when the log has heard that it is down, which gateways hear then, too."""
    os.kill(cluster.agents[name].pid, signal.SIGTERM)
    info = cluster.wait_for_state(name, ComputeState.DOWN)
    assert info.postmaster_pid > 0, "PostgreSQL is there still"


def has_ended(cluster: ComputeCluster, name: str) -> None:
    eventually(lambda: not cluster.agents[name].running, what="the end", deadline_s=END_S)


def test_a_statement_that_runs_gets_its_answer(cluster: ComputeCluster, patient: str) -> None:
    with (
        cluster.connect(patient) as connection,
        cluster.connect(patient) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        other.autocommit = True
        asked = thread.submit(one, connection, "select 7 from pg_sleep(8)")
        busy = "select count(*) from pg_stat_activity where query like 'select 7 %'"
        eventually(lambda: one(other, busy) == "1", what="that it runs")
        tell_to_end(cluster, patient)
        assert asked.result() == "7"
    has_ended(cluster, patient)


def test_a_transaction_may_go_on_to_its_end(cluster: ComputeCluster, patient: str) -> None:
    with cluster.connect(patient) as connection:
        connection.autocommit = False
        assert one(connection, "select 1") == "1"
        tell_to_end(cluster, patient)
        assert one(connection, "select 2 from pg_sleep(3)") == "2"
        connection.commit()
        has_ended(cluster, patient)


def test_who_is_idle_is_not_waited_for(cluster: ComputeCluster, patient: str) -> None:
    with cluster.connect(patient) as connection:
        connection.autocommit = True
        assert one(connection, "select 1") == "1"
        tell_to_end(cluster, patient)
        has_ended(cluster, patient)  # and not after PATIENT_MS
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_who_takes_too_long_is_cut_off(cluster: ComputeCluster, impatient: str) -> None:
    with cluster.connect(impatient) as connection:
        connection.autocommit = False
        assert one(connection, "select 1") == "1"
        tell_to_end(cluster, impatient)
        has_ended(cluster, impatient)
        assert '"statements are cut off"' in cluster.agents[impatient].log_of_this_start()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
