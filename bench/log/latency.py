"""How long one commit takes, at rest and beside a COPY that saturates the log.

A commit is the COMMIT of a transaction that inserted one row, timed in psycopg on an open
connection to the Unix socket; the INSERT before it is not timed. At rest it is compared with its
floor (`floor`), sampled in turns with it. Beside a COPY of another session what counts is the tail,
measured on the stock side as well for comparison.

On some machines an fdatasync takes either 0.1 ms or 4 ms, for seconds on end and whatever is
written; a floor that fell into the slow mode would make any log look good. A commit cannot be
faster than its floor, so a run in which a round was is refused as a whole: leaving out such rounds
alone would keep those that were spoilt less.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from bench.pagefault.machine import wait_for_quiet
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace
from sqlnode.postgres import Postgres

from .copy_load import copying
from .floor import open_floor
from .ours import our_side
from .sides import Side, SideError, make_origin, stock_side

CHUNK: Final = 20  # commits in a turn; then as many samples of the floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure."""

    rounds: int
    turns: int  # of CHUNK commits, in each round
    copy_s: float


FULL: Final = Effort(rounds=5, turns=20, copy_s=15)
QUICK: Final = Effort(rounds=2, turns=5, copy_s=3)


def measure_latency(place: Workspace, *, quick: bool) -> Outcome:
    """One client at rest, on both sides, and the floor."""
    effort = QUICK if quick else FULL
    origin = make_origin(place, scale=0)
    rows: dict[str, list[float]] = {name: [] for name in ("ours", "stock", "rpc", "sync")}
    with (
        stock_side(place, origin) as stock,
        our_side(place, origin) as (ours, _),
        open_floor(place.directory) as floor,
        committer(ours.primary) as on_ours,
        committer(stock.primary) as on_stock,
    ):
        for _ in range(effort.rounds):
            wait_for_quiet()
            found: dict[str, list[float]] = {name: [] for name in rows}
            for _ in range(effort.turns):
                found["ours"] += commits(on_ours, CHUNK)
                found["stock"] += commits(on_stock, CHUNK)
                trips, syncs = floor.sample(CHUNK)
                found["rpc"] += trips
                found["sync"] += syncs
            for name, values in found.items():
                rows[name].append(statistics.median(values))
    return Outcome(
        benchmark="latency",
        settings={"rounds": effort.rounds, "commits": effort.turns * CHUNK, "driver": "psycopg"},
        measurements=latency_figures(rows),
    )


def latency_figures(medians_s: dict[str, list[float]]) -> list[Measurement]:
    """From each round's medians: the ratio to the floor, which is the bar, and its parts."""
    floors = [rpc + sync for rpc, sync in zip(medians_s["rpc"], medians_s["sync"], strict=True)]
    ratios = [ours / floor for ours, floor in zip(medians_s["ours"], floors, strict=True)]
    if min(ratios) < 1:
        raise SideError(
            "a commit took less than a round trip and an fdatasync, so the floor was not measured "
            f"(ratios {', '.join(f'{ratio:.2f}' for ratio in ratios)}): measure on a quiet machine"
        )
    return [
        Measurement("commit_latency_ratio", "", tuple(ratios)),
        *(
            Measurement(f"{name}_p50_us", "us", tuple(value * 1e6 for value in values))
            for name, values in medians_s.items()
        ),
    ]


def measure_copy(place: Workspace, *, quick: bool) -> Outcome:
    """Small commits beside a saturating COPY, on both sides, one after the other."""
    effort = QUICK if quick else FULL
    origin = make_origin(place, scale=0)
    measurements: list[Measurement] = []
    with stock_side(place, origin) as stock, our_side(place, origin) as (ours, _):
        for side in (ours, stock):
            measurements += copy_figures(side, effort)
    return Outcome(
        benchmark="copy",
        settings={"copy_s": effort.copy_s, "driver": "psycopg"},
        measurements=measurements,
    )


def copy_figures(side: Side, effort: Effort) -> list[Measurement]:
    """What the load does to a side's commits. Only our figures carry the names of bars."""
    prefix = "" if side.name == "ours" else f"{side.name}_"
    with committer(side.primary) as connection:
        wait_for_quiet()
        idle_s = statistics.median(commits(connection, CHUNK * effort.turns))
        with copying(side.primary):
            busy_s = commits_for(connection, effort.copy_s)
    return [
        Measurement(f"{prefix}copy_p99_over_idle_p50", "", (quantile(busy_s, 0.99) / idle_s,)),
        Measurement(f"{prefix}copy_longest_stall_s", "s", (max(busy_s),)),
        Measurement(f"{prefix}copy_p50_ms", "ms", (statistics.median(busy_s) * 1e3,)),
        Measurement(f"{prefix}copy_p99_ms", "ms", (quantile(busy_s, 0.99) * 1e3,)),
        Measurement(f"{prefix}idle_p50_us", "us", (idle_s * 1e6,)),
    ]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@contextlib.contextmanager
def committer(server: Postgres) -> Iterator[psycopg.Connection]:
    """A session for one-row transactions."""
    with psycopg.connect(server.conninfo()) as connection:
        connection.execute("create table if not exists small (n int)")
        connection.commit()
        commits(connection, CHUNK)
        yield connection


def commits(connection: psycopg.Connection, count: int) -> list[float]:
    """Seconds of so many commits."""
    return [_commit(connection) for _ in range(count)]


def commits_for(connection: psycopg.Connection, seconds: float) -> list[float]:
    """Seconds of each commit, for so long."""
    found = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        found.append(_commit(connection))
    return found


def _commit(connection: psycopg.Connection) -> float:
    connection.execute("insert into small values (1)")
    start_s = time.perf_counter()
    connection.commit()
    return time.perf_counter() - start_s
