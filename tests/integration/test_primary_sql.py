"""Statements that a primary carries out by itself, and what probes and Prometheus see of computes.

In scope: a role with a verifier, a file that is replaced as Kubernetes does it, statements that are
wrong, another primary with another file; metrics, health and readiness of both computes. Out of
scope: what each figure is made of, see tests/unit/sqlnode/compute/test_metrics.py.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest
from fixtures.compute_cluster import ComputeCluster, compute_clusters
from fixtures.probes import http, metrics
from fixtures.redo import one
from fixtures.servers import Fleet, new_run_root
from fixtures.waiting import eventually

from bench.node_process import HOST, free_ports
from log_service.compute_methods import ComputeState
from pgwire.scram import ScramVerifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

COMPUTES = ("c1", "c2")
CREATED = """
    do $do$ begin
        if not exists (select from pg_roles where rolname = 'app') then
            create role app login;
        end if;
    end $do$;
"""
FAILED = "the statements for a primary failed"
DONE = "the statements for a primary are carried out"


def verifier(password: str) -> str:
    return ScramVerifier.make(password, os.urandom).format()


def statements(text: str) -> str:
    """What an operator would write for a role with this verifier."""
    return f"{CREATED} alter role app password '{text}';"


class MountedSecret:
    """A file as a Secret is mounted: by two links, one of which is replaced at once."""

    def __init__(self, directory: Path, identity: Identity, text: str) -> None:
        self.path = directory / "primary.sql"
        self._directory, self._identity = directory, identity
        self._versions = itertools.count(1)
        directory.mkdir()
        self.replace(text)
        self.path.symlink_to("..data/primary.sql")
        identity.give_tree(directory)

    def replace(self, text: str) -> None:
        """Show another text from now on."""
        version = self._directory / f"..{next(self._versions)}"
        version.mkdir()
        (version / "primary.sql").write_text(text)
        self._identity.give_tree(version)
        link = self._directory / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self._directory / "..data")


@dataclass(frozen=True)
class World:
    """A cluster, and for each of its computes a file and a port for probes."""

    cluster: ComputeCluster
    files: dict[str, MountedSecret]
    ports: dict[str, int]

    def lets_in(self, name: str, password: str) -> bool:
        """Whether a compute takes the password."""
        port = self.cluster.agents[name].spec.pg_port
        known = f"host={HOST} port={port} user=app dbname=postgres connect_timeout=10"
        try:
            with psycopg.connect(known, password=password) as connection:
                return one(connection, "select current_user") == "app"
        except psycopg.OperationalError:
            return False

    def lines(self, name: str, event: str) -> list[dict[str, object]]:
        """What an agent has logged with these words."""
        lines = self.cluster.agents[name].log_of_this_start().splitlines()
        return [json.loads(line) for line in lines if f'"{event}"' in line]

    def logs(self, name: str) -> str:
        """All that an agent and its server have logged."""
        server = (self.cluster.agents[name].spec.run_dir / "postgres.log").read_text()
        return server + self.cluster.agents[name].log_of_this_start()


@pytest.fixture(scope="module")
def world(
    server_binaries: ServerBinaries, identity: Identity, cluster_template: Path
) -> Iterator[World]:
    fleet = Fleet(
        binaries=server_binaries,
        identity=identity,
        directory=new_run_root(identity),
        template=cluster_template,
    )
    first = statements(verifier("first"))
    files = {
        name: MountedSecret(fleet.directory / f"{name}.sql", identity, first) for name in COMPUTES
    }
    free = free_ports(2, random.Random(secrets.randbits(64)))
    ports = dict(zip(COMPUTES, free, strict=True))
    own = {
        name: {"primary_sql_file": str(files[name].path), "metrics": {"port": ports[name]}}
        for name in COMPUTES
    }
    with contextlib.closing(fleet), compute_clusters(fleet, own=own) as cluster:
        cluster.wait_for_primary()
        cluster.wait_for_replica()
        yield World(cluster, files, ports)


def test_role_is_there_after_the_first_promotion(world: World) -> None:
    primary = world.cluster.wait_for_primary()
    eventually(lambda: world.lets_in(primary, "first"), what="the first password")
    assert not world.lets_in(primary, "another")
    replica = world.cluster.wait_for_replica()
    eventually(lambda: world.lets_in(replica, "first"), what="the same on the replica")
    assert world.lines(replica, DONE) == []


def test_file_that_is_replaced_counts_from_then_on(world: World) -> None:
    primary = world.cluster.wait_for_primary()
    world.files[primary].replace(statements(verifier("second")))
    eventually(lambda: world.lets_in(primary, "second"), what="the second password")
    assert not world.lets_in(primary, "first")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("alter role app pasword '{}'", "PostgresSyntaxError"),
        ("alter role missing_1 password '{}'", "UndefinedObjectError"),
        (
            "do $do$ begin alter role missing_2 password '{}'; end $do$",
            "UndefinedObjectError",
        ),
    ],
)
def test_wrong_statements_are_reported_without_their_text(
    world: World, wrong: str, reason: str
) -> None:
    primary = world.cluster.wait_for_primary()
    secret = verifier("wrong")
    before = len(world.lines(primary, FAILED))
    world.files[primary].replace(f"{statements(secret)} {wrong.format(secret)};")
    eventually(lambda: len(world.lines(primary, FAILED)) > before, what="a complaint")
    assert world.lines(primary, FAILED)[-1]["reason"] == reason
    assert not world.lets_in(primary, "wrong"), "all of a file, or nothing"
    for part in secret.split("$"):
        assert part == "SCRAM-SHA-256" or part not in world.logs(primary)
    done = len(world.lines(primary, DONE))
    world.files[primary].replace(statements(verifier("right")))
    eventually(lambda: len(world.lines(primary, DONE)) > done, what="the right ones")
    assert world.lets_in(primary, "right")


def test_statements_that_failed_are_tried_again(world: World) -> None:
    primary = world.cluster.wait_for_primary()
    before = len(world.lines(primary, FAILED))
    world.files[primary].replace(f"{statements(verifier('third'))} grant late to app;")
    eventually(lambda: len(world.lines(primary, FAILED)) > before, what="a complaint")
    with world.cluster.connect(primary) as connection:
        connection.execute("create role late")
    eventually(lambda: world.lets_in(primary, "third"), what="the third password")


def test_file_that_is_gone_or_no_text_is_reported_and_read_again(world: World) -> None:
    primary = world.cluster.wait_for_primary()
    file = world.files[primary]
    aside = file.path.with_suffix(".aside")
    before = len(world.lines(primary, FAILED))
    file.path.rename(aside)
    eventually(lambda: len(world.lines(primary, FAILED)) > before, what="a complaint")
    assert world.lines(primary, FAILED)[-1]["reason"] == "FileNotFoundError"
    aside.rename(file.path)
    file.replace(statements(verifier("fourth")))
    eventually(lambda: world.lets_in(primary, "fourth"), what="the fourth password")


# --- Probes ---------------------------------------------------------------------------------------


def test_computes_say_what_they_are_and_are_ready(world: World) -> None:
    primary, replica = world.cluster.wait_for_primary(), world.cluster.wait_for_replica()
    for name, state in ((primary, "primary"), (replica, "replica")):
        port = world.ports[name]
        eventually(lambda p=port: http(p, "/readyz") == (200, "ok\n"), what="being ready")  # type: ignore[misc]  # mypy does not infer a lambda with a default
        assert http(port, "/healthz") == (200, "ok\n")
        found = metrics(port)
        assert found[f'seawall_compute_state{{state="{state}"}}'] == 1
        assert found["seawall_compute_ready"] == 1
        assert found["seawall_compute_lives_total"] >= 1
        assert found["seawall_compute_replayed_position_bytes"] > 0
        assert found["seawall_broker_faults_total"] > 0
        assert found["seawall_pagefault_missing_blocks"] > 0
        assert ("seawall_compute_lease_remaining_seconds" in found) == (name == primary)
    assert metrics(world.ports[primary])["seawall_compute_epoch"] >= 1
    assert metrics(world.ports[replica])["seawall_compute_epoch"] == 0


def test_computes_without_a_log_are_healthy(world: World) -> None:
    """A probe that killed them would make it worse."""
    replica = world.cluster.wait_for_replica()
    port = world.ports[replica]
    for node in world.cluster.log_nodes.values():
        node.kill()
    try:
        unreachable = "seawall_compute_log_unreachable"
        eventually(lambda: metrics(port)[unreachable] == 1, what="noticing it")
        assert http(port, "/healthz") == (200, "ok\n")
    finally:
        for node in world.cluster.log_nodes.values():
            node.start()
    world.cluster.wait_for_primary()


# --- Another primary ------------------------------------------------------------------------------


def test_next_primary_carries_out_its_own_file(world: World) -> None:
    primary, replica = world.cluster.wait_for_primary(), world.cluster.wait_for_replica()
    world.files[replica].replace(statements(verifier("of the next one")))
    world.cluster.kill_postmaster(primary)
    assert world.cluster.wait_for_primary(other_than=primary) == replica
    eventually(lambda: world.lets_in(replica, "of the next one"), what="its password")
    world.cluster.wait_for_state(primary, ComputeState.REPLICA)
    lives = "seawall_compute_lives_total"
    eventually(lambda: metrics(world.ports[primary])[lives] >= 2, what="another life")
    eventually(lambda: http(world.ports[primary], "/readyz")[0] == 200, what="being ready")
