"""What becomes of a cluster's data when the cluster is deleted. Pure.

    Delete    everything goes with the cluster; nobody has to do anything
    Retain    volumes, authority and passwords stay; a cluster of the same name takes them over

While a cluster lives, it owns what its policy says, so that nothing is left to do at the end. With
Retain there is a finalizer as well: what was made just before the end, or changed while no operator
ran, is kept, too. It waits for no node, and for no pod.

A volume says of which database its data is. So a cluster that takes it over never makes another
database, however long the log needs to answer. It also says for which version of PostgreSQL it was
made: a cluster of another one would start servers that cannot read it, so it is refused, and
touches nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from .actions import Action, Amend, Hold
from .kube_port import OWNED, VOLUME_CLAIM, Json, Kind
from .names import DATA_VERSION, IDENTITY, KEEPER, Names
from .observed import Observed, is_ending
from .ownership import NO_OWNER, is_kept, owned, owner_of
from .spec import DeletionPolicy

_TEXT_MAX: Final = 40  # of what somebody may have written into an annotation


def leftovers(uid: str, objects: Mapping[Kind, Mapping[str, Json]]) -> bool:
    """Whether something is there of another cluster that had this name: it is being deleted, and
    whatever is asked of it would be an answer of the past.
    """
    return any(
        owner_of(thing) not in {None, NO_OWNER, uid}
        for things in objects.values()
        for thing in things.values()
    )


def refusal(seen: Observed) -> str:
    """Say why a cluster cannot take the volumes over that are there; empty: it can.

    What it owns it took over once, and a volume that does not say its version is trusted.
    """
    wanted = str(seen.spec.version)
    for name, claim in seen.of(VOLUME_CLAIM).items():
        version = (claim["metadata"].get("annotations") or {}).get(DATA_VERSION, wanted)
        if version != wanted and owner_of(claim) == NO_OWNER:
            return (
                f"spec.version is {wanted}, but volume {name}, which a cluster of this name left, "
                f"has data of version {version[:_TEXT_MAX]}. Nothing was touched. Delete this "
                "cluster and make one of that version, or delete the volumes."
            )
    return ""


def plan_ownership(seen: Observed) -> Iterator[Action]:
    """Say what has another owner than it should, and which volumes do not say whose they are."""
    policy = seen.spec.deletion_policy
    if policy is DeletionPolicy.RETAIN and KEEPER not in seen.finalizers:
        yield Hold(True)
    changes = list(_changes(seen.names, seen.uid, policy, seen.objects))
    yield from changes
    # Volumes of before volumes had a version: a primary of this one can read what is there.
    version = "" if seen.database.primary is None else str(seen.spec.version)
    yield from _descriptions(seen.objects, {IDENTITY: seen.identity, DATA_VERSION: version})
    # Last: as long as something is nobody's, it takes an operator to delete all.
    if policy is not DeletionPolicy.RETAIN and KEEPER in seen.finalizers and not changes:
        yield Hold(False)


def plan_farewell(
    names: Names,
    uid: str,
    policy: DeletionPolicy,
    objects: Mapping[Kind, Mapping[str, Json]],
    identity: str,
) -> tuple[Amend, ...]:
    """Say what is done before a cluster that is being deleted may go."""
    described = _descriptions(objects, {IDENTITY: identity})
    return (*_changes(names, uid, policy, objects), *described)


def _changes(
    names: Names,
    uid: str,
    policy: DeletionPolicy,
    objects: Mapping[Kind, Mapping[str, Json]],
) -> Iterator[Amend]:
    for kind in OWNED:
        for name, thing in objects.get(kind, {}).items():
            owner = owner_of(thing)
            wanted = not is_kept(names, policy, kind, name)
            is_ours = owner == uid
            if owner in {NO_OWNER, uid} and wanted != is_ours and not is_ending(thing):
                references = owned(thing, names, uid, wanted=wanted)
                yield _amend(kind, thing, {"ownerReferences": references})


def _descriptions(
    objects: Mapping[Kind, Mapping[str, Json]], known: Mapping[str, str]
) -> Iterator[Amend]:
    """Say what volumes do not say of themselves; what is not known is empty."""
    for claim in objects.get(VOLUME_CLAIM, {}).values():
        there = claim["metadata"].get("annotations") or {}
        lacking = {name: text for name, text in known.items() if text and name not in there}
        if lacking and not is_ending(claim):
            yield _amend(VOLUME_CLAIM, claim, {"annotations": lacking})


def _amend(kind: Kind, thing: Json, metadata: Json) -> Amend:
    found = thing["metadata"]
    return Amend(kind, found["name"], found["uid"], {"metadata": metadata})
