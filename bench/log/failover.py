"""What clients notice when log nodes die: how long until there is a new leader, and a next commit.

Every kill is a kill -9 under writers. The election is over when another node says that it leads
and is ready to serve; ingest has resumed at the first commit that is acknowledged after the kill,
so the figure is the longest pause that the writers saw. A follower's death must not be noticed at
all: no commit fails, and the pause is reported.
"""

import time
from dataclasses import dataclass
from typing import Final

from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .cluster import Cluster
from .ours import our_side
from .sides import Side, make_origin
from .writers import create_table, writing

WRITERS: Final = 2
ROWS_BEFORE: Final = 200  # the log is warm and commits flow when the kill comes
ROWS_AFTER: Final = 100


@dataclass(frozen=True, slots=True)
class Kill:
    """What one death did."""

    elected_s: float  # 0 for a follower's
    pause_s: float
    failures: int


def measure_failover(place: Workspace, *, quick: bool) -> Outcome:
    """Several deaths of leaders, then of followers."""
    kills = 2 if quick else 7
    origin = make_origin(place, scale=0)
    with our_side(place, origin) as (side, cluster):
        create_table(side.primary.conninfo())
        leaders = [kill_leader(place, side, cluster, first=10 * i) for i in range(1, kills + 1)]
        followers = [
            kill_follower(place, side, cluster, first=1000 + 10 * i) for i in range(1, kills + 1)
        ]
    return Outcome(
        benchmark="failover",
        settings={"kills": kills, "writers": WRITERS},
        measurements=[
            Measurement("election_ms", "ms", tuple(kill.elected_s * 1e3 for kill in leaders)),
            Measurement("ingest_resumed_s", "s", tuple(kill.pause_s for kill in leaders)),
            Measurement("errors_when_a_leader_dies", "", tuple(kill.failures for kill in leaders)),
            Measurement(
                "errors_when_a_follower_dies", "", (float(sum(k.failures for k in followers)),)
            ),
            Measurement("follower_death_pause_s", "s", tuple(kill.pause_s for kill in followers)),
        ],
    )


def kill_leader(place: Workspace, side: Side, cluster: Cluster, *, first: int) -> Kill:
    """Kill the leader under writers; bring it back."""
    with writing(place.directory, side.primary.conninfo(), writers=WRITERS, first=first) as writers:
        writers.wait_for_more(ROWS_BEFORE)
        leader = cluster.wait_for_leader()
        killed_ns = time.monotonic_ns()
        cluster.nodes[leader].kill()
        cluster.wait_for_leader(other_than=leader)
        elected_s = (time.monotonic_ns() - killed_ns) / 1e9
        writers.wait_for_more(ROWS_AFTER)
        journal = writers.journal()
    _bring_back(cluster, leader)
    return Kill(elected_s, journal.longest_pause_s(after_ns=killed_ns), len(journal.failed))


def kill_follower(place: Workspace, side: Side, cluster: Cluster, *, first: int) -> Kill:
    """Kill a follower under writers; bring it back."""
    with writing(place.directory, side.primary.conninfo(), writers=WRITERS, first=first) as writers:
        writers.wait_for_more(ROWS_BEFORE)
        follower = cluster.followers()[0]
        killed_ns = time.monotonic_ns()
        cluster.nodes[follower].kill()
        writers.wait_for_more(ROWS_AFTER)
        journal = writers.journal()
    _bring_back(cluster, follower)
    return Kill(0.0, journal.longest_pause_s(after_ns=killed_ns), len(journal.failed))


def _bring_back(cluster: Cluster, name: str) -> None:
    cluster.nodes[name].start()
    cluster.wait_for_catch_up(name)
