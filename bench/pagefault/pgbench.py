"""Run PostgreSQL's own load generator against one server, and read what it says."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sqlnode.postgres import Postgres
from sqlnode.servers import ServerBinaries, find_servers

TIMEOUT_S = 300

_TPS = re.compile(r"^tps = ([\d.]+) \(without initial connection time\)", re.MULTILINE)
_COUNT = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)


class PgbenchError(Exception):
    """pgbench is not there or failed; the text quotes it."""


@dataclass(frozen=True, slots=True)
class PgbenchResult:
    """What one run achieved."""

    transactions: int
    per_s: float


def find_pgbench(server: ServerBinaries) -> Path:
    """The server's own, else that of any server here: it speaks to all of them."""
    if server.has("pgbench"):
        return server.tool("pgbench")
    for other in find_servers(search_path=os.environ.get("PATH", os.defpath)).usable:
        if other.has("pgbench"):
            return other.tool("pgbench")
    raise PgbenchError("no PostgreSQL on this machine has pgbench; install postgresql-contrib")


def run_pgbench(program: Path, server: Postgres, *arguments: str) -> str:
    """Run it to its end; its report."""
    command = [
        str(program), f"--host={server.run_dir}", f"--port={server.port}", "--username=postgres",
        *arguments, "postgres",
    ]  # fmt: skip
    try:
        result = subprocess.run(
            command, capture_output=True, check=True, encoding="utf-8", timeout=TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        raise PgbenchError(f"{' '.join(command)} failed: {error.stderr.strip()}") from error
    return result.stdout


def parse_result(report: str) -> PgbenchResult:
    """Read the report of a run."""
    rate, count = _TPS.search(report), _COUNT.search(report)
    if rate is None or count is None:
        raise PgbenchError(f"pgbench said something unexpected: {report[:200]!r}")
    return PgbenchResult(int(count[1]), float(rate[1]))
