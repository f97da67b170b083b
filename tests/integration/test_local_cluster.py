"""`seawall up` and what follows it, with real processes: data that stays, supervisors that die.

In scope: one small cluster: up, status, psql, down, up again, adoption after kill -9, scale,
restart, destroy, doctor; refusals that need a running cluster; two clusters side by side. Out of
scope: failover, see test_local_failover.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.waiting import eventually
from integration.local_world import DEADLINE_S, LocalCluster, local_cluster

from seawall.local.cluster_file import load
from seawall.local.processes import running_pid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = pytest.mark.postgres


@pytest.fixture
def cluster(identity: Identity, server_binaries: ServerBinaries) -> Iterator[LocalCluster]:
    with local_cluster(identity, server_binaries) as cluster:
        yield cluster


def test_a_cluster_comes_up_goes_down_and_comes_back_with_its_data(cluster: LocalCluster) -> None:
    said = cluster.up()
    assert "is up after" in said
    cluster.sql("create table kept as select generate_series(1, 1000) n")
    found = cluster.status()
    (compute,), (log,), (store,) = found["computes"], found["log"], found["storage"]
    assert (found["primary"], compute["role"], compute["port"]) == (
        "compute-1", "primary", cluster.port,
    )  # fmt: skip
    assert (log["role"], store["state"] != "not running") == ("leader", True)
    pids = {compute["pid"], compute["agent_pid"], log["pid"], store["pid"]}
    assert len(pids) == 4
    assert all(pid and os.path.exists(f"/proc/{pid}") for pid in pids)
    # Any driver gets in with the URL alone, and nobody without a password.
    with psycopg.connect(found["urls"]["primary"]) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (1000,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"host=127.0.0.1 port={cluster.port} user=postgres dbname=postgres")
    assert cluster.seawall("doctor") == "all is well\n"

    cluster.seawall("down")
    assert not any(cluster.pids().values())
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert "nothing runs" in cluster.refused("down")
    assert cluster.run("status").returncode == 3
    assert "the cluster is down" in cluster.run("doctor").stdout
    assert "is down: start it with" in cluster.refused("failover")

    cluster.up()
    assert cluster.sql("select count(*) from kept") == "1000"


def test_the_next_supervisor_adopts_what_one_left_that_was_killed(cluster: LocalCluster) -> None:
    cluster.up()
    before = cluster.pids()
    cluster.kill_supervisor()
    cluster.sql("create table written_meanwhile ()")
    assert "no supervisor runs" in cluster.run("doctor").stdout
    assert "no supervisor runs" in cluster.refused("scale", "--computes", "2")
    cluster.kill("log-1")
    cluster.up()
    after = cluster.pids()
    assert after["log-1"] not in {None, before.pop("log-1")}
    assert all(after[name] == pid for name, pid in before.items()), "nobody was started twice"
    assert cluster.sql("select count(*) from written_meanwhile") == "0"
    assert "supervised already" in cluster.refused("up", "--detach")
    # And without any supervisor everything can still be stopped.
    cluster.kill_supervisor()
    cluster.seawall("down")
    assert not any(cluster.pids().values())


def test_whoever_ends_is_started_again(cluster: LocalCluster) -> None:
    cluster.up()
    cluster.sql("create table kept as select 1 n")
    for name in ("storage-1", "compute-1", "log-1"):
        before = cluster.pids()[name]
        cluster.kill(name)
        eventually(
            lambda name=name, before=before: cluster.pids()[name] not in {None, before},  # type: ignore[misc]  # mypy does not infer a lambda with a default
            deadline_s=DEADLINE_S, what=f"a new {name}",
        )  # fmt: skip
    eventually(lambda: cluster.run("doctor").returncode == 0, deadline_s=DEADLINE_S, what="health")
    assert cluster.sql("select n from kept") == "1"


def test_computes_come_and_go(cluster: LocalCluster) -> None:
    cluster.up()
    cluster.seawall("scale", "--computes", "2")
    first, second = cluster.status()["computes"]
    assert {first["role"], second["role"]} == {"primary", "replica"}
    assert second["port"] != first["port"]
    cluster.seawall("switchover", second["name"])
    assert cluster.status()["primary"] == second["name"]
    # The primary is among those that leave: another one takes over before.
    cluster.seawall("scale", "--computes", "1")
    found = cluster.status()
    assert [one["name"] for one in found["computes"]] == [first["name"]]
    assert found["primary"] == first["name"]
    assert cluster.pids()[second["name"]] is None
    assert "1 to 8 computes, not 0" in cluster.refused("scale", "--computes", "0")
    assert "1 to 8 computes, not 9" in cluster.refused("scale", "--computes", "9")
    assert "no compute 'compute-7'" in cluster.refused("switchover", "compute-7")
    assert "no node 'log-9'" in cluster.refused("restart", "log-9")
    before = cluster.pids()
    cluster.seawall("restart", "storage-1")
    changed = {name for name, pid in cluster.pids().items() if pid != before[name]}
    assert changed == {"storage-1"}


def test_the_foreground_stops_everything_at_ctrl_c(cluster: LocalCluster) -> None:
    arguments = ("--port", str(cluster.port), "--pg-bin", str(cluster.server.bin_dir))
    process = subprocess.Popen(
        cluster.argv("up", *arguments),
        env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while "Ctrl-C stops it." not in "".join(lines):
            lines.append(process.stdout.readline())
            assert lines[-1], f"{lines}{cluster.words()}"
        assert running_pid(cluster.layout.lock) == process.pid
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
    assert not any(cluster.pids().values())


def test_two_clusters_side_by_side_and_destroy_leaves_nothing(
    cluster: LocalCluster, identity: Identity, server_binaries: ServerBinaries
) -> None:
    # So long a path that sockets have to be elsewhere.
    with local_cluster(identity, server_binaries, "a-long-name" * 8) as other:
        cluster.up()
        other.up()
        cluster.sql("create table mine ()")
        other.sql("create table yours ()")
        query = "select relname from pg_class where relname in ('mine', 'yours')"
        assert (cluster.sql(query), other.sql(query)) == ("mine", "yours")
        ports = {port for one in (cluster, other) for port in ports_of(one)}
        assert len(ports) == 8
        (run_root,) = run_roots(other)
        assert os.path.isdir(run_root)
        assert "--yes" in other.refused("destroy")
        other.seawall("destroy", "--yes")
        assert not other.layout.top.exists()
        assert not os.path.exists(run_root)
        assert cluster.sql(query) == "mine"
        assert "has no cluster" in other.refused("destroy", "--yes")


def ports_of(cluster: LocalCluster) -> list[int]:
    found = cluster.status()
    nodes = [*found["computes"], *found["log"], *found["storage"]]
    logs = [node["port"] + 1 for node in found["log"]]
    return [*(node["port"] for node in nodes), *logs]


def run_roots(cluster: LocalCluster) -> set[Path]:
    root = load(cluster.layout).run_root
    assert root is not None
    return {type(cluster.layout.top)(root)}
