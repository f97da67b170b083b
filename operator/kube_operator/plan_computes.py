"""Computes: as many as are wanted, with the labels by which Services find them. Pure.

A compute has no data: one that is lost is replaced by another one, under another number if the old
pod cannot go yet. The primary is the last that is taken away.
"""

from collections.abc import Iterator

from .actions import Action, Apply, Mark, Remove
from .kube_port import POD, SECRET, Json
from .manifests.pods import revision_of
from .names import PRIMARY, REPLICA, ROLE_LABEL, Component
from .observed import Observed, has_ended, is_ending, is_ready
from .plan_certificates import certificate_of, is_certified
from .plan_nodes import wanted_pod


def plan_computes(seen: Observed, *, surge: int = 0) -> Iterator[Action]:
    """Say which computes are missing or too much; `surge`: how many more for the moment."""
    if not seen.identity:
        return
    pods = seen.pods(Component.COMPUTE)
    alive = {name: pod for name, pod in pods.items() if not is_ending(pod) and not has_ended(pod)}
    for name, pod in pods.items():
        if has_ended(pod) and not is_ending(pod):
            yield Remove(POD, name, pod["metadata"]["uid"], "it has ended")
    wanted = seen.spec.computes + surge
    new = _free_nodes(seen, pods, wanted - len(alive))
    for node in (*alive, *new):
        yield from certificate_of(seen, Component.COMPUTE, node)
    for node in new:
        made = wanted_pod(seen, Component.COMPUTE, node)
        if made is not None and is_certified(seen, node):
            yield Apply(POD, made)
    for name in _surplus(seen, alive, len(alive) - wanted):
        yield Remove(POD, name, alive[name]["metadata"]["uid"], "there are more than wanted")
    yield from _unused_certificates(seen, {*pods, *new})


def plan_roles(seen: Observed) -> Iterator[Action]:
    """Say which labels do not tell what the log's leader says. Without one, they stay."""
    if seen.database.topology is None:
        return
    for name, pod in seen.pods(Component.COMPUTE).items():
        role = pod["metadata"].get("labels", {}).get(ROLE_LABEL)
        wanted = role_of(seen, name)
        if role != wanted:
            yield Mark(name, ROLE_LABEL, wanted)


def role_of(seen: Observed, name: str) -> str | None:
    """Return what a compute is at the moment."""
    primary = seen.database.primary
    if primary is not None and primary.name == name:
        return PRIMARY
    return REPLICA if name in seen.database.replicas else None


def is_outdated(seen: Observed, component: Component, node: str, pod: Json) -> bool:
    """Whether a pod is made of something else than it should be."""
    wanted = wanted_pod(seen, component, node)
    return wanted is not None and revision_of(wanted) != revision_of(pod)


def _free_nodes(seen: Observed, pods: dict[str, Json], count: int) -> list[str]:
    """Return names for new computes: the lowest numbers that no pod has, not even one that ends."""
    found: list[str] = []
    number = 1
    while len(found) < count:
        node = seen.names.node(Component.COMPUTE, number)
        if node not in pods:
            found.append(node)
        number += 1
    return found


def _surplus(seen: Observed, alive: dict[str, Json], count: int) -> list[str]:
    """Return which computes go: never the primary, those first that are missed least."""
    holder = None if seen.database.topology is None else seen.database.topology.holder
    if count <= 0 or holder is None:
        return []

    def missed(name: str) -> tuple[bool, bool, int]:
        is_old = is_outdated(seen, Component.COMPUTE, name, alive[name])
        number = seen.names.number(Component.COMPUTE, name) or 0
        return (is_ready(alive[name]), not is_old, -number)

    others = sorted((name for name in alive if name != holder.name), key=missed)
    return others[:count]


def _unused_certificates(seen: Observed, used: set[str]) -> Iterator[Action]:
    """Certificates of computes that are gone and will not soon be back."""
    for name, secret in seen.of(SECRET).items():
        node = name.removesuffix("-tls")
        number = seen.names.number(Component.COMPUTE, node)
        if number is None or node in used or is_ending(secret):
            continue
        if number > seen.spec.computes + 1:
            yield Remove(SECRET, name, secret["metadata"]["uid"])
