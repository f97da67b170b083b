"""What the library costs when every block is here: pgbench with it, and without it.

The data is 3.5 times shared_buffers, so that reads and writes of blocks go through the library, and
all of it is in the page cache, so that they cost nothing else. Two servers that share nothing hold
the same data; one of them runs over an adopted directory (nothing MISSING, changes tracked).

A difference of a percent is smaller than what two starts of the same server differ by, and than
what a shared machine does from one second to the next. Hence:
* Rounds are short and come in pairs, ABBA: what changes slowly hits both alike. The ratio of each
  pair is taken by itself, and the median of all is held against the bar.
* After some pairs both servers are started anew and swap roles: which directory has the luckier
  places in memory, and which postmaster, evens out.
* Transactions are prepared, clients are as many as cores, nothing runs in the background.
The processor time a transaction is reported beside it, as a ratio too: it knows nothing of waiting
for a core.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlnode.datadir import ComputeDir, Expectations, adopt_data_directory
from sqlnode.directory_source import describe_directory
from sqlnode.pagefault.block_map import LIBRARY_PATH, BlockMap
from sqlnode.postgres import Postgres, Preload

from .cpu_time import tree_cpu_s
from .machine import prepare_round, read_files
from .pgbench import find_pgbench, parse_result, run_pgbench
from .report import Measurement, Outcome
from .workspace import Workspace, connected

SCALE: Final = 15
SHARED_BUFFERS: Final = "64MB"
CLIENTS: Final = 2
WARM_UP_S: Final = 1
BACKED_BYTES: Final = 1 << 30  # two copies of 230 MB, and what they grow by


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure each workload."""

    sessions: int
    pairs: int  # in each session; even, so that ABBA is complete
    round_s: int


FULL: Final = Effort(sessions=8, pairs=2, round_s=3)
QUICK: Final = Effort(sessions=2, pairs=2, round_s=1)


@dataclass(frozen=True, slots=True)
class Round:
    """What one run of pgbench achieved, and what it cost the server."""

    per_s: float
    cpu_us: float  # a transaction


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rounds that followed each other."""

    preloaded: Round
    plain: Round


# What to run, by the names of the figures.
WORKLOADS: Final = {"select_only": ("--select-only",), "tpcb": ()}


def measure_overhead(workspace: Workspace, *, quick: bool) -> Outcome:
    """Both workloads."""
    effort = QUICK if quick else FULL
    prepare_round(workspace.directory, BACKED_BYTES)
    directories = _prepare(workspace)
    pairs: dict[str, list[Pair]] = {name: [] for name in WORKLOADS}
    for session in range(effort.sessions):
        roles = directories if session % 2 == 0 else directories[::-1]
        with _servers(workspace, *roles) as (preloaded, plain):
            for name, arguments in WORKLOADS.items():
                bench = _Bench(find_pgbench(workspace.binaries), arguments)
                pairs[name] += bench.pairs(preloaded, plain, effort)
    return Outcome(
        benchmark="overhead",
        settings={
            "scale": SCALE, "shared_buffers": SHARED_BUFFERS, "clients": CLIENTS,
            "sessions": effort.sessions, "pairs": effort.pairs, "round_s": effort.round_s,
        },
        measurements=[m for name in WORKLOADS for m in figures(name, pairs[name])],
    )  # fmt: skip


def figures(name: str, pairs: Sequence[Pair]) -> list[Measurement]:
    """The ratio, which is the bar, and what it was made of."""
    return [
        Measurement(
            f"{name}_ratio", "", tuple(pair.preloaded.per_s / pair.plain.per_s for pair in pairs)
        ),
        Measurement(
            f"{name}_cpu_ratio",
            "",
            tuple(pair.preloaded.cpu_us / pair.plain.cpu_us for pair in pairs),
        ),
        Measurement(f"{name}_tps_preloaded", "1/s", tuple(pair.preloaded.per_s for pair in pairs)),
        Measurement(f"{name}_tps_plain", "1/s", tuple(pair.plain.per_s for pair in pairs)),
        Measurement(f"{name}_cpu_plain", "us", tuple(pair.plain.cpu_us for pair in pairs)),
    ]


def order(pairs: int) -> list[bool]:
    """Whether the preloaded server goes first, pair by pair: AB BA AB BA ..."""
    return [index % 2 == 0 for index in range(pairs)]


@dataclass(frozen=True, slots=True)
class _Bench:
    """pgbench with one workload."""

    program: Path
    arguments: Sequence[str]

    def pairs(self, preloaded: Postgres, plain: Postgres, effort: Effort) -> list[Pair]:
        """Warm both up, then measure them in turn."""
        for server in (preloaded, plain):
            self._round(server, WARM_UP_S)
        found = []
        for preloaded_first in order(effort.pairs):
            if preloaded_first:
                with_library = self._round(preloaded, effort.round_s)
                without = self._round(plain, effort.round_s)
            else:
                without = self._round(plain, effort.round_s)
                with_library = self._round(preloaded, effort.round_s)
            found.append(Pair(with_library, without))
        return found

    def _round(self, server: Postgres, seconds: int) -> Round:
        # A checkpoint of the round before must not be written during this one.
        with connected(server) as session:
            session.execute("vacuum pgbench_branches, pgbench_tellers")
            session.execute("checkpoint")
        before_s = tree_cpu_s(server.pid)
        report = run_pgbench(
            self.program, server, *self.arguments, "--no-vacuum", "--protocol=prepared",
            f"--client={CLIENTS}", f"--jobs={CLIENTS}", f"--time={seconds}",
        )  # fmt: skip
        result = parse_result(report)
        cpu_s = tree_cpu_s(server.pid) - before_s
        return Round(result.per_s, cpu_s * 1e6 / result.transactions)


def _prepare(workspace: Workspace) -> list[Path]:
    """Two copies of one pgbench database, made in the same way."""
    origin = workspace.new_cluster("origin")
    with workspace.running(origin) as server:
        run_pgbench(
            find_pgbench(workspace.binaries), server, "--initialize", "--quiet", f"--scale={SCALE}"
        )
    copies = [workspace.copy_cluster(origin, "pair") for _ in range(2)]
    for copy in copies:
        read_files(copy)
    return copies


@contextlib.contextmanager
def _servers(
    workspace: Workspace, preloaded_dir: Path, plain_dir: Path
) -> Iterator[tuple[Postgres, Postgres]]:
    """Both servers, the first one with the library and a fresh map."""
    preload = _adopt(workspace, preloaded_dir)
    with (
        workspace.running(
            preloaded_dir, preload=preload, shared_buffers=SHARED_BUFFERS
        ) as preloaded,
        workspace.running(plain_dir, shared_buffers=SHARED_BUFFERS) as plain,
    ):
        yield preloaded, plain
    _verify_tracked(ComputeDir(preloaded_dir.parent))


def _adopt(workspace: Workspace, data_dir: Path) -> Preload:
    compute = ComputeDir(data_dir.parent)
    assert compute.data == data_dir
    compute.block_map.unlink(missing_ok=True)
    adopt_data_directory(
        describe_directory(data_dir),
        compute,
        Expectations(server_version=workspace.binaries.version),
    )
    workspace.identity.give(compute.block_map)
    return Preload(library=LIBRARY_PATH, environment={"SEAWALL_BLOCK_MAP": str(compute.block_map)})


def _verify_tracked(compute: ComputeDir) -> None:
    """A library that had not been at work would have cost nothing."""
    with BlockMap(compute.block_map) as block_map:
        assert block_map.counters()["attached"] > 0
        assert any(slot.dirty for slot in block_map.slots()), "nothing was marked DIRTY"
