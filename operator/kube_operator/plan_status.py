"""What is said of a cluster: a few words for people, conditions for machines. Pure."""

from .cluster_status import (
    ARCHIVING,
    DEGRADED,
    PROGRESSING,
    READY,
    ClusterStatus,
    Condition,
    ConditionStatus,
)
from .kube_port import CLUSTER_LABEL
from .manifests.moments import rfc3339
from .names import COMPONENT_LABEL, Component
from .observed import Observed, is_ready
from .plan import Plan
from .plan_computes import role_of
from .plan_nodes import wanted_nodes
from .plan_ownership import leftovers
from .plan_rotation import rotation_in_words

COMPLAINTS_MAX = 3


def status_of(seen: Observed, made: Plan, *, problem: str = "") -> ClusterStatus:
    """Say how a cluster is. `problem`: what went wrong with the plan, as a sentence."""
    database = seen.database
    topology, leader, primary = database.topology, database.leader, database.primary
    computes = seen.pods(Component.COMPUTE)
    ready = [name for name, pod in computes.items() if is_ready(pod) and role_of(seen, name)]
    lacking = [] if made.refused else _lacking(seen, len(ready))
    identifier = None if topology is None else topology.system_identifier
    # The database of volumes that are refused is not this cluster's: without them it makes its own.
    identity = seen.status.system_identifier if made.refused else seen.identity
    facts = {
        READY: _ready(primary is not None, made.refused, is_founded=bool(identifier)),
        PROGRESSING: _progressing(made, lacking, seen),
        DEGRADED: _degraded(lacking, problem or made.refused),
        ARCHIVING: _archiving(seen),
    }
    return ClusterStatus(
        observed_generation=seen.generation,
        phase=_phase(seen, facts, made),
        primary="" if primary is None else str(primary.name),
        epoch=seen.status.epoch if topology is None else int(topology.epoch),
        log_leader="" if leader is None else str(leader.topology.node),
        computes=len(computes),
        ready_computes=len(ready),
        ready_log_nodes=0 if leader is None else sum(1 for one in leader.members if one.is_active),
        ready_storage_nodes=sum(1 for one in database.storage_nodes.values() if one is not None),
        selector=(
            f"{CLUSTER_LABEL}={seen.names.cluster},{COMPONENT_LABEL}={Component.COMPUTE.value}"
        ),
        system_identifier=str(identifier or identity),
        conditions=_conditions(seen, facts),
    )


_Fact = tuple[ConditionStatus, str, str]


def _truth(holds: bool) -> ConditionStatus:
    return ConditionStatus.TRUE if holds else ConditionStatus.FALSE


def _ready(has_primary: bool, refused: str, *, is_founded: bool) -> _Fact:
    if refused:
        return (ConditionStatus.FALSE, "Refused", refused)
    if has_primary:
        return (ConditionStatus.TRUE, "Serving", "SQL is answered.")
    if is_founded:
        return (ConditionStatus.FALSE, "NoPrimary", "No compute is the primary at the moment.")
    return (
        ConditionStatus.FALSE,
        "NotFounded",
        "The database does not answer, or is not made yet.",
    )


def _lacking(seen: Observed, ready: int) -> list[str]:
    """Return what there is less of than was asked for, as sentences."""
    database = seen.database
    found: list[str] = []
    leader = database.leader
    if leader is None:
        if seen.identity:
            found.append("No log node leads: a majority of them is needed.")
    else:
        away = [str(one.info.node) for one in leader.members if not one.is_active]
        found += [f"Log node {node} does not answer." for node in away]
    for node in wanted_nodes(seen, Component.STORAGE):
        if node not in database.storage_nodes:
            found.append(f"Storage node {node} does not answer.")
    if ready < seen.spec.computes:
        found.append(f"{ready} of {seen.spec.computes} computes answer SQL.")
    found += [
        f"Compute {info.name} says: {info.complaint}"
        for info in database.computes
        if info.complaint
    ]
    return found


def _degraded(lacking: list[str], problem: str) -> _Fact:
    complaints = [problem] * bool(problem) + lacking[:COMPLAINTS_MAX]
    if not complaints:
        return (ConditionStatus.FALSE, "AsAskedFor", "All that was asked for is there.")
    reason = "ReconcileFailed" if problem else "PartsMissing"
    return (ConditionStatus.TRUE, reason, " ".join(complaints)[:1000])


def _progressing(made: Plan, lacking: list[str], seen: Observed) -> _Fact:
    if made.refused:
        return (ConditionStatus.FALSE, "Refused", made.refused)
    if seen.spec.paused:
        return (ConditionStatus.FALSE, "Paused", "spec.paused is true: nothing is changed.")
    if leftovers(seen.uid, seen.objects):
        said = "What is left of another cluster of this name has to be gone first."
        return (ConditionStatus.TRUE, "Waiting", said)
    rotation = rotation_in_words(seen)
    count = len(made.rollout.outdated)
    if count:
        said = f"{count} pods are still to be replaced, {made.rollout.outdated[0]} first."
        reason = "RotatingCertificates" if rotation else "RollingOut"
        return (ConditionStatus.TRUE, reason, f"{rotation} {said}".strip())
    if made.actions or lacking:
        said = "What is missing is being made."
        return (ConditionStatus.TRUE, "Reconciling", f"{said} {rotation}".strip())
    return (ConditionStatus.FALSE, "Settled", f"Nothing is to be done. {rotation}".strip())


def _archiving(seen: Observed) -> _Fact:
    if seen.spec.object_store is None:
        return (ConditionStatus.FALSE, "NoObjectStore", "spec.objectStore is not set.")
    leader = seen.database.leader
    if leader is None:
        return (ConditionStatus.UNKNOWN, "NoLeader", "No log node leads at the moment.")
    if leader.archive_complaint:
        return (ConditionStatus.FALSE, "Failing", leader.archive_complaint[:1000])
    return (ConditionStatus.TRUE, "Archiving", "WAL reaches the object store.")


def _phase(seen: Observed, facts: dict[str, _Fact], made: Plan) -> str:
    if made.refused or seen.spec.paused:
        return "Refused" if made.refused else "Paused"
    if facts[READY][0] is not ConditionStatus.TRUE:
        if not seen.identity:
            return "Starting"
        return "No quorum" if seen.database.leader is None else "Failing over"
    if made.rollout.outdated:
        return "Rolling out"
    if facts[DEGRADED][0] is ConditionStatus.TRUE:
        return "Degraded"
    return "Running"


def _conditions(seen: Observed, facts: dict[str, _Fact]) -> list[Condition]:
    """Return the conditions; one that has not changed keeps its time."""
    before = {one.type: one for one in seen.status.conditions}
    found = []
    for name, (status, reason, message) in facts.items():
        old = before.get(name)
        is_same = old is not None and old.status is status
        since = old.last_transition_time if old is not None and is_same else rfc3339(seen.now)
        found.append(
            Condition(
                type=name,
                status=status,
                reason=reason,
                message=message,
                last_transition_time=since,
                observed_generation=seen.generation,
            )
        )
    return found
