"""What `seawall up` and the others refuse before they change anything: one sentence, status not 0.

In scope: directories, ports, servers, options. No server is started. Out of scope: refusals that
need a cluster that runs; see test_local_cluster.py.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from fixtures.servers import server_with
from integration.local_world import LocalCluster, local_cluster

from seawall.local.ports import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlnode.privileges import Identity

pytestmark = pytest.mark.postgres

COMMANDS = (
    ("down",), ("destroy", "--yes"), ("status",), ("psql",), ("failover",), ("switchover",),
    ("scale", "--computes", "2"), ("restart",), ("logs",), ("doctor",),
)  # fmt: skip


@pytest.fixture
def cluster(identity: Identity) -> Iterator[LocalCluster]:
    with local_cluster(identity, server_with("initdb")) as cluster:
        yield cluster


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_no_command_makes_a_directory_of_what_is_no_cluster(
    cluster: LocalCluster, command: tuple[str, ...]
) -> None:
    assert "has no cluster" in cluster.refused(*command)
    assert not cluster.layout.top.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--frobnicate",), "No such option"),
        (("--port", "70000"), "port 70000 is none"),
        (("--port", "many"), "valid integer"),
        (("--computes", "0"), "1 to 8 computes, not 0"),
        (("--computes", "100"), "1 to 8 computes, not 100"),
        (("--pg-version", "9"), "PostgreSQL 9"),
        (("--pg-bin", "/nowhere"), "/nowhere has no postgres"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(
    cluster: LocalCluster, arguments: tuple[str, ...], words: str
) -> None:
    assert words in cluster.refused("up", "--detach", *arguments)
    assert not cluster.layout.top.exists()


def test_a_port_that_somebody_has_is_refused(cluster: LocalCluster) -> None:
    with socket.socket() as listener:
        listener.bind((HOST, cluster.port))
        listener.listen()
        sentence = cluster.refused("up", "--detach", "--port", str(cluster.port))
    assert f"port {cluster.port} of compute-1 is in use" in sentence
    assert not cluster.layout.cluster_file.exists()


def test_a_directory_of_a_newer_version_is_left_alone(cluster: LocalCluster) -> None:
    cluster.layout.top.mkdir(mode=0o700)
    cluster.layout.cluster_file.write_text('{"format": 99}')
    for command in (("up", "--detach"), *COMMANDS):
        assert "format 99" in cluster.refused(*command)
    assert [path.name for path in cluster.layout.top.iterdir()] == ["cluster.json"]


def test_a_directory_of_somebody_elses_files_is_left_alone(cluster: LocalCluster) -> None:
    cluster.layout.top.mkdir(mode=0o700)
    (cluster.layout.top / "thesis.tex").touch()
    assert "not empty" in cluster.refused("up", "--detach")
    assert [path.name for path in cluster.layout.top.iterdir()] == ["thesis.tex"]


def test_a_directory_of_somebody_else_is_left_alone(
    cluster: LocalCluster, identity: Identity
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    cluster.layout.top.mkdir(mode=0o700)
    identity.give(cluster.layout.top)
    assert f"belongs to user {identity.uid}" in cluster.refused("up", "--detach")
    assert list(cluster.layout.top.iterdir()) == []


def test_roots_cluster_must_be_where_the_nodes_can_go(cluster: LocalCluster) -> None:
    if os.geteuid() != 0:
        pytest.skip("others run the nodes as themselves")
    closed = cluster.layout.top
    closed.mkdir(mode=0o700)
    inside = LocalCluster(closed / "inside", cluster.server, closed)
    assert "cannot enter" in inside.refused("up", "--detach")
    assert not inside.layout.cluster_file.exists()
