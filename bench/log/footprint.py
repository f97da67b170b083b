"""What a log node needs: memory under load, and time to start with a full log.

Memory is the peak of the resident set (VmHWM) of the node that needs most, after pgbench has run
for as long as was asked for. A restart is measured from the start of the process to the line in
which the node says that it listens, with at least 1 GB of log in its directory, after a clean stop
and after a kill.
"""

import re
from pathlib import Path
from typing import Final

from bench.pagefault.pgbench import find_pgbench
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace, connected

from .cluster import Cluster
from .ours import our_side
from .sides import Side, make_origin, wal_position
from .tpcb import run_round

CLIENTS: Final = 8
SLICE_S: Final = 120  # of one pgbench, which must end before run_pgbench loses patience
LOG_BYTES: Final = 1_000_000_000
LOG_BYTES_QUICK: Final = 100_000_000
ROWS_A_STATEMENT: Final = 200_000  # about 50 MB of WAL

_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def measure_memory(place: Workspace, *, minutes: float) -> Outcome:
    """pgbench for so long, then the nodes' peaks."""
    origin = make_origin(place, scale=10)
    program = find_pgbench(place.binaries)
    with our_side(place, origin) as (side, cluster):
        left_s = max(1, round(minutes * 60))
        while left_s > 0:
            seconds = min(left_s, SLICE_S)
            run_round(program, side, (side,), clients=CLIENTS, seconds=seconds)
            left_s -= seconds
        peaks = [peak_mib(node.pid) for node in cluster.nodes.values()]
    return Outcome(
        benchmark="memory",
        settings={"minutes": minutes, "clients": CLIENTS},
        measurements=[
            Measurement("node_memory_mib", "MiB", (max(peaks),)),
            Measurement("node_memory_each_mib", "MiB", tuple(peaks)),
        ],
    )


def peak_mib(pid: int) -> float:
    """The most that a process ever had in memory."""
    return parse_peak_mib(Path(f"/proc/{pid}/status").read_text(errors="replace"))


def parse_peak_mib(status: str) -> float:
    """Read /proc/PID/status."""
    match = _PEAK.search(status)
    assert match is not None, "the kernel says how much memory every process had"
    return int(match[1]) / 1024


def measure_restart(place: Workspace, *, quick: bool) -> Outcome:
    """Fill the log, then stop and kill each node in turn and start it again."""
    origin = make_origin(place, scale=0)
    size_bytes = LOG_BYTES_QUICK if quick else LOG_BYTES
    with our_side(place, origin) as (side, cluster):
        fill_log(side, size_bytes)
        stopped, killed = [], []
        for node in cluster.nodes.values():
            node.stop()
            stopped.append(_start(cluster, node.name))
            node.kill()
            killed.append(_start(cluster, node.name))
        on_disk = [_directory_bytes(node.spec.data_path) for node in cluster.nodes.values()]
    return Outcome(
        benchmark="restart",
        settings={"log_bytes": size_bytes, "least_on_disk": min(on_disk)},
        measurements=[
            # The promise is about 1 GB: with less in the log nothing is said about it.
            Measurement("restart_s" if quick else "restart_with_1gb_s", "s", (*stopped, *killed)),
            Measurement("restart_after_stop_s", "s", tuple(stopped)),
            Measurement("restart_after_kill_s", "s", tuple(killed)),
        ],
    )


def fill_log(side: Side, size_bytes: int) -> None:
    """Write so much WAL."""
    end = wal_position(side.primary) + size_bytes
    with connected(side.primary) as session:
        session.execute("create table filler (line text)")
        while wal_position(side.primary) < end:
            session.execute(
                "insert into filler select repeat('x', 200) from generate_series(1, %s)",
                [ROWS_A_STATEMENT],
            )
            session.execute("truncate filler")


def _start(cluster: Cluster, name: str) -> float:
    seconds = cluster.nodes[name].start()
    cluster.wait_for_catch_up(name)
    return seconds


def _directory_bytes(top: Path) -> int:
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file())
