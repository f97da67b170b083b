"""What a seed decides before its run begins: the size of the group, its settings, its weather.

Different seeds are different kinds of bad days: some have many small faults and much work, others
few faults and long silences. Within a run the faults change the conditions further.
"""

import random
from dataclasses import dataclass, replace
from typing import Final

from raft.settings import RaftSettings

from .timeline import MILLISECOND_US, SECOND_US

TICK_US: Final = 100 * MILLISECOND_US


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The frame of one run."""

    voters: int
    duration_us: int
    """How long faults happen; then everything heals."""
    fault_mean_us: int
    proposal_mean_us: int
    wal_mean_us: int
    admin_mean_us: int
    trim_mean_us: int
    is_ordered: bool
    """Links behave like connections; see network.py."""
    rests: bool
    """Groups with nothing to do stop ticking."""
    clock_skew: float
    """How much faster or slower than true a node's clock may run."""
    miss_share: float
    """How often an older entry is not at hand."""
    settings: RaftSettings


def draw(rng: random.Random) -> Scenario:
    """Choose a scenario."""
    settings = RaftSettings(
        election_ticks=10,
        heartbeat_ticks=rng.choice((1, 2, 3)),
        append_bytes_max=rng.choice((200, 1_000, 1_000_000)),
        inflight_bytes_max=rng.choice((400, 3_000, 1_000_000)),
        inflight_messages_max=rng.choice((2, 8, 256)),
        uncommitted_bytes_max=rng.choice((1_500, 10_000, 1_000_000)),
    )
    lease_reads = rng.random() < 0.4
    return Scenario(
        voters=rng.choices((1, 2, 3, 4, 5), (1, 2, 14, 3, 5))[0],
        duration_us=rng.randint(20, 40) * SECOND_US,
        fault_mean_us=rng.choice((150, 300, 600, 1_200)) * MILLISECOND_US,
        proposal_mean_us=rng.choice((40, 80, 300)) * MILLISECOND_US,
        wal_mean_us=rng.choice((60, 120, 400)) * MILLISECOND_US,
        admin_mean_us=rng.choice((700, 2_000, 6_000)) * MILLISECOND_US,
        trim_mean_us=rng.choice((100, 400, 1_500, 100_000)) * MILLISECOND_US,
        is_ordered=rng.random() < 0.5,
        rests=rng.random() < 0.4,
        # A lease trusts the clocks: two that differ by 10% at most fit into lease_drift_ticks.
        clock_skew=0.05 if lease_reads else rng.choice((0.05, 0.3, 0.6)),
        miss_share=rng.choice((0.0, 0.1, 0.5)),
        settings=replace(settings, lease_reads=lease_reads),
    )
