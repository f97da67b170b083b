"""pgbench's TPC-B on both sides in turn: transactions, WAL and processor time of each.

Rounds come in pairs, ABBA, so that what changes slowly on a shared machine hits both alike; the
ratio of each pair is taken by itself and the median is held against the bar.

Behind a checkpoint stock PostgreSQL logs a full image of each page that it changes first, so it
matters when checkpoints come. Before the rounds of the bars both sides write one: every round is
alike, and pays the whole debt. That is the worst for stock, and near what it does by itself only
where it writes so much WAL that max_wal_size asks for a checkpoint every few rounds. So the other
end is measured too, `..._settled`: rounds without a checkpoint, in pages that have been imaged as
far as the rounds before went. A server in use lies in between. No bar is on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.pagefault.cpu_time import tree_cpu_s
from bench.pagefault.machine import wait_for_quiet
from bench.pagefault.overhead import order
from bench.pagefault.pgbench import find_pgbench, parse_result, run_pgbench
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace, connected

from .bars import CLIENTS, tps_ratio_name
from .ours import our_side
from .sides import SHARED_BUFFERS, Side, make_origin, stock_side, wal_position

JOBS_MAX: Final = 2
WARM_UP_S: Final = 2
SETTLED_CLIENTS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure."""

    scale: int
    pairs: int  # for each number of clients
    round_s: int


FULL: Final = Effort(scale=50, pairs=4, round_s=15)
QUICK: Final = Effort(scale=5, pairs=2, round_s=3)


@dataclass(frozen=True, slots=True)
class Round:
    """What one run of pgbench achieved, and what it cost the whole side."""

    per_s: float
    wal_bytes: float  # a transaction
    cpu_ms: float  # a transaction


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rounds that followed each other."""

    ours: Round
    stock: Round


def measure_tpcb(place: Workspace, *, quick: bool) -> Outcome:
    """Every number of clients."""
    effort = QUICK if quick else FULL
    origin = make_origin(place, scale=effort.scale)
    program = find_pgbench(place.binaries)
    with stock_side(place, origin) as stock, our_side(place, origin) as (ours, _):
        pairs = {
            clients: _pairs(program, ours, stock, clients=clients, effort=effort)
            for clients in CLIENTS
        }
        settled = _pairs(
            program, ours, stock, clients=SETTLED_CLIENTS, effort=effort, checkpoints=False
        )
    return Outcome(
        benchmark="tpcb",
        settings={
            "scale": effort.scale, "shared_buffers": SHARED_BUFFERS, "pairs": effort.pairs,
            "round_s": effort.round_s, "protocol": "prepared",
        },
        measurements=[*figures(pairs), *settled_figures(settled)],
    )  # fmt: skip


def measure_stock_tpcb(place: Workspace, *, quick: bool) -> Outcome:
    """The stock side alone: what there is to beat."""
    effort = QUICK if quick else FULL
    origin = make_origin(place, scale=effort.scale)
    program = find_pgbench(place.binaries)
    with stock_side(place, origin) as stock:
        rounds = {
            clients: [
                run_round(program, stock, (stock,), clients=clients, seconds=effort.round_s)
                for _ in range(effort.pairs)
            ]
            for clients in CLIENTS
        }
    return Outcome(
        benchmark="stock_tpcb",
        settings={"scale": effort.scale, "pairs": effort.pairs, "round_s": effort.round_s},
        measurements=[m for n in CLIENTS for m in side_figures("stock", n, rounds[n])],
    )


def figures(pairs: dict[int, list[Pair]]) -> list[Measurement]:
    """The ratios, which are the bars, and what they were made of."""
    found = []
    for clients, of_clients in pairs.items():
        ratios = tuple(pair.ours.per_s / pair.stock.per_s for pair in of_clients)
        found.append(Measurement(tps_ratio_name(clients), "", ratios))
        found += side_figures("ours", clients, [pair.ours for pair in of_clients])
        found += side_figures("stock", clients, [pair.stock for pair in of_clients])
    every = [pair for of_clients in pairs.values() for pair in of_clients]
    wal = tuple(pair.ours.wal_bytes / pair.stock.wal_bytes for pair in every)
    return [*found, Measurement("wal_bytes_ratio", "", wal)]


def settled_figures(pairs: Sequence[Pair]) -> list[Measurement]:
    """The ratios where stock has next to no full-page images left to write."""
    return [
        Measurement("tps_ratio_settled", "", tuple(p.ours.per_s / p.stock.per_s for p in pairs)),
        Measurement(
            "wal_bytes_ratio_settled",
            "",
            tuple(p.ours.wal_bytes / p.stock.wal_bytes for p in pairs),
        ),
        Measurement("stock_wal_bytes_settled", "B/txn", tuple(p.stock.wal_bytes for p in pairs)),
    ]


def side_figures(name: str, clients: int, rounds: Sequence[Round]) -> list[Measurement]:
    """What one side did with so many clients."""
    return [
        Measurement(f"{name}_tps_{clients}", "1/s", tuple(r.per_s for r in rounds)),
        Measurement(f"{name}_wal_bytes_{clients}", "B/txn", tuple(r.wal_bytes for r in rounds)),
        Measurement(f"{name}_cpu_{clients}", "ms/txn", tuple(r.cpu_ms for r in rounds)),
    ]


def _pairs(
    program: Path,
    ours: Side,
    stock: Side,
    *,
    clients: int,
    effort: Effort,
    checkpoints: bool = True,
) -> list[Pair]:
    both = (ours, stock)
    for side in both:
        warm_up_s = WARM_UP_S if checkpoints else effort.round_s
        run_round(program, side, both, clients=clients, seconds=warm_up_s, checkpoint=checkpoints)
    found = []
    for ours_first in order(effort.pairs):
        measured = {
            side.name: run_round(
                program,
                side,
                both,
                clients=clients,
                seconds=effort.round_s,
                checkpoint=checkpoints,
            )
            for side in (both if ours_first else both[::-1])
        }
        found.append(Pair(measured["ours"], measured["stock"]))
    return found


def run_round(
    program: Path,
    side: Side,
    up: Sequence[Side],
    *,
    clients: int,
    seconds: int,
    checkpoint: bool = True,
) -> Round:
    """Load one side for so long while all that are up are otherwise at rest."""
    for each in up:
        with connected(each.primary) as session:
            session.execute("vacuum pgbench_branches, pgbench_tellers")
            if checkpoint:
                session.execute("checkpoint")
    wait_for_quiet()
    cpu_before_s = sum(map(tree_cpu_s, side.pids()))
    wal_before = wal_position(side.primary)
    report = run_pgbench(
        program, side.primary, "--no-vacuum", "--protocol=prepared",
        f"--client={clients}", f"--jobs={min(clients, JOBS_MAX)}", f"--time={seconds}",
    )  # fmt: skip
    result = parse_result(report)
    wal_bytes = wal_position(side.primary) - wal_before
    cpu_s = sum(map(tree_cpu_s, side.pids())) - cpu_before_s
    count = result.transactions
    return Round(result.per_s, wal_bytes / count, cpu_s * 1000 / count)
