"""Whose an object is: the cluster's, with which it goes, or nobody's, because it outlives it. Pure.

Kubernetes deletes what a cluster owns when the cluster is gone. With `deletionPolicy: Retain` the
volumes, and the Secrets without which nobody gets into them, are not owned: so they stay whoever
deletes the cluster, however, and whether there is an operator or not.
"""

from typing import Final

from .kube_port import CLUSTER, SECRET, VOLUME_CLAIM, Json, Kind
from .names import Names
from .spec import DeletionPolicy

NO_OWNER: Final = ""


def reference(names: Names, uid: str) -> Json:
    """Return what an object of a cluster has among its `ownerReferences`."""
    return {
        "apiVersion": CLUSTER.api_version,
        "kind": CLUSTER.kind,
        "name": names.cluster,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_kept(names: Names, policy: DeletionPolicy, kind: Kind, name: str) -> bool:
    """Whether an object stays when the cluster goes."""
    if policy is not DeletionPolicy.RETAIN:
        return False
    secrets = (names.authority_secret, names.superuser_secret, names.internal_secret)
    return kind == VOLUME_CLAIM or (kind == SECRET and name in secrets)


def owner_of(thing: Json) -> str | None:
    """Return the uid of the cluster that owns an object, NO_OWNER; None: something else does."""
    references = thing["metadata"].get("ownerReferences") or []
    for one in references:
        if one.get("kind") == CLUSTER.kind and one.get("apiVersion") == CLUSTER.api_version:
            return str(one["uid"])
    return None if any(one.get("controller") for one in references) else NO_OWNER


def owned(thing: Json, names: Names, uid: str, *, wanted: bool) -> list[Json]:
    """Return an object's `ownerReferences` with this cluster's, or without."""
    references = thing["metadata"].get("ownerReferences") or []
    others = [one for one in references if one.get("uid") != uid]
    return [*others, reference(names, uid)] if wanted else others
