"""pgbench runs through the gateway in all of its modes, and the sums of its money stay right."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from fixtures.servers import server_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures.gateway_world import Address

pytestmark = pytest.mark.postgres

CLIENTS = 4
SECONDS = 1
DEADLINE_S = 120
DATABASE = "bench"
OPTIONS = [
    (protocol, script)
    for protocol in ("simple", "extended", "prepared")
    for script in ("tpcb-like", "select-only", "simple-update")
]
DONE = re.compile(r"number of transactions actually processed: (\d+)")
SUMS = """
    select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from
    pgbench_branches), (select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0)
    from pgbench_history), (select count(*) from pgbench_history)
"""


@pytest.fixture(scope="module")
def program() -> Path:
    return server_with("pgbench").bin_dir / "pgbench"


def pgbench(program: Path, target: Address, *arguments: str) -> str:
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, check=False, text=True,
        env=target.environment(), stdin=subprocess.DEVNULL, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bench(program: Path, direct: Address) -> Iterator[str]:
    """A database with pgbench's tables; its name."""
    with direct.connect() as connection:
        connection.execute(f"create database {DATABASE}")
        try:
            pgbench(program, direct.but(database=DATABASE), "-i", "-q", "-s", "1")
            yield DATABASE
        finally:
            connection.execute(f"drop database {DATABASE} with (force)")


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_no_transaction_fails_and_no_money_is_lost(
    program: Path, bench: str, direct: Address, gateway: Address, options: tuple[str, str]
) -> None:
    target = gateway.but(database=bench)
    with direct.but(database=bench).connect() as connection:
        before = connection.execute(SUMS).fetchone()
        protocol, script = options
        load = ("-n", "-M", protocol, "-b", script, "-c", str(CLIENTS), "-j", "2")
        said = pgbench(program, target, *load, "-T", str(SECONDS))
        after = connection.execute(SUMS).fetchone()
    found = DONE.search(said)
    assert found is not None, said
    assert int(found[1]) > CLIENTS
    assert before is not None
    assert after is not None
    accounts, branches, tellers, deltas, rows = after
    assert accounts == deltas
    if script == "tpcb-like":
        assert rows - before[4] == int(found[1])
        assert branches - before[1] == tellers - before[2] == deltas - before[3]
    if script == "select-only":
        assert after == before


def test_a_connection_for_each_transaction_works(
    program: Path, bench: str, gateway: Address
) -> None:
    options = ("-n", "-C", "-S", "-c", str(CLIENTS), "-T", str(SECONDS))
    found = DONE.search(pgbench(program, gateway.but(database=bench), *options))
    assert found is not None
    assert int(found[1]) > CLIENTS


def test_pgbench_makes_its_tables_through_the_gateway(
    program: Path, direct: Address, gateway: Address
) -> None:
    with direct.connect() as connection:
        connection.execute("create database bench_made")
        try:
            made = gateway.but(database="bench_made")
            pgbench(program, made, "-i", "-q", "-s", "1", "--foreign-keys")
            with made.connect() as client:
                counted = client.execute("select count(*) from pgbench_accounts").fetchone()
            assert counted == (100_000,)
        finally:
            connection.execute("drop database bench_made with (force)")
