"""How time passes for the groups of a node, in ticks.

One timer ticks for all groups that are awake. A process that wakes up has cold caches: it costs
more than all that it does for a group. So while every group is calm, which means that for a second
nothing but heartbeats has happened in it, the timer waits for as long as a heartbeat takes, and the
ticks come in one bundle. Whoever loses the connection to its leader has the timer hurry again.

Who dies is noticed by its connections. The numbers here find out who hangs.
"""

from typing import Final

from raft.settings import RaftSettings

from .group_settings import GroupSettings

HEARTBEAT_TICKS: Final = 5
ELECTION_TICKS: Final = 3 * HEARTBEAT_TICKS
CALM_AFTER_TICKS: Final = 30


def core_settings(settings: GroupSettings) -> RaftSettings:
    """Return what a group's core is told."""
    return RaftSettings(
        election_ticks=ELECTION_TICKS,
        heartbeat_ticks=HEARTBEAT_TICKS,
        # Ingest stops earlier, and others hardly count.
        uncommitted_bytes_max=4 * settings.uncommitted_bytes_max,
    )
