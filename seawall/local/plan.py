"""What the supervisor does next, decided from what it sees. Pure: time is an argument.

A node that ended is started again: at once if it had been running well, then after a pause that
doubles. A stop goes by ranks: all of a rank have ended before the next is asked, so that whoever
needs somebody else ends first. Who does not end in time is killed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

RESTART_BASE_MS: Final = 250
RESTART_CAP_MS: Final = 10_000
WELL_MS: Final = 10_000  # whoever ran so long ended for a new reason
STOP_MS: Final = 20_000
START_FAILURES_MAX: Final = 3  # while the cluster comes up somebody waits to be told why


class Rank(IntEnum):
    """In which order kinds of nodes are stopped."""

    GATEWAY = 0
    REPLICA = 1
    PRIMARY = 2
    STORAGE = 3
    LOG = 4


@dataclass(slots=True)
class Seen:
    """What is known of one node."""

    is_alive: bool = False
    is_launching: bool = False  # a process has been asked for and has not said yet who it is
    is_ready: bool = False
    started_ms: float | None = None
    ended_ms: float | None = None
    failures: int = 0  # ends in a row, none of them after a time in which it ran well
    stop_asked_ms: float | None = None
    is_killed: bool = False


@dataclass(frozen=True, slots=True)
class Actions:
    """What to do now, and after how long to look again if nothing happens before."""

    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    kill: tuple[str, ...] = ()
    look_again_ms: float | None = None


def has_ended(seen: Seen, now_ms: float) -> None:
    """Note that a node's process is gone."""
    ran_well = seen.is_ready and seen.started_ms is not None and now_ms - seen.started_ms >= WELL_MS
    was_asked = seen.stop_asked_ms is not None
    seen.failures = 0 if was_asked else 1 if ran_well else seen.failures + 1
    seen.is_alive = seen.is_launching = seen.is_ready = seen.is_killed = False
    seen.started_ms = seen.stop_asked_ms = None
    seen.ended_ms = now_ms


def pause_ms(failures: int) -> float:
    """Return how long a node that ended stays down."""
    if failures <= 1:
        return 0
    return min(RESTART_CAP_MS, RESTART_BASE_MS * 2.0 ** (min(failures, 30) - 2))


def plan_running(seen: Mapping[str, Seen], *, wanted: Collection[str], now_ms: float) -> Actions:
    """Start who is wanted, stop who is not."""
    start: list[str] = []
    waits: list[float] = []
    for name in wanted:
        node = seen.get(name)
        if node is None or not (node.is_alive or node.is_launching):
            left_ms = 0.0 if node is None or node.ended_ms is None else (
                node.ended_ms + pause_ms(node.failures) - now_ms
            )  # fmt: skip
            if left_ms <= 0:
                start.append(name)
            else:
                waits.append(left_ms)
    unwanted = [name for name, node in seen.items() if node.is_alive and name not in wanted]
    stop, kill, more = _stopping(seen, unwanted, now_ms)
    return Actions(tuple(start), stop, kill, min([*waits, *more], default=None))


def plan_stopping(seen: Mapping[str, Seen], *, ranks: Mapping[str, Rank], now_ms: float) -> Actions:
    """Stop everybody, rank by rank. Nothing to do and nothing to wait for: all have ended."""
    alive = [name for name, node in seen.items() if node.is_alive]
    if not alive:
        return Actions()
    rank = min(ranks.get(name, Rank.REPLICA) for name in alive)
    those = [name for name in alive if ranks.get(name, Rank.REPLICA) is rank]
    stop, kill, waits = _stopping(seen, those, now_ms)
    return Actions((), stop, kill, min(waits, default=STOP_MS))


def _stopping(
    seen: Mapping[str, Seen], names: Collection[str], now_ms: float
) -> tuple[tuple[str, ...], tuple[str, ...], list[float]]:
    stop: list[str] = []
    kill: list[str] = []
    waits: list[float] = []
    for name in names:
        asked_ms = seen[name].stop_asked_ms
        if asked_ms is None:
            stop.append(name)
            waits.append(STOP_MS)
        elif seen[name].is_killed:
            waits.append(STOP_MS)  # a kill is not refused; the kernel may take its time
        elif now_ms - asked_ms >= STOP_MS:
            kill.append(name)
            waits.append(STOP_MS)
        else:
            waits.append(asked_ms + STOP_MS - now_ms)
    return tuple(stop), tuple(kill), waits


def given_up(seen: Mapping[str, Seen]) -> str | None:
    """Return a node that has failed so often that the cluster will not come up."""
    for name, node in seen.items():
        if node.failures >= START_FAILURES_MAX:
            return name
    return None
