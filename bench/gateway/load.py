"""pgbench over one way, and what it cost the proxy on that way.

Logins are paid for by the proxy, too, and are no queries: each run is preceded by one in which
every client logs in for a single transaction, and what that cost is taken off.

The latency is the median of all transactions, from pgbench's own log: an average would be the
number of clients by the throughput, and tell nothing new.
"""

import asyncio
import re
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.pagefault.pgbench import PgbenchError, find_pgbench, parse_result

from .credentials import DATABASE, HOST, USER
from .ways import CpuClock, Way
from .world import Stage, replicas_have_all

SCALE: Final = 10  # 150 MB: most of it in shared buffers, all of it in memory
SCALE_QUICK: Final = 2
JOBS: Final = 2
DEADLINE_S: Final = 120
LINES_QUOTED: Final = 3  # of its errors; before them come pages of progress
SAMPLED: Final = 0.2  # of transactions in pgbench's log
WARMING: Final = (
    "select sum(abalance) from pgbench_accounts",
    "set enable_seqscan = off",
    "select count(aid) from pgbench_accounts where aid > 0",
)

_FAILED: Final = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is run."""

    mode: str
    clients: int
    seconds: int
    options: str = ""  # for the server, as PGOPTIONS has them
    is_latency_wanted: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it."""

    per_s: float
    cpu_us: float  # of the proxy, a transaction; 0 for a direct way
    latency_us: float  # median; 0 if it was not wanted


async def prepare(stage: Stage, *, is_quick: bool) -> int:
    """Make pgbench's tables, and have every compute read all of them; the scale."""
    scale = SCALE_QUICK if is_quick else SCALE
    await asyncio.to_thread(
        run_pgbench, stage, stage.direct, "--initialize", "--quiet", f"--scale={scale}"
    )
    await stage.run("checkpoint")
    await replicas_have_all(stage)
    for port in stage.compute_ports:
        await stage.run(*WARMING, port=port)
    return scale


def loaded(stage: Stage, way: Way, wanted: Wanted) -> Load:
    """Run once."""
    clock = CpuClock.of(way)
    start_s = clock.seconds()
    run_pgbench(stage, way, *_arguments(wanted), "--transactions=1", options=wanted.options)
    login_s = clock.seconds() - start_s
    log = stage.place.new_directory("pgbench") / "log"
    sampling = (
        ("--log", f"--log-prefix={log}", f"--sampling-rate={SAMPLED}")
        if wanted.is_latency_wanted
        else ()
    )
    start_s = clock.seconds()
    report = run_pgbench(
        stage, way, *_arguments(wanted), f"--time={wanted.seconds}", *sampling,
        options=wanted.options,
    )  # fmt: skip
    used_s = clock.seconds() - start_s
    result = parse_result(report)
    failed = _FAILED.search(report)
    if failed is not None and int(failed[1]):
        raise PgbenchError(f"{failed[1]} transactions failed over the way {way.name}")
    latencies = latencies_us(path.read_text() for path in log.parent.iterdir())
    return Load(
        result.per_s,
        cpu_us_a_query(used_s, login_s, result.transactions, wanted.clients),
        statistics.median(latencies) if latencies else 0.0,
    )


def cpu_us_a_query(used_s: float, login_s: float, transactions: int, clients: int) -> float:
    """Microseconds of each transaction but the one that each client's login is counted with."""
    if transactions <= clients:
        raise PgbenchError(f"{transactions} transactions of {clients} clients tell nothing")
    return max(0.0, used_s - login_s) / (transactions - clients) * 1e6


def latencies_us(texts: Iterable[str]) -> list[int]:
    """Read pgbench's logs: client, number, microseconds, and what is of no use here."""
    return [int(line.split()[2]) for text in texts for line in text.splitlines()]


def run_pgbench(stage: Stage, way: Way, *arguments: str, options: str = "") -> str:
    """Run it to its end; its report."""
    command = [
        str(find_pgbench(stage.place.binaries)),
        f"--host={HOST}", f"--port={way.port}", f"--username={USER}", *arguments, DATABASE,
    ]  # fmt: skip
    try:
        return subprocess.run(
            command, env=_environment(stage.environment, options), capture_output=True, check=True,
            encoding="utf-8", timeout=DEADLINE_S,
        ).stdout  # fmt: skip
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-LINES_QUOTED:]
        raise PgbenchError(f"pgbench over the way {way.name} failed: {' '.join(last)}") from error


def _environment(environment: Mapping[str, str], options: str) -> dict[str, str]:
    return {**environment, **({"PGOPTIONS": options} if options else {})}


def _arguments(wanted: Wanted) -> Sequence[str]:
    return (
        "--select-only", "--no-vacuum", f"--protocol={wanted.mode}",
        f"--client={wanted.clients}", f"--jobs={JOBS}",
    )  # fmt: skip
