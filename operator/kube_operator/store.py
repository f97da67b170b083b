"""The objects of one kind as the API last told of them, by key and by the cluster they are part of.

Objects are kept as JSON text and parsed when somebody looks: parsed, 3,000 of them take ten times
the memory, and most are looked at once in ten minutes. It also means that whoever looks has a copy
of his own, which he may change.

What comes is compared by resourceVersion, so that news may come twice and by two ways: by the
watch, and as the answer to a write of our own, which is there first. Invariant: an object is never
replaced by an older one, except by a whole list; and what we have deleted does not come back from a
watch that is late.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from .kube_port import Json, Key, Kind, cluster_key, key_of, version_of

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Json).decode


@dataclass(frozen=True, slots=True)
class _Kept:
    version: int
    uid: str
    cluster: Key | None
    text: bytes


class Store:
    """What is known of one kind. Each change returns the clusters that it concerns."""

    def __init__(self, kind: Kind, *, is_cluster: bool = False) -> None:
        self.kind = kind
        self._is_cluster = is_cluster
        self._kept: dict[Key, _Kept] = {}
        self._by_cluster: dict[Key, set[Key]] = {}
        # What `versions` returns: asked for far more often than it changes.
        self._versions: dict[Key, tuple[tuple[str, Key, int], ...]] = {}
        self._deleted: set[str] = set()  # uids of what we deleted and the watch has not told of
        # Since the list that is under way was asked for: what we wrote, and what we deleted.
        self._is_listing = False
        self._written_since: set[Key] = set()
        self._deleted_since: set[str] = set()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> Json | None:
        """Return an object, as a copy."""
        kept = self._kept.get(key)
        return None if kept is None else _decode(kept.text)

    def of_cluster(self, cluster: Key) -> list[Json]:
        """Return the objects of a cluster by name, as copies."""
        return [_decode(self._kept[key].text) for key in sorted(self._by_cluster.get(cluster, ()))]

    def versions(self, cluster: Key) -> tuple[tuple[str, Key, int], ...]:
        """Return the resourceVersions of a cluster's objects by name, and of which kind they are.

        Nothing is parsed, and it is the same value until one of them changes.
        """
        found = self._versions.get(cluster)
        if found is None:
            keys = sorted(self._by_cluster.get(cluster, ()))
            found = tuple((self.kind.plural, key, self._kept[key].version) for key in keys)
            if found:
                self._versions[cluster] = found
        return found

    def keys(self) -> Iterable[Key]:
        """Return the keys of all objects."""
        return self._kept.keys()

    def clusters(self) -> Iterable[Key]:
        """Return the clusters of which there is something."""
        return self._by_cluster.keys()

    def all(self) -> Iterator[Json]:
        """Yield all objects, as copies."""
        for key in sorted(self._kept):
            yield _decode(self._kept[key].text)

    # --- news -------------------------------------------------------------------------------------

    def listing(self) -> None:
        """Hear that a list is asked for now: what is written from here on may be newer than it."""
        self._is_listing, self._written_since, self._deleted_since = True, set(), set()

    def listed(self, items: Iterable[Json], resource_version: str) -> set[Key]:
        """Replace everything by a list, but what we wrote after it."""
        written = self._written_since
        found = {key_of(item): item for item in items}
        listed_version = int(resource_version)
        woken: set[Key] = set()
        for key in [key for key in self._kept if key not in found]:
            if key not in written or self._kept[key].version <= listed_version:
                woken |= self._drop(key)
        for key, item in found.items():
            kept = self._kept.get(key)
            version = version_of(item)
            if item["metadata"].get("uid") in self._deleted:
                continue
            if key in written and kept is not None and kept.version > version:
                continue
            if kept is None or kept.version != version:
                woken |= self._put(key, item)
        # The list has seen older deletions, and the watch that follows it will not tell of them.
        self._deleted &= self._deleted_since
        self._is_listing = False
        return woken

    def changed(self, item: Json) -> set[Key]:
        """Hear from a watch that an object is there, or is another one now."""
        key = key_of(item)
        if item["metadata"].get("uid") in self._deleted:
            return set()
        return self._put_newer(key, item)

    def vanished(self, item: Json) -> set[Key]:
        """Hear from a watch that an object is gone, or is none of ours any more."""
        key = key_of(item)
        self._deleted.discard(item["metadata"].get("uid", ""))
        kept = self._kept.get(key)
        if kept is None or kept.version > version_of(item):
            return set()
        return self._drop(key)

    def wrote(self, item: Json) -> set[Key]:
        """Hear the answer to a write of our own."""
        key = key_of(item)
        if self._is_listing:
            self._written_since.add(key)
        return self._put_newer(key, item)

    def deleted(self, key: Key, uid: str) -> set[Key]:
        """Hear that a deletion of our own has removed an object."""
        kept = self._kept.get(key)
        if kept is None or kept.uid != uid:
            return set()
        self._deleted.add(uid)
        if self._is_listing:
            self._deleted_since.add(uid)
        return self._drop(key)

    # --- changes ----------------------------------------------------------------------------------

    def _put_newer(self, key: Key, item: Json) -> set[Key]:
        kept = self._kept.get(key)
        if kept is not None and kept.version >= version_of(item):
            return set()
        return self._put(key, item)

    def _put(self, key: Key, item: Json) -> set[Key]:
        woken = self._drop(key)
        cluster = key if self._is_cluster else cluster_key(item)
        uid = item["metadata"].get("uid", "")
        self._kept[key] = _Kept(version_of(item), uid, cluster, _encode(item))
        if cluster is not None:
            self._by_cluster.setdefault(cluster, set()).add(key)
            self._versions.pop(cluster, None)
            woken.add(cluster)
        return woken

    def _drop(self, key: Key) -> set[Key]:
        kept = self._kept.pop(key, None)
        if kept is None or kept.cluster is None:
            return set()
        self._versions.pop(kept.cluster, None)
        keys = self._by_cluster[kept.cluster]
        keys.discard(key)
        if not keys:
            del self._by_cluster[kept.cluster]
        return {kept.cluster}
