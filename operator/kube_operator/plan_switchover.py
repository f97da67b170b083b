"""A switchover that somebody has asked for, by an annotation of the cluster. Pure.

    seawall.dev/switchover: pg-compute-2 | any
        │ it can be done                          cannot be done: the answer says why
        ▼
    seawall.dev/switchover: pg-compute-2 epoch=5 since=2026-01-01T00:00:00Z
        │ the switchover itself, again as long as there is no later epoch
        ▼
    seawall.dev/switchover-result: pg-compute-2 is the primary.       and no request any more

What is being done is written down before it is done, with the epoch that it ends: so whoever stops
after any of this, and begins again, sees whether it has been done, and one request makes at most
one other primary. While nobody leads the log, a request waits.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from log_service.compute_methods import ComputeInfo
from log_service.methods import Topology

from .actions import Action, AnswerSwitchover, SwitchOver
from .kube_port import POD
from .manifests.moments import rfc3339
from .names import ANY, REFUSED, SWITCHOVER, Component
from .observed import Observed, is_ending
from .plan_computes import is_outdated

# Six attempts: the log's leader gives one up after ten seconds. Nobody waits for longer.
LASTS_MAX: Final = timedelta(seconds=60)
SHOWN_CHARACTERS_MAX: Final = 63  # of what somebody wrote: a name is no longer


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A request that is being carried out."""

    to: str
    epoch: int
    """That it ends."""
    since: datetime

    def __str__(self) -> str:
        return f"{self.to} epoch={self.epoch} since={rfc3339(self.since)}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return what an annotation says; None: it is no request that was accepted."""
        found = re.fullmatch(r"(\S+) epoch=(\d{1,18}) since=(\S+Z)", text)
        if found is None:
            return None
        try:
            since = datetime.fromisoformat(found[3])
        except ValueError:
            return None
        return cls(found[1], int(found[2]), since)


def plan_switchover(seen: Observed) -> Action | None:
    """Say what is to be done for a request; None: there is none, or it has to wait."""
    text = seen.annotations.get(SWITCHOVER)
    topology = seen.database.topology
    if text is None:
        return None
    if topology is None:
        is_made = bool(seen.identity)
        return None if is_made else _refuse("the database is not made yet.")
    accepted = _Accepted.parse(text)
    if accepted is not None and topology.epoch > accepted.epoch:
        return _ended(seen, accepted.to, topology)
    if seen.spec.paused:
        return _refuse("spec.paused is true.")
    if accepted is not None:
        return _go_on(seen, accepted)
    return _hear(seen, text.strip(), topology)


def _hear(seen: Observed, wanted: str, topology: Topology) -> Action:
    """Accept or refuse what somebody has written."""
    if wanted == ANY:
        best = max(_candidates(seen), key=lambda one: _worth(seen, one), default=None)
        if best is None:
            return _refuse("there is no replica that could become the primary.")
        wanted = str(best.name)
    elif not _exists(seen, wanted):
        return _refuse(f"there is no compute {wanted[:SHOWN_CHARACTERS_MAX]!r}.")
    if topology.holder is not None and topology.holder.name == wanted:
        return _refuse(f"{wanted} is the primary already.")
    return AnswerSwitchover(str(_Accepted(wanted, int(topology.epoch), seen.now)))


def _go_on(seen: Observed, asked: _Accepted) -> Action | None:
    """Do what was accepted, as long as it makes sense."""
    if not _exists(seen, asked.to):
        return _refuse(f"{asked.to} is gone.")
    if seen.now - asked.since > LASTS_MAX:
        return _refuse(f"{asked.to} did not become the primary within {LASTS_MAX.seconds} s.")
    is_there = any(one.name == asked.to for one in _candidates(seen))
    return SwitchOver(asked.to) if is_there else None


def _ended(seen: Observed, wanted: str, topology: Topology) -> Action | None:
    """Say who became the primary after the epoch that was to end."""
    holder = None if topology.holder is None else str(topology.holder.name)
    if holder != wanted:
        return _refuse(f"{holder or 'nobody'} became the primary before {wanted} could.")
    primary = seen.database.primary
    is_done = primary is not None and primary.name == wanted
    return AnswerSwitchover(None, f"{wanted} is the primary.") if is_done else None


def _exists(seen: Observed, name: str) -> bool:
    pod = seen.pods(Component.COMPUTE).get(name)
    return pod is not None and not is_ending(pod)


def _candidates(seen: Observed) -> list[ComputeInfo]:
    """Return the replicas that answer, and stay."""
    replicas = set(seen.database.replicas)
    found = [one for one in seen.database.computes if one.name in replicas]
    return [one for one in found if one.can_lead and _exists(seen, one.name)]


def _worth(seen: Observed, one: ComputeInfo) -> tuple[bool, int]:
    """Those first that are not to be replaced soon, then those that are furthest."""
    name = str(one.name)
    is_old = is_outdated(seen, Component.COMPUTE, name, seen.of(POD)[name])
    return not is_old, int(one.received)


def _refuse(why: str) -> AnswerSwitchover:
    return AnswerSwitchover(None, f"{REFUSED}{why}")
