"""Transactions of the whole cluster beside stock high availability, on the same cores in one run.

Stock is a primary with two synchronous standbys (see bench/log/sides.py). Both are up all the
time, one is loaded at a time, in rounds ABBA; the client is pgbench over the primary's Unix socket.
"""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.faults.cluster_target import LocalCluster
from bench.faults.target import TargetError
from bench.log.sides import Side, make_origin, stock_side
from bench.pagefault.pgbench import find_pgbench, parse_result, run_pgbench
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .world import local_cluster

CLIENTS: Final = 32
JOBS: Final = 2
SCALE: Final = 50
SCALE_QUICK: Final = 5
PAIRS: Final = 4
PAIRS_QUICK: Final = 2
ROUND_S: Final = 15
ROUND_QUICK_S: Final = 4
PGBENCH_DEADLINE_S: Final = 300
ROUND: Final = ("--protocol=prepared", "--no-vacuum", f"--client={CLIENTS}", f"--jobs={JOBS}")


def measure_throughput(place: Workspace, *, quick: bool) -> Outcome:
    """pgbench on both."""
    return asyncio.run(_measured(place, quick=quick))


async def _measured(place: Workspace, *, quick: bool) -> Outcome:
    scale, seconds = (SCALE_QUICK, ROUND_QUICK_S) if quick else (SCALE, ROUND_S)
    pairs = PAIRS_QUICK if quick else PAIRS
    program = find_pgbench(place.binaries)
    origin = await asyncio.to_thread(make_origin, place, scale=scale)
    found: dict[str, list[float]] = {"ours": [], "stock": []}
    async with local_cluster(place, "--computes", "2") as cluster:
        socket_dir, port = await _primary_socket(cluster)

        def ours(*arguments: str) -> str:
            return _pgbench(program, socket_dir, port, *arguments)

        await asyncio.to_thread(ours, "--initialize", "--quiet", f"--scale={scale}")
        with stock_side(place, origin) as stock:
            sides = {"ours": ours, "stock": _stock(program, stock)}
            for name in [name for pair in range(pairs) for name in _order(pair)]:
                report = await asyncio.to_thread(sides[name], *ROUND, f"--time={seconds}")
                found[name].append(parse_result(report).per_s)
    ratios = tuple(a / b for a, b in zip(found["ours"], found["stock"], strict=True))
    return Outcome(
        benchmark="throughput",
        settings={"clients": CLIENTS, "scale": scale, "pairs": pairs, "round_s": seconds},
        measurements=[
            Measurement(f"ha_tps_ratio_{CLIENTS}_clients", "", ratios),
            Measurement("ours_tps", "/s", tuple(found["ours"])),
            Measurement("stock_tps", "/s", tuple(found["stock"])),
        ],
    )


def _order(pair: int) -> tuple[str, str]:
    """Who comes first changes from pair to pair."""
    return ("ours", "stock") if pair % 2 == 0 else ("stock", "ours")


def _stock(program: Path, side: Side) -> Callable[..., str]:
    return lambda *arguments: run_pgbench(program, side.primary, *arguments)


def _pgbench(program: Path, socket_dir: Path, port: int, *arguments: str) -> str:
    command = [
        str(program), f"--host={socket_dir}", f"--port={port}", "--username=postgres",
        *arguments, "postgres",
    ]  # fmt: skip
    try:
        return subprocess.run(
            command, capture_output=True, check=True, encoding="utf-8", timeout=PGBENCH_DEADLINE_S
        ).stdout
    except subprocess.CalledProcessError as error:
        raise TargetError(f"{' '.join(command)} failed: {error.stderr.strip()}") from error


async def _primary_socket(cluster: LocalCluster) -> tuple[Path, int]:
    """Where the primary's Unix socket is; its directory is the compute's own."""
    status = await cluster.status()
    primary = next((one for one in status.computes if one.role == "primary"), None)
    if primary is None:
        raise TargetError("the cluster has no primary")
    run = (cluster.directory / "nodes" / primary.name / "run").resolve()
    found = sorted(run.rglob(".s.PGSQL.*[0-9]"))
    if not found:
        raise TargetError(f"{primary.name} has no Unix socket below {run}")
    return found[0].parent, int(found[0].name.rpartition(".")[2])
