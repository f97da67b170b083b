"""`kubectl seawall` as people call it: found by a real kubectl, on a real Kubernetes.

In scope: that each command does what it says, with what the API server, the operator and kubectl
really answer. What is printed of which state, and what is refused how, is in
tests/unit/operator/test_plugin.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e.operator_world import Cluster, new_space, until
from e2e.rig.commands import run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from e2e.kubernetes import Kubernetes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

NOT_READY = 3
COMMAND_S = 120.0


@pytest.fixture(scope="module")
def cluster(operator: Kubernetes) -> Iterator[Cluster]:
    with new_space(operator, "plugin") as space:
        cluster = Cluster(operator, space, "pg")
        cluster.apply()
        cluster.settle()
        yield cluster


def called(
    cluster: Cluster, command: str, *arguments: str, given: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Call the plugin by kubectl, in the cluster's namespace."""
    kubectl = cluster.kubernetes.command("kubectl", ())[0]
    places = [sysconfig.get_path("scripts"), str(Path(kubectl).parent), os.environ["PATH"]]
    environment = {
        "PATH": os.pathsep.join(places),
        "KUBECONFIG": str(cluster.kubernetes.kubeconfig),
    }
    words = [kubectl, "seawall", command, "--namespace", cluster.namespace, *arguments]
    return run(
        words,
        given=given.encode(),
        timeout_s=COMMAND_S,
        check=False,
        more_environment=environment,
    )


def said(cluster: Cluster, command: str, *arguments: str, given: str = "") -> str:
    """Return what a command prints that succeeds."""
    done = called(cluster, command, *arguments, given=given)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def complaint(cluster: Cluster, command: str, *arguments: str) -> str:
    """Return the complaint of a command that fails: one line, and nothing else."""
    done = called(cluster, command, *arguments)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    return line


def replica(cluster: Cluster) -> str:
    """Return a compute that is not the primary."""
    return next(name for name in cluster.pods("compute") if name != cluster.primary())


def test_status_shows_every_node_and_who_is_the_primary(cluster: Cluster) -> None:
    told: dict[str, Any] = json.loads(said(cluster, "status", "pg", "-o", "json"))
    nodes = {node["name"]: node for node in told["nodes"]}
    assert set(nodes) == set(cluster.pods())
    assert all(node["is_ready"] for node in nodes.values())
    assert (told["is_ready"], told["primary"]) == (True, cluster.primary())
    text = said(cluster, "status")
    for name in (*nodes, "Running"):
        assert name in text


def test_status_of_a_cluster_that_is_not_ready_has_its_own_exit_status(cluster: Cluster) -> None:
    other = Cluster(cluster.kubernetes, cluster.namespace, "resting")
    other.apply(paused=True)  # from its beginning: nothing of it is ever made
    try:
        until(lambda: "conditions" in other.status(), "the operator to have seen it")
        done = called(other, "status", "resting")
        assert done.returncode == NOT_READY
        assert b"Paused" in done.stdout or b"paused" in done.stdout
        assert said(cluster, "status", "pg"), "the other one is well"
    finally:
        other.kubectl("delete", "swpg", "resting")


def test_psql_runs_in_the_primary_and_passes_its_arguments_on(cluster: Cluster) -> None:
    words = "select pg_is_in_recovery(), 'it''s \"so\" $HOME'"
    assert said(cluster, "psql", "pg", "--", "-Atc", words) == 'f|it\'s "so" $HOME\n'


def test_psql_takes_a_script_and_fails_as_psql_does(cluster: Cluster) -> None:
    script = "create temp table t as select generate_series(1, 3) n;\nselect sum(n) from t;\n"
    assert said(cluster, "psql", "pg", "--", "-Atq", given=script) == "6\n"
    done = called(cluster, "psql", "pg", "--", "-v", "ON_ERROR_STOP=1", "-c", "select 1/0")
    assert done.returncode != 0
    assert b"division by zero" in done.stderr


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql on this machine: install one")
def test_psql_by_a_gateway_is_this_machines_own(cluster: Cluster, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.write_text("1\n2\n")
    script = f"create temp table t (n int);\n\\copy t from '{rows}'\nselect sum(n) from t;\n"
    assert said(cluster, "psql", "pg", "--gateway", "--", "-Atq", given=script) == "3\n"


def test_logs_are_those_of_the_pods_of_a_kind(cluster: Cluster) -> None:
    lines = said(cluster, "logs", "pg", "--component", "log", "--tail", "5").splitlines()
    pods = {line.split("/")[1] for line in lines if line.startswith("[pod/")}
    assert pods == set(cluster.pods("log"))
    everybody = said(cluster, "logs", "pg")
    for name in cluster.pods():
        assert f"[pod/{name}/" in everybody


def test_switchover_makes_another_primary_and_loses_nothing(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cluster.primary()
    with cluster.writing() as writer:
        told = said(cluster, "switchover", "pg")
        writer.wait_for_more()
    after = cluster.primary()
    assert after not in {"", before}
    assert after in told
    assert writer.connections == 1, "its connection to the gateway stayed"
    cluster.settle()
    with capsys.disabled():
        print(f"\nswitchover: at most {writer.gap_s:.2f} s between two writes")  # noqa: T201  # a measure


def test_switchover_to_a_compute_by_its_name(cluster: Cluster) -> None:
    wanted = replica(cluster)
    with cluster.writing():
        told = said(cluster, "switchover", "--to", wanted)  # there is one cluster only
    assert wanted in told
    until(lambda: cluster.primary() == wanted, "the status to say so")
    assert cluster.ask("select pg_is_in_recovery()") is False
    cluster.settle()


def test_switchover_that_cannot_be_is_refused_and_changes_nothing(cluster: Cluster) -> None:
    primary = cluster.primary()
    assert primary in complaint(cluster, "switchover", "pg", "--to", primary)
    assert "nobody" in complaint(cluster, "switchover", "pg", "--to", "nobody")
    assert cluster.primary() == primary


def test_cluster_that_there_is_not_is_said_in_one_line(cluster: Cluster) -> None:
    for command in ("status", "switchover", "logs", "psql"):
        assert "none" in complaint(cluster, command, "none")
