"""What becomes of a cluster's data when the cluster is deleted. Pure.

    Delete    everything goes with the cluster; nobody has to do anything
    Retain    volumes, authority and passwords stay; a cluster of the same name takes them over

While a cluster lives, it owns what its policy says, so that nothing is left to do at the end. With
Retain there is a finalizer as well: what was made just before the end, or changed while no operator
ran, is kept, too. It waits for no node, and for no pod.

A volume says of which database its data is. So a cluster that takes it over never makes another
database, however long the log needs to answer.
"""

from collections.abc import Iterable, Iterator, Mapping

from .actions import Action, Amend, Hold
from .kube_port import OWNED, VOLUME_CLAIM, Json, Kind
from .names import IDENTITY, KEEPER, Names
from .observed import Observed, is_ending
from .ownership import NO_OWNER, is_kept, owned, owner_of
from .spec import DeletionPolicy


def leftovers(uid: str, objects: Mapping[Kind, Mapping[str, Json]]) -> bool:
    """Whether something is there of another cluster that had this name: it is being deleted, and
    whatever is asked of it would be an answer of the past.
    """
    return any(
        owner_of(thing) not in {None, NO_OWNER, uid}
        for things in objects.values()
        for thing in things.values()
    )


def plan_ownership(seen: Observed) -> Iterator[Action]:
    """Say what has another owner than it should, and which volumes do not say whose they are."""
    policy = seen.spec.deletion_policy
    if policy is DeletionPolicy.RETAIN and KEEPER not in seen.finalizers:
        yield Hold(True)
    changes = list(_changes(seen.names, seen.uid, policy, seen.objects))
    yield from changes
    yield from _identities(seen.objects, seen.identity)
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
    return (*_changes(names, uid, policy, objects), *_identities(objects, identity))


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


def _identities(objects: Mapping[Kind, Mapping[str, Json]], identity: str) -> Iterator[Amend]:
    claims: Iterable[Json] = objects.get(VOLUME_CLAIM, {}).values() if identity else ()
    for claim in claims:
        annotations = claim["metadata"].get("annotations") or {}
        if IDENTITY not in annotations and not is_ending(claim):
            yield _amend(VOLUME_CLAIM, claim, {"annotations": {IDENTITY: identity}})


def _amend(kind: Kind, thing: Json, metadata: Json) -> Amend:
    found = thing["metadata"]
    return Amend(kind, found["name"], found["uid"], {"metadata": metadata})
