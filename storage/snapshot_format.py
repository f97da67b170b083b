"""The objects of snapshots: their names, and manifests as bytes (docs/formats/snapshot.md).

    <cluster>/<branch>/pages/manifests/<node>/<number>       what a snapshot consists of
    <cluster>/<branch>/pages/layers/<node>/<number>-<hash>   a part of a layer: pages of some cut

Numbers are 16 hex digits, so that names sort as numbers do. The number of a part is that of the
manifest for which it was made, its hash that of all of its bytes: a part put twice is the same
one. Every node has a chain of its own, because file ids and cut numbers are each store's own.

    SnapshotError
    ├── SnapshotDamagedError    an object is damaged, missing or not ours: use an older snapshot
    ├── SnapshotConflictError   another writer of the same chain is faster: try again later
    ├── SnapshotMissingError    there is nothing to store or restore: look at the names, or wait
    └── SnapshotStoppedError    somebody asked for it: what was stored by then is found again

Nothing here does I/O.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final

import msgspec
from xxhash import xxh3_64_digest

from fabric.ids import BranchName, ClusterName, CutSeq, NodeName
from fabric.lsn import TLI_MAX, Lsn, Tli
from sqlnode.pagefault.block_map import FILE_BLOCKS_MAX

from .cut import Cut, CutContents, StoredFile
from .methods import SkeletonError, decode_skeleton, encode_skeleton

MAGIC: Final = b"SWSNAP\0\x01"  # the last byte is the version
HEADER_BYTES: Final = 16
MANIFEST_BYTES_MAX: Final = 256 << 20  # a skeleton has 128 MiB at most, as it travels
FILES_MAX: Final = 1 << 24
LAYERS_MAX: Final = 256  # whoever writes stays far below (snapshot_plan)
PARTS_MAX: Final = 1 << 20  # of a layer: 32 TiB
PART_BYTES_MAX: Final = 256 << 20  # whoever writes stays far below (snapshot_layer)
TAIL_BYTES_MAX: Final = 16 << 20

_NUMBER: Final = re.compile(r"[0-9A-F]{16}", re.ASCII)
_PART: Final = re.compile(r"([0-9A-F]{16})-[0-9a-f]{32}", re.ASCII)

_U64 = Annotated[int, msgspec.Meta(ge=0)]


class SnapshotError(Exception):
    """Something about snapshots that was not carried out."""


class SnapshotDamagedError(SnapshotError):
    """An object is damaged, missing or not ours: use an older snapshot."""


class SnapshotConflictError(SnapshotError):
    """Another writer of the same chain is faster: try again later."""


class SnapshotMissingError(SnapshotError):
    """There is nothing to store or restore."""


class SnapshotStoppedError(SnapshotError):
    """Somebody asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotLayout:
    """How the objects of the snapshots of one branch are named."""

    cluster: ClusterName
    branch: BranchName

    @property
    def manifests(self) -> str:
        """The folder of the manifests of all nodes."""
        return f"{self.cluster}/{self.branch}/pages/manifests/"

    def chain(self, node: NodeName) -> str:
        """The folder of one node's manifests."""
        return f"{self.manifests}{node}/"

    def layers(self, node: NodeName) -> str:
        """The folder of one node's parts of layers."""
        return f"{self.cluster}/{self.branch}/pages/layers/{node}/"

    def manifest(self, node: NodeName, number: int) -> str:
        """Name a manifest."""
        return f"{self.chain(node)}{number:016X}"

    def part(self, node: NodeName, part: str) -> str:
        """Name the object of a part of a layer."""
        return self.layers(node) + part

    def chain_of(self, name: str) -> tuple[NodeName, int] | None:
        """Return whose manifest this is, and its number; None if it is none of ours."""
        node, _, number = name.removeprefix(self.manifests).partition("/")
        try:
            return (NodeName(node), int(number, 16)) if _NUMBER.fullmatch(number) else None
        except ValueError:
            return None


def part_name(number: int, digest: bytes) -> str:
    """Return the last segment of the name of a part."""
    return f"{number:016X}-{digest.hex()}"


def number_of_part(part: str) -> int | None:
    """Return the manifest for which a part was made; None if it is no part."""
    match = _PART.fullmatch(part)
    return None if match is None else int(match[1], 16)


class PartRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An object that holds some of the pages of a layer."""

    name: Annotated[str, msgspec.Meta(max_length=64)]  # the last segment
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=PART_BYTES_MAX)]
    tail_bytes: Annotated[int, msgspec.Meta(ge=1, le=TAIL_BYTES_MAX)]  # index and footer
    tail_checksum: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    first_file: _U64  # of its first page
    first_block: Annotated[int, msgspec.Meta(ge=0, lt=FILE_BLOCKS_MAX)]

    @property
    def first(self) -> tuple[int, int]:
        """Return its first page."""
        return self.first_file, self.first_block


class Layer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Pages that changed up to some cut, ascending by file and block."""

    parts: Annotated[tuple[PartRef, ...], msgspec.Meta(min_length=1, max_length=PARTS_MAX)]
    pages: _U64  # pages of zeros too

    @property
    def size_bytes(self) -> int:
        """Return what it takes in the object store."""
        return sum(part.size_bytes for part in self.parts)


class _CutFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    seq: _U64
    tli: Annotated[int, msgspec.Meta(ge=0, le=TLI_MAX)]
    lsn: _U64
    redo: _U64
    taken_at_s: float


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    cluster: str
    branch: str
    node: str
    number: _U64
    cut: _CutFields
    skeleton: bytes
    file_ids: Annotated[list[_U64], msgspec.Meta(max_length=FILES_MAX)]
    layers: Annotated[tuple[Layer, ...], msgspec.Meta(max_length=LAYERS_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One snapshot: a cut, and the layers that together have all of its pages, newest first."""

    node: NodeName
    number: int
    contents: CutContents
    layers: Sequence[Layer]

    @property
    def cut(self) -> Cut:
        """Return the cut that it is of; `seq` and file ids are those of the node's store."""
        return self.contents.cut

    @property
    def pages(self) -> int:
        """Return how many pages the cut has."""
        return sum(file.blocks for file in self.contents.files.values())

    @property
    def part_names(self) -> frozenset[str]:
        """Return the parts that it needs."""
        return frozenset(part.name for layer in self.layers for part in layer.parts)


def encode_manifest(layout: SnapshotLayout, manifest: Manifest) -> bytes:
    """Return a manifest as it is stored. SnapshotError: it cannot be."""
    contents, cut = manifest.contents, manifest.cut
    files = sorted(contents.files.values(), key=lambda file: file.file_id)
    try:
        skeleton = encode_skeleton(
            [(file.path, file.blocks) for file in files], contents.small_files, contents.directories
        )
    except SkeletonError as error:
        raise SnapshotError(f"no snapshot of cut {cut.lsn}: {error}") from error
    body = msgspec.msgpack.encode(
        _Body(
            cluster=str(layout.cluster),
            branch=str(layout.branch),
            node=str(manifest.node),
            number=manifest.number,
            cut=_CutFields(
                int(cut.seq), int(cut.tli), int(cut.lsn), int(cut.redo), float(cut.taken_at_s)
            ),
            skeleton=skeleton,
            file_ids=[file.file_id for file in files],
            layers=tuple(manifest.layers),
        )
    )
    return MAGIC + xxh3_64_digest(body) + body


def decode_manifest(layout: SnapshotLayout, node: NodeName, number: int, data: bytes) -> Manifest:
    """Return the manifest that an object holds. SnapshotDamagedError: it is not what it must be."""
    name = layout.manifest(node, number)
    if len(data) > MANIFEST_BYTES_MAX or not data.startswith(MAGIC[:-1]):
        raise SnapshotDamagedError(f"{name} is no manifest: find out who put it there")
    if data[len(MAGIC) - 1] != MAGIC[-1]:
        raise SnapshotDamagedError(
            f"{name} has version {data[len(MAGIC) - 1]}, and this program knows {MAGIC[-1]}: "
            "use the program that wrote it"
        )
    if xxh3_64_digest(memoryview(data)[HEADER_BYTES:]) != data[len(MAGIC) : HEADER_BYTES]:
        raise SnapshotDamagedError(f"{name} is damaged: its checksum is wrong")
    try:
        body = _BODY.decode(memoryview(data)[HEADER_BYTES:])
        if (body.cluster, body.branch, body.node, body.number) != (
            layout.cluster, layout.branch, node, number,
        ):  # fmt: skip
            raise SnapshotDamagedError(
                f"{name} is the manifest {body.number} of {body.node[:63]} for branch "
                f"{body.branch[:63]} of {body.cluster[:63]}: it was copied there"
            )
        return Manifest(node=node, number=number, contents=_contents(body), layers=_layers(body))
    except (msgspec.DecodeError, SkeletonError, ValueError) as error:
        raise SnapshotDamagedError(f"{name} is damaged: {error}") from error


def _contents(body: _Body) -> CutContents:
    described = decode_skeleton(body.skeleton)
    ids = body.file_ids
    if len(ids) != len(described.files) or any(one >= other for one, other in pairwise(ids)):
        raise ValueError("its file ids do not fit its files")
    files = {
        file.path: StoredFile(file.path, file_id, file.blocks)
        for file, file_id in zip(described.files, ids, strict=True)
    }
    if len(files) != len(ids):
        raise ValueError("it has two files of one path")
    if not math.isfinite(body.cut.taken_at_s):
        raise ValueError("it was taken at no time")
    cut = Cut(
        seq=CutSeq(body.cut.seq),
        tli=Tli(body.cut.tli),
        lsn=Lsn(body.cut.lsn),
        redo=Lsn(body.cut.redo),
        taken_at_s=body.cut.taken_at_s,
    )
    return CutContents(
        cut=cut,
        files=files,
        small_files=described.small_files,
        directories=described.directories,
    )


def _layers(body: _Body) -> Sequence[Layer]:
    for layer in body.layers:
        for part in layer.parts:
            made_for = number_of_part(part.name)
            if made_for is None or made_for > body.number:
                raise ValueError(f"{part.name!r} is no part of a layer")
            if part.tail_bytes > part.size_bytes:
                raise ValueError(f"{part.name} has a tail larger than itself")
        if any(one.first >= other.first for one, other in pairwise(layer.parts)):
            raise ValueError("the parts of a layer do not ascend")
    return body.layers


_BODY: Final = msgspec.msgpack.Decoder(_Body)
