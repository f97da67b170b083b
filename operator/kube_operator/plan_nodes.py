"""Log nodes and storage nodes: volumes, pods, members of the log, keepers of the branch. Pure.

Of what keeps data, one thing changes at a time, and only while all others are well: never two
members of the log at once, never a storage node while another one is being filled.
"""

from collections.abc import Iterator

from .actions import (
    Action,
    AddMember,
    Adopt,
    Apply,
    Found,
    Remove,
    RemoveMember,
    Transfer,
)
from .kube_port import POD, SECRET, VOLUME_CLAIM, Json
from .manifests.configuration import log_nodes, storage_nodes
from .manifests.pods import node_pod, volume_claim, with_revision
from .names import Component
from .observed import Observed, has_ended, is_ending
from .plan_certificates import certificate_of, is_certified
from .quantities import quantity
from .spec import Volume


def plan_nodes(seen: Observed) -> Iterator[Action]:
    """Say which volumes and pods are missing, and which are not needed any more."""
    volumes = {
        Component.LOG: seen.spec.log_nodes.volume,
        Component.STORAGE: seen.spec.storage_nodes.volume,
    }
    for component, volume in volumes.items():
        wanted = wanted_nodes(seen, component)
        for node in wanted:
            yield from certificate_of(seen, component, node)
            yield from _claim(seen, component, node, volume)
            yield from pod_of(seen, component, node)
        there = seen.nodes(POD, component) | seen.nodes(VOLUME_CLAIM, component)
        for node in there:
            if node not in wanted and not _is_needed(seen, component, node):
                yield from _without(seen, node)


def wanted_nodes(seen: Observed, component: Component) -> list[str]:
    """Return the nodes of a kind that the specification asks for."""
    if component is Component.LOG:
        return log_nodes(seen.names, seen.spec)
    return storage_nodes(seen.names, seen.spec)


def wanted_pod(seen: Observed, component: Component, node: str) -> Json | None:
    """Return the pod that a node should have; None: its certificate is not there yet."""
    certificate = seen.certificate(node)
    if certificate is None:
        return None
    pod = node_pod(seen.names, seen.spec, seen.images, component, node)
    return with_revision(pod, seen.names, seen.spec, component, certificate)


def pod_of(seen: Observed, component: Component, node: str) -> Iterator[Action]:
    """Say what a node lacks of its pod."""
    found = seen.of(POD).get(node)
    if found is not None:
        if has_ended(found) and not is_ending(found):
            yield Remove(POD, node, found["metadata"]["uid"], "it has ended")
        return
    wanted = wanted_pod(seen, component, node)
    if wanted is not None and is_certified(seen, node):
        yield Apply(POD, wanted)


def _claim(seen: Observed, component: Component, node: str, volume: Volume) -> Iterator[Action]:
    found = seen.of(VOLUME_CLAIM).get(node)
    wanted = volume_claim(seen.names, component, node, volume, version=seen.spec.version)
    if found is None:
        yield Apply(VOLUME_CLAIM, wanted)
    elif found.get("status", {}).get("phase") == "Lost" and not is_ending(found):
        yield Remove(VOLUME_CLAIM, node, found["metadata"]["uid"], "its volume is lost")
    else:
        size = found["spec"]["resources"]["requests"]["storage"]
        if quantity(volume.size) > quantity(size):
            yield Apply(VOLUME_CLAIM, wanted)


def _is_needed(seen: Observed, component: Component, node: str) -> bool:
    """Whether a node that nobody wants has to stay for the moment."""
    if component is Component.LOG:
        topology = seen.database.topology
        return topology is None or any(one.node == node for one in topology.members)
    return not _all_storage_keeps(seen)


def _without(seen: Observed, node: str) -> Iterator[Action]:
    """Remove a node with all that it has: its data is of no use to anybody."""
    kinds = {POD: node, VOLUME_CLAIM: node, SECRET: seen.names.tls_secret(node)}
    for kind, name in kinds.items():
        found = seen.of(kind).get(name)
        if found is not None and not is_ending(found):
            reason = "it is not needed any more" if kind is POD else ""
            yield Remove(kind, name, found["metadata"]["uid"], reason)


# --- The database ---------------------------------------------------------------------------------


def plan_members(seen: Observed) -> Iterator[Action]:
    """Say how the log and storage come to have the members that are wanted: one step."""
    database, wanted = seen.database, wanted_nodes(seen, Component.LOG)
    if database.topology is None or database.topology.system_identifier is None:
        if not seen.identity and _all_answer(seen):
            yield Found()
        return
    step = _member_step(seen, wanted)
    if step is not None:
        yield step
    yield from _adoptions(seen)


def _all_answer(seen: Observed) -> bool:
    logs = wanted_nodes(seen, Component.LOG)
    storages = wanted_nodes(seen, Component.STORAGE)
    return (
        set(logs) <= seen.database.log_nodes.keys()
        and set(storages) <= seen.database.storage_nodes.keys()
    )


def _member_step(seen: Observed, wanted: list[str]) -> Action | None:
    """Return the next change of the log's members, if one can be made safely."""
    database = seen.database
    leader = database.leader
    assert leader is not None, "there is a topology"
    absent = [one.info for one in leader.members if not one.is_active]
    # A node that came back without its disk, or one that nobody wants: that member is no more.
    lost = [
        info
        for info in absent
        if info.node not in wanted
        or (info.node in database.log_nodes and not _has_replica(seen, info.node, info.member))
    ]
    if lost:
        return RemoveMember(lost[0].node, lost[0].member) if len(absent) == 1 else None
    if absent:
        return None
    members = {one.info.node: one.info.member for one in leader.members}
    for node in wanted:
        if node not in members:
            return AddMember(node) if node in database.log_nodes else None
    surplus = sorted(members.keys() - set(wanted), reverse=True)
    if not surplus:
        return None
    if leader.topology.node == surplus[0]:
        return Transfer(wanted[0])
    return RemoveMember(surplus[0], members[surplus[0]])


def _has_replica(seen: Observed, node: str, member: int) -> bool:
    group = seen.database.log_nodes.get(node)
    return group is not None and group.member == member


def _all_storage_keeps(seen: Observed) -> bool:
    keeping = seen.database.storage_nodes
    return all(keeping.get(node) for node in wanted_nodes(seen, Component.STORAGE))


def _adoptions(seen: Observed) -> Iterator[Action]:
    """A storage node that came back without its disk, or is new, is filled from the others."""
    nodes = seen.database.storage_nodes
    keeping = tuple(node for node, branch in nodes.items() if branch is not None)
    for node in wanted_nodes(seen, Component.STORAGE):
        if node in nodes and nodes[node] is None:
            if keeping or seen.spec.object_store is not None:
                yield Adopt(node, keeping)
            return
