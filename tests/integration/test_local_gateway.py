"""The gateway of a local cluster: it is started, found, watched and stopped with the others.

In scope: `seawall up` with and without it, clusters of before there were gateways, status, doctor,
restart, logs, down. Out of scope: what a gateway does with sessions; see tests/integration/gateway.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.waiting import eventually
from integration.local_world import DEADLINE_S, LocalCluster, local_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = pytest.mark.postgres


@pytest.fixture
def cluster(identity: Identity, server_binaries: ServerBinaries) -> Iterator[LocalCluster]:
    with local_cluster(identity, server_binaries) as cluster:
        yield cluster


def answer(url: str) -> object:
    with psycopg.connect(url, connect_timeout=30) as connection:
        return connection.execute("select 6 * 7").fetchone()


def healthy(cluster: LocalCluster) -> None:
    eventually(lambda: cluster.run("doctor").returncode == 0, deadline_s=DEADLINE_S, what="health")


def test_up_has_a_gateway_that_is_found_watched_and_stopped(cluster: LocalCluster) -> None:
    said = cluster.up()
    assert "1 gateway" in said
    found = cluster.status()
    (gateway,) = found["gateways"]
    assert (gateway["name"], gateway["state"], gateway["complaint"]) == ("gateway-1", "ready", "")
    assert gateway["pid"] == cluster.pids()["gateway-1"]
    assert os.path.exists(f"/proc/{gateway['pid']}")
    assert f":{gateway['port']}/" in found["urls"]["gateway"]
    assert found["urls"]["gateway"] in said
    assert answer(found["urls"]["gateway"]) == (42,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"host=127.0.0.1 port={gateway['port']} user=postgres dbname=postgres")
    assert cluster.seawall("doctor") == "all is well\n"
    assert "gateway-1" in cluster.seawall("status")

    before = cluster.pids()
    cluster.seawall("restart", "gateway-1")
    changed = {name for name, pid in cluster.pids().items() if pid != before[name]}
    assert changed == {"gateway-1"}
    assert answer(found["urls"]["gateway"]) == (42,)
    assert cluster.seawall("logs", "gateway-1").strip()

    cluster.kill("gateway-1")
    healthy(cluster)
    assert answer(found["urls"]["gateway"]) == (42,)

    cluster.kill_supervisor()
    cluster.seawall("down")
    assert not any(cluster.pids().values())
    cluster.up()
    (again,) = cluster.status()["gateways"]
    assert again["port"] == gateway["port"], "a port stays with its gateway"
    assert answer(found["urls"]["gateway"]) == (42,)


def test_a_cluster_of_before_there_were_gateways_gets_one(cluster: LocalCluster) -> None:
    cluster.up("--no-gateway")
    found = cluster.status()
    assert (found["gateways"], found["urls"]["gateway"]) == ([], None)
    assert cluster.seawall("doctor") == "all is well\n"
    cluster.seawall("down")
    file = cluster.layout.cluster_file
    content = json.loads(file.read_text())
    del content["gateways"], content["gateways_wanted"]
    file.write_text(json.dumps(content))
    cluster.layout.gateway_password.unlink()
    cluster.layout.gateway_admin_password.unlink()

    cluster.up()
    url = cluster.status()["urls"]["gateway"]
    assert answer(url) == (42,)
    assert cluster.sql("select rolsuper from pg_roles where rolname = 'seawall_gateway'") == "f"

    # And without it again, while all the others run on.
    before = cluster.pids()
    cluster.kill_supervisor()
    cluster.up("--no-gateway")
    eventually(
        lambda: cluster.pids()["gateway-1"] is None, deadline_s=DEADLINE_S, what="the gateway's end"
    )
    after = cluster.pids()
    assert {name for name in after if after[name] != before[name]} == {"gateway-1"}
    assert cluster.status()["gateways"] == []
