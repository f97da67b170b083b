"""The tool as its users run it: results and reports that are there, refusals, and being stopped.

In scope: `python -P -m bench` and `seawall bench` as processes, on real servers; writers and the
probe of the lag. Out of scope: how fast anything is; each target and workload (the tests beside
this one); the plan and the tables (tests/unit/bench/tool).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from fixtures.waiting import eventually

from bench.pagefault.workspace import Workspace, workspace
from bench.parts.lag_probe import probing
from bench.parts.writers import lost_rows, make_table, writing
from bench.results.files import read_results
from bench.storage.processes import all_processes
from bench.targets.catalog import start
from bench.targets.sessions import ask
from bench.targets.target import Blow, TargetSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = [pytest.mark.postgres]

DEADLINE_SECONDS = 120.0  # for a machine under load
SETTINGS = TargetSettings(shared_buffers="32MB", max_connections=40)
ON_STOCK = (
    "tps", "--quick", "--targets", "stock", "--workloads", "tpcb-asyncpg", "--clients", "2",
)  # fmt: skip


@pytest.fixture
def place(server_binaries: ServerBinaries, identity: Identity) -> Iterator[Workspace]:
    with workspace(server_binaries, identity) as place:
        yield place


def bench(*arguments: str, program: tuple[str, ...] = ("-m", "bench")) -> list[str]:
    return [sys.executable, "-P", *program, *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        bench(*arguments), capture_output=True, text=True, timeout=280, check=False
    )


def on_stock(binaries: ServerBinaries, out: Path, *arguments: str) -> list[str]:
    return [*ON_STOCK, "--pg-bin", str(binaries.bin_dir), "--out", str(out), *arguments]


def test_a_run_leaves_results_and_a_report_that_can_be_compared(
    server_binaries: ServerBinaries, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(*on_stock(server_binaries, out, "--rounds", "2", "--seconds", "1", "--seed", "7"))
    assert done.returncode == 0, done.stderr
    result = read_results(out)
    assert result.seed == 7
    assert next(one.name for one in result.targets) == "stock"
    mine = [trial for trial in result.trials if trial.part == "tps"]
    assert [(trial.target, trial.workload, trial.round) for trial in mine] == [
        ("stock", "tpcb-asyncpg", 0),
        ("stock", "tpcb-asyncpg", 1),
    ]
    assert all(trial.figures["tps"] > 0 and trial.figures["errors"] == 0 for trial in mine)
    assert all(trial.figures["cpu_ms_per_transaction"] > 0 for trial in mine)
    assert "tpcb-asyncpg, 2 clients" in done.stdout
    assert "2 rounds" in done.stdout
    assert "</html>" in (out / "report.html").read_text()
    assert (out / "trials.parquet").stat().st_size > 0

    (out / "report.html").unlink()
    again = run("report", str(out))
    assert again.returncode == 0, again.stderr
    assert (out / "report.html").exists()
    compared = run("compare", str(out), str(out), "--noisy")
    assert compared.returncode == 0, compared.stderr
    assert "tps tpcb-asyncpg, 2 clients" in compared.stdout


def test_a_terminated_run_stops_everything_and_keeps_what_it_has(
    server_binaries: ServerBinaries, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = on_stock(server_binaries, out, "--rounds", "50", "--seconds", "1", "--no-report")
    log = tmp_path / "log"
    with log.open("wb") as stream:
        running = subprocess.Popen(bench(*arguments), stdout=stream, stderr=stream)
        try:
            # The third trial has begun, so two are over.
            eventually(lambda: "tps 3/50" in log.read_text(), deadline_s=DEADLINE_SECONDS)
            servers = {one.pid for one in all_processes() if one.parent == running.pid}
            running.send_signal(signal.SIGTERM)
            running.send_signal(signal.SIGTERM)  # impatience must not leave anything behind
            status = running.wait(timeout=DEADLINE_SECONDS)
        finally:
            running.kill()
            running.wait()
    assert status == 2, log.read_text()
    assert servers, "it had started something"
    # A worker whose parent has ended notices that and ends by itself.
    eventually(
        lambda: not {one.pid for one in all_processes()} & servers, deadline_s=DEADLINE_SECONDS
    )
    result = read_results(out)
    assert len(result.trials) >= 2
    assert any("interrupted" in failure for failure in result.failures)


def test_a_target_that_was_asked_for_and_is_missing_is_a_failure(
    server_binaries: ServerBinaries, tmp_path: Path
) -> None:
    arguments = on_stock(server_binaries, tmp_path / "out", "--rounds", "1", "--seconds", "1")
    done = run(*arguments, "--dsn", "host=127.0.0.1 port=1", "--no-report")
    assert done.returncode == 2
    result = read_results(tmp_path / "out")
    assert [failure[:17] for failure in result.failures] == ["dsn was left out:"]
    assert {trial.target for trial in result.trials if trial.part == "tps"} == {"stock"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("report", "/nowhere"), "/nowhere/results.json cannot be read"),
        (("compare", "/nowhere", "/nowhere"), "cannot be read"),
        (("tps", "--pg-bin", "/nowhere"), "/nowhere"),
    ],
)
def test_a_refusal_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert sentence.replace("/results.json", "") in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_the_extra_brings_is_missed_before_anything_is_measured(tmp_path: Path) -> None:
    hidden = (
        "import sys; sys.modules['pyarrow'] = None; from seawall.bench_command import run_bench;"
        f" sys.exit(run_bench(['tps', '--out', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run(
        bench(program=("-c", hidden)), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert "seawall[bench]" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_commands_of_seawall_load_nothing_of_it() -> None:
    loaded = (
        "import sys, seawall.cli, seawall.bench_command;"
        " sys.exit(any(name.partition('.')[0] == 'bench' for name in sys.modules))"
    )
    done = subprocess.run(
        bench(program=("-c", loaded)), capture_output=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_seawall_bench_is_the_same_tool() -> None:
    done = subprocess.run(
        bench("bench", "compare", "/nowhere", "/nowhere", program=("-m", "seawall")),
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("seawall bench: /nowhere")


def test_writers_see_the_gap_of_a_server_that_was_away_and_lose_nothing(place: Workspace) -> None:
    with start("stock", place, SETTINGS) as target:
        asyncio.run(make_table(target.direct))
        with writing(target.front, clients=4, rate=100, seed=1) as writers:
            writers.wait_for(50, deadline_seconds=DEADLINE_SECONDS)
            before_s = time.monotonic()
            target.strike(Blow.POSTGRES_KILLED)
            down_s = time.monotonic()
            time.sleep(1.0)
            up_s = time.monotonic()
            target.wait_whole()
            assert writers.wait_until_steady(
                up_s, least_seconds=1, deadline_seconds=DEADLINE_SECONDS
            )
            gap_seconds = writers.longest_gap(after_s=before_s)
            failed = writers.failed_after(before_s)
        assert gap_seconds >= up_s - down_s
        assert failed > 0
        assert lost_rows(target.direct, writers.journal) == 0
        ask(target.direct, "delete from bench_writes where n = 3")
        assert lost_rows(target.direct, writers.journal) > 0


def test_the_probe_sees_how_long_a_replica_did_not_replay(place: Workspace) -> None:
    with start("stock-sync", place, SETTINGS) as target:
        replica = target.readers[0]
        with probing(target.direct, replica) as probe:
            time.sleep(0.5)
            ask(replica, "select pg_wal_replay_pause()")
            paused_s = time.monotonic()
            time.sleep(1.0)
            resumed_s = time.monotonic()
            ask(replica, "select pg_wal_replay_resume()")
            time.sleep(0.5)
        assert len(probe.lags_ms) == len(probe.acknowledged_s)
        assert max(probe.lags_ms) >= 1e3 * (resumed_s - paused_s) - 1e3 * 0.5
        assert min(probe.lags_ms) < max(probe.lags_ms)


def test_nobody_sees_a_password_of_a_target(place: Workspace) -> None:
    with start("stock", place, SETTINGS) as target:
        arguments = on_stock(place.binaries, place.directory / "out", "--rounds", "1")
        url = f"host=127.0.0.1 port={target.direct.port} user={target.direct.user}"
        environment = {**os.environ, "PGPASSWORD": target.direct.password}
        done = subprocess.run(
            bench(*arguments, "--seconds", "1", "--dsn", url, "--targets", "dsn"),
            capture_output=True, text=True, timeout=280, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for path in (place.directory / "out").iterdir():
            assert target.direct.password.encode() not in path.read_bytes()
        result = read_results(place.directory / "out")
        assert "127.0.0.1 port" not in " ".join(result.command)
        assert {trial.target for trial in result.trials if trial.part == "tps"} == {"dsn"}
