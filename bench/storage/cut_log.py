"""What a storage node says in its log about the cuts that it has published. Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from fabric.lsn import Lsn

EVENT = "cut published"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutTold:
    """One line of a keeper."""

    lsn: Lsn
    pages: int
    replay_ms: float
    restartpoint_ms: float
    store_ms: float

    @property
    def behind_replay_ms(self) -> float:
        """From the moment when replay is where the cut is, to its publication."""
        return self.restartpoint_ms + self.store_ms


def cuts_told(lines: Iterable[str]) -> list[CutTold]:
    """The cuts of a node's log, in its order; everything else in it is passed over."""
    found = []
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue  # a traceback, or the line that is being written
        if isinstance(said, dict) and said.get("event") == EVENT:
            found.append(
                CutTold(
                    lsn=Lsn.parse(said["lsn"]),
                    pages=said["pages"],
                    replay_ms=said["replay_ms"],
                    restartpoint_ms=said["restartpoint_ms"],
                    store_ms=said["store_ms"],
                )
            )
    return found
