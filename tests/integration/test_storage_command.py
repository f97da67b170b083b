"""`seawall storage` against a real storage node, and against none; and what the node's probes see.

In scope: what it prints, its exit status, its sentences; metrics and health over HTTP. Out of
scope: rows for odd answers, see tests/unit/seawall/test_storage_report.py.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from fixtures.command import DEADLINE_S, SEAWALL, clean_environment, run_seawall
from fixtures.probes import http, metrics
from fixtures.storage_cluster import BRANCH, STORES, storage_worlds
from fixtures.waiting import eventually

from bench.node_process import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fixtures.servers import Fleet
    from fixtures.storage_cluster import StorageWorld

pytestmark = pytest.mark.postgres

NODE = STORES[0]
NOBODY = "127.0.0.1:1"
DAMAGE_BYTES = 64

seawall = functools.partial(run_seawall, "storage")


@pytest.fixture(scope="module")
def metrics_port() -> int:
    (port,) = free_ports(1, random.Random(os.getpid()))
    return port


@pytest.fixture(scope="module")
def world(shared_fleet: Fleet, metrics_port: int) -> Iterator[StorageWorld]:
    with storage_worlds(shared_fleet, metrics={"port": metrics_port}) as world:
        with world.churning() as churn:
            churn.wait_for_more(2)
        yield world


def rpc(world: StorageWorld) -> str:
    return world.stores[NODE].spec.rpc_address


# --- Nodes that run -------------------------------------------------------------------------------


def test_status_has_a_line_for_every_branch_and_json_says_the_same(world: StorageWorld) -> None:
    lsn = world.cut()
    done = seawall("status", environ={"SEAWALL_STORAGE_ADDRESSES": rpc(world)})
    assert (done.returncode, done.stderr) == (0, "")
    head, line = done.stdout.splitlines()
    assert head.split()[:3] == ["BRANCH", "NODE", "STATE"]
    assert line.split()[:3] == [BRANCH, NODE, "waiting"]
    (row,) = json.loads(seawall("status", rpc(world), "--json").stdout)
    assert (row["branch"], row["node"], row["newest"]) == (BRANCH, NODE, str(lsn))
    assert row["lag_bytes"] == 0
    assert row["cuts"] >= 2


def test_node_that_does_not_answer_is_a_line_and_a_failure(world: StorageWorld) -> None:
    done = seawall("status", NOBODY, rpc(world))
    assert (done.returncode, done.stderr) == (1, f"seawall: no answer from tcp://{NOBODY}\n")
    first, second = done.stdout.splitlines()[1:]
    assert first.split()[:2] == [BRANCH, NODE]
    assert second.split()[:3] == ["-", f"tcp://{NOBODY}", "unreachable"]


def test_watch_goes_on_until_it_is_interrupted(world: StorageWorld) -> None:
    # A suite in the background of a shell ignores this signal, and so would what it starts.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        watching = subprocess.Popen(
            [*SEAWALL, "storage", "status", rpc(world), "--watch"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment(),
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, ours)
    try:
        assert watching.stdout is not None
        said = b""
        while said.count(b"BRANCH") < 2:
            assert select.select([watching.stdout], [], [], DEADLINE_S)[0], "it says no more"
            piece = os.read(watching.stdout.fileno(), 65536)
            assert piece, "it ended"
            said += piece
        watching.send_signal(signal.SIGINT)
        assert watching.wait(DEADLINE_S) == 130
        assert watching.stderr is not None
        assert watching.stderr.read() == b""
    finally:
        watching.kill()
        watching.communicate()


def test_cuts_are_those_that_the_node_keeps(world: StorageWorld) -> None:
    lsn = world.cut()
    done = seawall("cuts", rpc(world), BRANCH)
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["SEQ", "TLI", "LSN", "REDO", "TAKEN"]
    assert lines[-1].split()[1:3] == ["1", str(lsn)]
    found = json.loads(seawall("cuts", rpc(world), BRANCH, "--json").stdout)
    assert [cut["seq"] for cut in found] == list(range(1, len(found) + 1))
    status = world.control.status(NODE)
    assert status is not None
    assert status.cuts == len(found)


def test_branch_without_a_cut_is_a_failure(world: StorageWorld) -> None:
    done = seawall("cuts", rpc(world), "unknown")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"seawall: {rpc(world)} has no cut of branch unknown\n"


# --- Probes ---------------------------------------------------------------------------------------


def test_metrics_move_with_cuts_and_reads(world: StorageWorld, metrics_port: int) -> None:
    world.cut()
    before = metrics(metrics_port)
    with world.churning(seed=2) as churn:
        churn.wait_for_more(1)
    lsn = world.cut()
    assert world.differences(NODE, lsn) == []
    after = metrics(metrics_port)
    for name in ("pages_stored_total", "cut_seconds_count", "cuts"):
        assert moved(before, after, name), name
    for name in ("pages_served_total", "bytes_served_total", "newest_cut_bytes"):
        assert moved(before, after, name), name
    assert of_branch(after, "lag_bytes") < 1000  # see StorageWorld.checkpoint
    assert of_branch(after, "failing") == 0
    assert of_branch(after, "damaged_ranges_total") == 0
    assert after["seawall_storage_amplification"] > 0
    assert http(metrics_port, "/healthz") == (200, "ok\n")


def test_health_is_bad_while_a_branch_gets_no_further(
    world: StorageWorld, metrics_port: int
) -> None:
    """The directory where engines are made becomes a file."""
    world.stores[NODE].kill()
    world.stores[NODE].start()
    run_path = world.stores[NODE].spec.run_path
    (run_path / f"{BRANCH}.1").write_text("in the way")
    with world.churning(seed=3) as churn:
        eventually(lambda: http(metrics_port, "/healthz")[0] == 503, what="bad health")
        assert of_branch(metrics(metrics_port), "failing") == 1
        assert http(metrics_port, "/readyz") == (200, "ok\n")  # what it has is served
        churn.wait_for_more(1)
    lsn = world.cut()
    assert http(metrics_port, "/healthz") == (200, "ok\n")
    assert world.differences(NODE, lsn) == []


def moved(before: Mapping[str, float], after: Mapping[str, float], name: str) -> bool:
    wanted = re.compile(rf"seawall_storage_{name}(\{{.*\}})?")
    found = [series for series in after if wanted.fullmatch(series)]
    return bool(found) and all(after[series] > before[series] for series in found)


def of_branch(found: Mapping[str, float], name: str) -> float:
    return found[f'seawall_storage_{name}{{branch="{BRANCH}"}}']


# --- A node that does not run ---------------------------------------------------------------------


def test_store_of_a_node_that_runs_is_not_touched(world: StorageWorld) -> None:
    data_path = world.stores[NODE].spec.data_path
    done = seawall("verify", data_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"seawall: a node runs on {data_path}: stop it first\n"


def test_sound_store_is_said_to_be_sound_and_still_opens(world: StorageWorld) -> None:
    lsn = world.cut()
    store = world.stores[NODE]
    assert store.stop() == 0
    try:
        all_cuts = seawall("verify", store.spec.data_path, "--branch", BRANCH)
        newest = seawall("verify", store.spec.data_path, "--newest")
    finally:
        store.start()
    assert (all_cuts.returncode, all_cuts.stderr) == (0, "")
    lines = all_cuts.stdout.splitlines()
    assert len(lines) >= 2
    assert all(": sound, " in line for line in lines)
    assert newest.stdout.splitlines() == lines[-1:]
    assert lines[-1].startswith(f"{BRANCH} at {lsn}: ")


def test_damaged_store_is_found_out(world: StorageWorld, tmp_path: Path) -> None:
    world.cut()
    store = world.stores[NODE]
    copy = tmp_path / "copy"
    assert store.stop() == 0
    try:
        shutil.copytree(store.spec.data_path, copy)
    finally:
        store.start()
    table = max((copy / "pages" / "rocks").glob("*.sst"), key=lambda path: path.stat().st_size)
    with table.open("r+b") as file:
        file.seek(table.stat().st_size // 2)
        content = file.read(DAMAGE_BYTES)
        file.seek(-len(content), os.SEEK_CUR)
        file.write(bytes(byte ^ 0xFF for byte in content))
    done = seawall("verify", copy)
    assert done.returncode == 1
    assert "pages are DAMAGED" in done.stdout
    assert "  DAMAGE: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["status"], 2, "which storage nodes? Give ADDRESS, --config or SEAWALL_STORAGE_ADDRESSES"),
        (["status", "here"], 2, "must look like tcp://host:port"),
        (["status", "192.0.2.1:7001"], 2, "is not loopback: give it TLS certificates"),
        (["cuts", NOBODY, "A B"], 2, "a branch name is 1 to 63 of a-z"),
        (["status", NOBODY, "--tls-ca", "ca.crt"], 2, "go together: give all three"),
        (["verify", "nowhere"], 1, "nowhere is no data directory of a storage node"),
        (["restore", "main", "new"], 2, "which object store? Give --object-store, --config or"),
        (["restore", "main", "new", "--object-store", "ftp://here"], 2, "which cluster? Give"),
        (
            ["restore", "main", "new", "--cluster", "demo", "--object-store", "ftp://here"],
            1,
            "begins with file, memory, s3, gs or az",
        ),
        (
            ["restore", "main", "new", "--cluster", "demo", "--object-store", "file:///nowhere"],
            1,
            "there is no object store at file:///nowhere: check where it is",
        ),
        (
            ["restore", "main", "--cluster", "demo", "--object-store", "memory:"],
            2,
            "where to? Give DATA_DIR; or --list, to see what there is",
        ),
        (
            ["restore", "main", "--list", "--cluster", "demo", "--object-store", "memory:"],
            1,
            "there is no snapshot of branch main of cluster demo: check the names, and where",
        ),
    ],
)
def test_wrong_call_is_refused_in_a_sentence(
    arguments: list[str], status: int, sentence: str
) -> None:
    done = seawall(*arguments)
    assert done.returncode == status
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
