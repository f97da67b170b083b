"""New settings, another image, new certificates: pods are replaced one by one. Pure.

    log nodes    those that follow, then the leader, once another one leads
    storage      one after the other
    computes     replicas, then a switchover, then what was the primary

Nothing is taken away while anything is not well. A pod that is not ready anyway may be replaced at
any time: it cannot get worse, and what is wrong with it may be what was changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .actions import Action, Remove, SwitchOver, Transfer
from .kube_port import POD
from .names import Component
from .observed import Observed, is_ending, is_ready
from .plan_computes import is_outdated
from .plan_nodes import wanted_nodes

_ORDER: Final = (Component.LOG, Component.STORAGE, Component.COMPUTE)
REASON: Final = "it is replaced by one with the new settings"


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far it is."""

    outdated: tuple[str, ...]
    """Pods that are still to be replaced, in their order."""
    action: Action | None
    """The next step; None: there is none, or it has to wait."""
    surge: int = 0
    """How many computes more there should be meanwhile."""


def plan_rollout(seen: Observed) -> Rollout:
    """Say what the next step is."""
    outdated = tuple(_outdated(seen))
    if not outdated:
        return Rollout((), None)
    broken = next((node for node in outdated if not is_ready(seen.of(POD)[node])), None)
    if broken is not None and _may_break(seen, broken):
        return Rollout(outdated, _replace(seen, broken))
    first = outdated[0]
    is_primary = first == _holder(seen)
    surge = 1 if is_primary and seen.spec.computes == 1 else 0
    if not is_calm(seen, surge=surge):
        return Rollout(outdated, None, surge)
    leader = seen.database.leader
    if leader is not None and first == leader.topology.node:
        others = [one.info.node for one in leader.members if one.info.node != first]
        return Rollout(outdated, Transfer(others[0]) if others else _replace(seen, first))
    if is_primary:
        fresh = [one for one in seen.database.replicas if one not in outdated]
        return Rollout(outdated, SwitchOver(fresh[0]) if fresh else None, surge)
    return Rollout(outdated, _replace(seen, first))


def _outdated(seen: Observed) -> Iterator[str]:
    """Yield the pods that are to be replaced, in the order in which that may happen."""
    leader = seen.database.leader
    last = {_holder(seen), None if leader is None else leader.topology.node}
    for component in _ORDER:
        old = [
            node
            for node, pod in seen.pods(component).items()
            if not is_ending(pod) and is_outdated(seen, component, node, pod)
        ]
        yield from sorted(old, key=lambda node: node in last)


def is_calm(seen: Observed, *, surge: int = 0) -> bool:
    """Whether everything is there and well, so that one thing may be taken away."""
    database = seen.database
    leader = database.leader
    if leader is None or any(not one.is_active for one in leader.members):
        return False
    members = {one.info.node for one in leader.members}
    if members != set(wanted_nodes(seen, Component.LOG)):
        return False
    if not all(database.storage_nodes.get(n) for n in wanted_nodes(seen, Component.STORAGE)):
        return False
    nodes = [pod for component in _ORDER for pod in seen.pods(component).values()]
    if not all(is_ready(pod) for pod in nodes):
        return False
    computes = seen.pods(Component.COMPUTE)
    there = (1 if database.primary is not None else 0) + len(database.replicas)
    return len(computes) == there == seen.spec.computes + surge


def _may_break(seen: Observed, node: str) -> bool:
    """Whether a pod that is not ready may go: of the log, only if its member does not count now."""
    if node in seen.pods(Component.COMPUTE):
        return _may_break_compute(seen, node)
    leader = seen.database.leader
    if seen.names.number(Component.LOG, node) is None:
        return True
    if leader is None:
        return True  # nobody commits anything: it is all the same
    return all(not one.is_active for one in leader.members if one.info.node == node)


def _may_break_compute(seen: Observed, node: str) -> bool:
    """Not who takes writes, whom Kubernetes may see late; and of those that come up, one has to."""
    primary = seen.database.primary
    works = {*seen.database.replicas, *(() if primary is None else (str(primary.name),))}
    fresh = [
        name
        for name, pod in seen.pods(Component.COMPUTE).items()
        if not is_ending(pod) and not is_outdated(seen, Component.COMPUTE, name, pod)
    ]
    return (primary is None or primary.name != node) and (bool(works - {node}) or not fresh)


def _holder(seen: Observed) -> str | None:
    topology = seen.database.topology
    return None if topology is None or topology.holder is None else str(topology.holder.name)


def _replace(seen: Observed, node: str) -> Remove:
    return Remove(POD, node, seen.of(POD)[node]["metadata"]["uid"], REASON)
