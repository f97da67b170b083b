"""node-postgres and JDBC work through the gateway as with the server.

Their stories are pg_client.js and PgClient.java. The drivers come from the package sources that npm
and Maven are configured with, once, into a cache of this user; without the language, or without a
driver, the test is skipped and says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fixtures.gateway_world import Address

pytestmark = pytest.mark.postgres

HERE = Path(__file__).parent
NODE_DRIVER = "pg@8"
JDBC_DRIVER = "org.postgresql:postgresql:42.7.8"
INSTALL_S = 240
DEADLINE_S = 120
JAVA_OPTIONS = ("-Xmx256m", "-XX:TieredStopAtLevel=1")  # it runs for seconds
NODE_STORIES = (
    "queries", "prepared", "binary", "errors", "transactions", "notifications", "pool",
    "passwords",
)  # fmt: skip
JDBC_STORIES = (
    "queries", "serverPrepared", "batches", "fetchSizes", "errors", "transactions", "copies",
    "notifications", "timeouts", "metadata", "simpleMode",
)  # fmt: skip


def cache_of(name: str) -> Path:
    """A directory for drivers, which stays."""
    parent = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    directory = Path(parent) / "seawall-tests" / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def fetched(*command: str, where: Path) -> None:
    """Run what fetches a driver; skip the test if it cannot be had."""
    try:
        done = subprocess.run(
            command, cwd=where, capture_output=True, check=False, stdin=subprocess.DEVNULL,
            text=True, timeout=INSTALL_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip(f"{command[0]} did not fetch the driver within {INSTALL_S} s")
    if done.returncode:
        pytest.skip(
            f"{command[0]} cannot fetch the driver: {done.stderr[-300:]}{done.stdout[-300:]}"
        )


@pytest.fixture(scope="module")
def node_modules() -> Path:
    """Where node-postgres is."""
    program("node")
    npm = program("npm")
    where = cache_of("node")
    if not (where / "node_modules/pg/package.json").exists():
        flags = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-save")
        fetched(npm, "install", "--prefix", str(where), *flags, NODE_DRIVER, where=where)
    return where / "node_modules"


@pytest.fixture(scope="module")
def jdbc_driver() -> Path:
    """The JDBC driver's archive."""
    program("java")
    maven = program("mvn")
    where = cache_of("jdbc")
    archive = where / f"{'-'.join(JDBC_DRIVER.split(':')[1:])}.jar"
    if not archive.exists():
        fetched(
            maven, "--batch-mode", "--quiet", "dependency:copy", f"-Dartifact={JDBC_DRIVER}",
            f"-DoutputDirectory={where}", where=where,
        )  # fmt: skip
    return archive


def told(command: list[str], target: Address, **more: str) -> list[str]:
    """Run a story; the names of what went well."""
    done = subprocess.run(
        command, capture_output=True, check=False, text=True, timeout=DEADLINE_S,
        env={**target.environment(), **more},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.removeprefix("ok ") for line in done.stdout.splitlines()]


def test_node_postgres(node_modules: Path, target: Address, table: str) -> None:
    command = [program("node"), str(HERE / "pg_client.js"), table]
    assert told(command, target, NODE_PATH=str(node_modules)) == list(NODE_STORIES)


def test_jdbc(jdbc_driver: Path, target: Address, table: str) -> None:
    source = str(HERE / "PgClient.java")
    command = [program("java"), *JAVA_OPTIONS, "--class-path", str(jdbc_driver), source, table]
    assert told(command, target) == list(JDBC_STORIES)
