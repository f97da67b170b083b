"""What the API server keeps, and what its verbs do: no HTTP, and no schema.

Every kind exists. As Kubernetes: one counter of versions, uids, generations, a history per kind
that is forgotten at some length, label selectors, lists in pages, server-side apply with
`managedFields`; an apply that changes nothing is no write. Besides the verbs, `put` and
`set_status` are what Kubernetes' own parts do, and `on_change` tells them of every change.

Not here, because no settled cluster needs it: finalizers, garbage collection, pods that end slowly.
"""

import copy
import uuid
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple

Json = dict[str, Any]

HISTORY_MAX: Final = 10_000  # changes of one kind: several times what 200 new clusters make
PAGE_ITEMS: Final = 500
HAS_STATUS: Final = frozenset(
    {"postgresclusters", "pods", "deployments", "persistentvolumeclaims", "nodes"}
)

NOT_FOUND: Final = 404
CONFLICT: Final = 409
GONE: Final = 410


class ApiFault(Exception):  # noqa: N818  # it is an answer
    """What is answered instead of an object."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Change(NamedTuple):
    """One entry of a kind's history. Objects are never changed in place: this is how it was."""

    version: int
    type: str
    thing: Json


class Target(NamedTuple):
    """What a request is about. Without a name, it is all of a namespace, or of all."""

    plural: str
    namespace: str
    name: str
    subresource: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Where it is among those of its kind."""
        return self.namespace, self.name


@dataclass(slots=True)
class _KindOf:
    """The objects of one kind."""

    things: dict[tuple[str, str], Json] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=lambda: deque(maxlen=HISTORY_MAX))


class Objects:
    """The objects, their history, and the verbs. Invariant: histories ascend by version."""

    def __init__(self) -> None:
        self.version = 1000
        self.on_change: list[Callable[[str, Change], None]] = []
        self._kinds: dict[str, _KindOf] = {}
        self._applied: dict[tuple[Target, str], Json] = {}

    def of(self, plural: str) -> list[Json]:
        """Return all objects of a kind, by namespace and name."""
        things = self._kind(plural).things
        return [things[place] for place in sorted(things)]

    def find(self, plural: str, namespace: str, name: str) -> Json | None:
        """Return one object, which must not be changed."""
        return self._kind(plural).things.get((namespace, name))

    def count(self) -> int:
        """Return how many objects there are."""
        return sum(len(kind.things) for kind in self._kinds.values())

    def since(self, plural: str, version: int) -> list[Change]:
        """Return what has happened to a kind after a version; GONE if that is too long ago."""
        history = self._kind(plural).history
        if len(history) == HISTORY_MAX and version < history[0].version:
            raise ApiFault(GONE, f"too old resource version: {version}")
        first = bisect_right(history, version, key=lambda change: change.version)
        return list(islice(history, first, None))

    # --- What Kubernetes does by itself -------------------------------------------------------

    def put(self, plural: str, thing: Json) -> Json:
        """Make or replace an object."""
        return self._store(plural, thing)

    def set_status(self, plural: str, namespace: str, name: str, status: Json) -> None:
        """Say how an object is; nothing if it is gone."""
        there = self.find(plural, namespace, name)
        if there is not None:
            self._store(plural, {**there, "status": status})

    # --- Verbs --------------------------------------------------------------------------------

    def get(self, target: Target) -> Json:
        """Return an object."""
        there = self.find(target.plural, *target.place)
        if there is None:
            raise ApiFault(NOT_FOUND, f'{target.plural} "{target.name}" not found')
        return there

    def list(self, target: Target, params: Mapping[str, str]) -> Json:
        """Return a page of what there is; a page that is asked for later has what is there then."""
        selector = params.get("labelSelector", "")
        found = [
            thing
            for thing in self.of(target.plural)
            if target.namespace in ("", thing["metadata"].get("namespace", ""))
            and selects(selector, thing)
        ]
        start = int(params.get("continue", 0))
        end = start + int(params.get("limit", PAGE_ITEMS))
        metadata = {"resourceVersion": str(self.version)}
        if end < len(found):
            metadata["continue"] = str(end)
        bare = [
            {name: value for name, value in thing.items() if name not in ("kind", "apiVersion")}
            for thing in found[start:end]
        ]
        return {"kind": "List", "metadata": metadata, "items": bare}

    def create(self, target: Target, body: Json) -> Json:
        """Make an object that is not there yet."""
        name = body["metadata"].get("name") or (
            f"{body['metadata']['generateName']}{uuid.uuid4().hex[:5]}"
        )
        if self.find(target.plural, target.namespace, name) is not None:
            raise ApiFault(CONFLICT, f'{target.plural} "{name}" already exists')
        return self._store(target.plural, {**body, "metadata": {**body["metadata"], "name": name}})

    def apply(self, target: Target, manager: str, body: Json) -> Json:
        """Make it so: the manager's fields are as it says, and those it says no more are gone."""
        there = self.find(target.plural, *target.place) or {}
        if target.subresource and not there:
            raise ApiFault(NOT_FOUND, f'{target.plural} "{target.name}" not found')
        last = self._applied.get((target, manager), {})
        self._applied[target, manager] = body
        changed = self._changed(target, there, merged(_without(there, last, body), body))
        return changed if changed is there else self._store(target.plural, changed, manager)

    def change(self, target: Target, body: Json, *, is_whole: bool) -> Json:
        """Replace an object, or merge changes into it; both refuse another version's."""
        there = self.get(target)
        version = body.get("metadata", {}).get("resourceVersion")
        if version not in (None, there["metadata"]["resourceVersion"]):
            raise ApiFault(CONFLICT, "the object has been modified")
        changed = self._changed(target, there, body if is_whole else merged(there, body))
        return changed if changed is there else self._store(target.plural, changed)

    def delete(self, target: Target, uid: str | None) -> Json:
        """Remove an object, that very one."""
        there = self.get(target)
        if uid not in (None, there["metadata"]["uid"]):
            raise ApiFault(CONFLICT, "the UID in the precondition is another one")
        del self._kind(target.plural).things[target.place]
        self.version += 1
        metadata = {**there["metadata"], "resourceVersion": str(self.version)}
        self._tell(target.plural, Change(self.version, "DELETED", {**there, "metadata": metadata}))
        return {"kind": "Status", "status": "Success"}

    # --- Changes ------------------------------------------------------------------------------

    def _kind(self, plural: str) -> _KindOf:
        return self._kinds.setdefault(plural, _KindOf())

    def _changed(self, target: Target, there: Json, changed: Json) -> Json:
        """Return what the request may make of an object; `there` itself if nothing changes."""
        if target.plural in HAS_STATUS:
            body, status = (there, changed) if target.subresource else (changed, there)
            changed = {name: value for name, value in body.items() if name != "status"}
            if "status" in status:
                changed["status"] = status["status"]
        return there if changed == there else changed

    def _store(self, plural: str, thing: Json, manager: str = "") -> Json:
        thing = copy.deepcopy(thing)
        metadata = thing["metadata"]
        kind = self._kind(plural)
        place = (metadata.get("namespace", ""), metadata["name"])
        before = kind.things.get(place)
        old = {} if before is None else before["metadata"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.version += 1
        metadata["uid"] = old.get("uid") or str(uuid.uuid4())
        metadata["creationTimestamp"] = old.get("creationTimestamp") or now
        is_other = before is None or before.get("spec") != thing.get("spec")
        metadata["generation"] = old.get("generation", 0) + is_other
        metadata["resourceVersion"] = str(self.version)
        if manager:
            metadata["managedFields"] = [managed_by(manager, thing, now)]
        kind.things[place] = thing
        self._tell(plural, Change(self.version, "MODIFIED" if before else "ADDED", thing))
        return thing

    def _tell(self, plural: str, change: Change) -> None:
        self._kind(plural).history.append(change)
        for hear in self.on_change:
            hear(plural, change)


def managed_by(manager: str, thing: Json, now: str) -> Json:
    """Return who has which fields: half of what a typical object is on the wire."""
    said = {name: value for name, value in thing.items() if name in ("spec", "data", "status")}
    return {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": thing.get("apiVersion", "v1"),
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": _fields({**said, "metadata": {"labels": thing["metadata"].get("labels", {})}}),
    }


def _fields(value: Any) -> Json:
    if not isinstance(value, dict):
        return {}
    return {f"f:{name}": _fields(inner) for name, inner in value.items()}


def selects(selector: str, thing: Json) -> bool:
    """Return whether a selector of `a` and `a=b`, with commas between, selects an object."""
    labels = thing["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        name, equals, value = term.partition("=")
        if name not in labels or (equals and labels[name] != value.lstrip("=")):
            return False
    return True


def merged(base: Any, changes: Any) -> Any:
    """Return a JSON merge: null removes, lists are replaced."""
    if not isinstance(changes, dict):
        return changes
    found = dict(base) if isinstance(base, dict) else {}
    for name, value in changes.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def _without(base: Any, last: Any, now: Any) -> Any:
    """Return `base` without what its manager applied last and does not apply now."""
    if not (isinstance(base, dict) and isinstance(last, dict) and isinstance(now, dict)):
        return base
    return {
        name: _without(value, last.get(name, {}), now.get(name, {}))
        for name, value in base.items()
        if name in now or name not in last or isinstance(last[name], dict)
    }
