"""`seawall up --ha` with real processes: a switchover, a failover, and kills; every row stays.

In scope: that one DSN follows the primary, and that acknowledged rows survive. Out of scope: how
fast it is (`make bench-failover`), and faults in all combinations (tests/integration/faults).
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.waiting import eventually
from integration.local_world import DEADLINE_S, LocalCluster, local_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = [pytest.mark.postgres, pytest.mark.faults]


@pytest.fixture
def cluster(identity: Identity, server_binaries: ServerBinaries) -> Iterator[LocalCluster]:
    with local_cluster(identity, server_binaries) as cluster:
        yield cluster


class Writer:
    """Rows through the one DSN, each retried until it is acknowledged."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._url = cluster.status()["urls"]["primary"]
        self.rows = 0
        self._once("create table if not exists rows (n int primary key)")

    def write(self) -> None:
        """One more row, whatever happens to the primary meanwhile."""
        self.rows += 1
        self._once(f"insert into rows values ({self.rows}) on conflict do nothing")

    def _once(self, statement: str) -> None:
        eventually(lambda: self._attempt(statement), deadline_s=DEADLINE_S, what=statement)

    def _attempt(self, statement: str) -> bool:
        try:
            with psycopg.connect(self._url, connect_timeout=10) as connection:
                connection.execute(statement)
        except psycopg.Error:
            return False
        return True

    def judge(self) -> None:
        """Exactly the acknowledged rows are there."""
        with psycopg.connect(self._url) as connection:
            found = connection.execute("select count(*), max(n) from rows").fetchone()
        assert found == (self.rows, self.rows), self._cluster.words()


def healthy(cluster: LocalCluster) -> None:
    eventually(lambda: cluster.run("doctor").returncode == 0, deadline_s=DEADLINE_S, what="health")


def test_a_primary_is_followed_wherever_it_goes(cluster: LocalCluster) -> None:
    cluster.up("--ha")
    found = cluster.status()
    assert [len(found[kind]) for kind in ("log", "storage", "computes")] == [3, 2, 2]
    assert sorted(one["role"] for one in found["log"]) == ["follower", "follower", "leader"]
    writer = Writer(cluster)
    writer.write()
    first = cluster.status()

    cluster.seawall("switchover")
    second = cluster.status()
    assert second["primary"] not in {None, first["primary"]}
    assert second["epoch"] > first["epoch"]
    writer.write()
    healthy(cluster)

    cluster.seawall("failover")
    third = cluster.status()
    assert third["primary"] not in {None, second["primary"]}
    writer.write()
    healthy(cluster)

    # A crash of PostgreSQL, of an agent, of the log's leader and of a storage node.
    (primary,) = [one for one in cluster.status()["computes"] if one["role"] == "primary"]
    os.kill(primary["pid"], signal.SIGKILL)
    writer.write()
    healthy(cluster)
    cluster.kill(str(cluster.status()["primary"]))
    writer.write()
    healthy(cluster)
    (leader,) = [one for one in cluster.status()["log"] if one["role"] == "leader"]
    cluster.kill(leader["name"])
    cluster.kill("storage-1")
    writer.write()
    healthy(cluster)
    writer.judge()

    cluster.seawall("down")
    cluster.up()
    writer.judge()
