"""The objects of snapshots in an object store: what there is, read and checked. All of it waits.

What a store says of an object that is not there, or is too short, becomes `SnapshotDamagedError`.
Its other errors pass: they are about the store.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fabric.ids import NodeName
from object_store.interface import (
    LIST_COUNT_MAX,
    ObjectInfo,
    ObjectMissingError,
    ObjectRangeError,
    ObjectStore,
)

from .cut import Cut
from .snapshot_format import Manifest, SnapshotDamagedError, SnapshotLayout, decode_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """One snapshot, for a human."""

    node: NodeName
    number: int
    complaint: str  # why it cannot be restored; empty: nothing is known against it
    cut: Cut | None = None
    pages: int = 0  # of the cut
    layers: int = 0
    size_bytes: int = 0  # of all layers that it needs
    own_bytes: int = 0  # of those that came with it


def list_snapshots(objects: ObjectStore, layout: SnapshotLayout) -> list[SnapshotInfo]:
    """Return the snapshots of all nodes, the newest cut last; each manifest is read."""
    found = []
    for node, numbers in list_chains(objects, layout).items():
        parts = list_parts(objects, layout, node)
        found += [_info(objects, layout, parts, node=node, number=number) for number in numbers]
    return sorted(found, key=lambda one: (one.cut.lsn if one.cut else 0, one.node, one.number))


def _info(
    objects: ObjectStore,
    layout: SnapshotLayout,
    parts: dict[str, int],
    *,
    node: NodeName,
    number: int,
) -> SnapshotInfo:
    try:
        manifest = read_manifest(objects, layout, node, number)
    except SnapshotDamagedError as error:
        return SnapshotInfo(node=node, number=number, complaint=str(error))
    needed = [part for layer in manifest.layers for part in layer.parts]
    own = f"{number:016X}-"
    return SnapshotInfo(
        node=node,
        number=number,
        complaint=missing_part(manifest, parts),
        cut=manifest.cut,
        pages=manifest.pages,
        layers=len(manifest.layers),
        size_bytes=sum(part.size_bytes for part in needed),
        own_bytes=sum(part.size_bytes for part in needed if part.name.startswith(own)),
    )


def list_chains(objects: ObjectStore, layout: SnapshotLayout) -> dict[NodeName, list[int]]:
    """Return the numbers of the manifests of each node, ascending."""
    chains: dict[NodeName, list[int]] = {}
    for info in list_all(objects, layout.manifests):
        found = layout.chain_of(info.name)
        if found is not None:
            chains.setdefault(found[0], []).append(found[1])
    return chains


def list_numbers(
    objects: ObjectStore, layout: SnapshotLayout, node: NodeName, *, after: int = 0
) -> list[int]:
    """Return the numbers of a node's manifests behind `after`, ascending."""
    infos = list_all(objects, layout.chain(node), after=layout.manifest(node, after))
    found = [layout.chain_of(info.name) for info in infos]
    return [number for one, number in filter(None, found) if one == node]


def list_parts(objects: ObjectStore, layout: SnapshotLayout, node: NodeName) -> dict[str, int]:
    """Return the sizes of the parts of a node's layers, by the last segment of their names."""
    folder = layout.layers(node)
    infos = list_all(objects, folder)
    return {info.name.removeprefix(folder): info.size_bytes for info in infos}


def missing_part(manifest: Manifest, parts: dict[str, int]) -> str:
    """Say what a manifest names that is not there; an empty string if all of it is."""
    for layer in manifest.layers:
        for part in layer.parts:
            if parts.get(part.name) != part.size_bytes:
                return (
                    f"{part.name} should have {part.size_bytes} bytes and has "
                    f"{parts.get(part.name, 'gone')}"
                )
    return ""


def read_manifest(
    objects: ObjectStore, layout: SnapshotLayout, node: NodeName, number: int
) -> Manifest:
    """Return a manifest, checked."""
    try:
        data = objects.get(layout.manifest(node, number))
    except ObjectMissingError as error:
        raise SnapshotDamagedError(f"manifest {number} of {node} is gone: {error}") from error
    return decode_manifest(layout, node, number, data)


def read_range(objects: ObjectStore, name: str, start: int, size_bytes: int) -> bytes:
    """Return exactly these bytes of an object."""
    try:
        return objects.get_range(name, start, size_bytes)
    except (ObjectMissingError, ObjectRangeError) as error:
        raise SnapshotDamagedError(f"{name} is not what it was: {error}") from error


def list_all(objects: ObjectStore, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
    """Yield all objects of a folder behind a name."""
    while True:
        page: Sequence[ObjectInfo] = objects.list(prefix, after=after)
        yield from page
        if len(page) < LIST_COUNT_MAX:
            return
        after = page[-1].name
