"""Snapshots of a branch in the object store: what is new since the last one, and nothing else.

    writer = SnapshotWriter(store, objects, layout, node)
    writer.snapshot()      # now and then, in a thread: newest cut ─► layer ─► manifest
    writer.collect(...)    # less often: what no snapshot needs any more goes

A snapshot is a manifest, which names a cut and the layers that have its pages (snapshot_format).
The parts of the new layer are stored first, the manifest last. So a crash at any moment leaves the
snapshot before, or the new one, and some parts that nobody names; a later `collect` finds them.

What is new is told by the page store: `versions` between the cut of the newest manifest, the
*base*, and the newest cut. That is right only if the manifest describes a cut of this very store,
with its file ids: a node that was rebuilt has others. So the store must still have the cut, with
the same numbers and files; if not, a full layer follows. `pins` has the positions that the node
keeps for this.

Each node has a chain of its own. If two processes have one name, each number still has one maker:
the other one looks at what was made, and begins anew. Why no part is lost by that: snapshot_plan.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Final

import structlog

from fabric.frames import Payload
from fabric.ids import CutSeq, NodeName
from fabric.lsn import Lsn
from object_store.interface import (
    ObjectExistsError,
    ObjectMissingError,
    ObjectStore,
    StoreBusyError,
)
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES

from .cut import Cut, CutContents
from .page_store import CutGoneError, PageStore, PageVersion, StoreError
from .snapshot_format import (
    Layer,
    Manifest,
    SnapshotConflictError,
    SnapshotDamagedError,
    SnapshotLayout,
    SnapshotMissingError,
    SnapshotStoppedError,
    encode_manifest,
)
from .snapshot_layer import LayerPacker, PackedPart, Packing
from .snapshot_objects import list_numbers, list_parts, missing_part, read_manifest
from .snapshot_plan import (
    LayerKind,
    LayerPlan,
    SnapshotSettings,
    manifests_to_delete,
    parts_to_delete,
    plan_layers,
)
from .snapshot_reader import live_blocks

log = structlog.get_logger()

ATTEMPTS_MAX: Final = 3  # at a number that another writer got
# Before a put is tried again: a cloud that is overloaded for longer is the next snapshot's problem.
PAUSES_S: Final = (0.5, 2.0, 8.0)
_READ_PAGES: Final = 256  # at once from the page store: 2 MiB
_ZERO_PAGE: Final = bytes(BLOCK_BYTES)
_PACKING: Final = Packing()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotReport:
    """What became of one snapshot."""

    cut: Cut  # that the newest manifest has, made now or before
    number: int
    kind: LayerKind
    pages: int = 0  # that were stored
    objects: int = 0  # that were stored, the manifest too
    stored_bytes: int = 0  # in these objects
    layers: int = 0  # of the snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectReport:
    """What went."""

    manifests: int
    parts: int
    freed_bytes: int  # of parts


class SnapshotWriter:
    """Makes the snapshots of one branch on one node. One thread at a time, but for `stop`."""

    def __init__(
        self,
        store: PageStore,
        objects: ObjectStore,
        layout: SnapshotLayout,
        node: NodeName,
        settings: SnapshotSettings | None = None,
        *,
        packing: Packing = _PACKING,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._objects = objects
        self._layout = layout
        self._node = node
        self._settings = settings or SnapshotSettings()
        self._packing = packing
        self._pause = pause
        self._base: Cut | None = None
        self._working: Cut | None = None
        self._stopping = threading.Event()
        self._merging = 0  # the manifest whose layers were to merge last
        self._distrusted = 0  # a manifest with a layer that turned out to be damaged
        self._known: dict[int, tuple[Cut, frozenset[str]]] = {}  # of manifests, for `collect`

    @property
    def base_seq(self) -> CutSeq | None:
        """Return the cut from which the next snapshot goes on; None: not known, or there is none.

        Known after the first `snapshot`, or `find_base`. If it is dropped, all pages travel again.
        """
        base = self._base
        return None if base is None else base.seq

    @property
    def pins(self) -> tuple[Lsn, ...]:
        """Return the positions of the cuts to keep: the base, and one that is being stored."""
        return tuple(cut.lsn for cut in (self._base, self._working) if cut is not None)

    def find_base(self) -> CutSeq | None:
        """Look which cut has to be kept; for after a start."""
        numbers = list_numbers(self._objects, self._layout, self._node)
        newest = self._complete_manifest(numbers, list_parts(*self._chain))
        self._base = newest.cut if newest is not None and self._is_ours(newest) else None
        return self.base_seq

    def snapshot(self) -> SnapshotReport:
        """Store the newest cut, unless it is stored. Errors of both stores pass.

        SnapshotConflictError: another writer of this name is at it, and faster.
        """
        try:
            for _ in range(ATTEMPTS_MAX):
                try:
                    report = self._attempt()
                except SnapshotDamagedError as error:
                    self._distrusted = self._merging
                    log.warning(
                        "layers do not merge", branch=self._layout.branch, reason=str(error)
                    )
                    continue  # without them; or another writer was faster, and they are gone
                if report is not None:
                    return report
        finally:
            self._working = None
        raise SnapshotConflictError(
            f"another node called {self._node} makes snapshots of {self._layout.branch} too: "
            "give each node a name of its own"
        )

    def stop(self) -> None:
        """Let whatever is being stored end soon, with SnapshotStoppedError, and store no more.

        Threads cannot be cancelled, and a first snapshot may take hours.
        """
        self._stopping.set()

    def collect(self, *, now_s: float) -> CollectReport:
        """Delete what no snapshot needs any more, in the order that snapshot_plan asks for."""
        numbers = list_numbers(self._objects, self._layout, self._node)
        for number in set(self._known).difference(numbers):
            del self._known[number]
        cuts = {number: self._cut_of(number) for number in numbers}
        going = manifests_to_delete(cuts, now_s=now_s, settings=self._settings)
        for number in going:
            self._objects.delete(self._layout.manifest(self._node, number))
        staying = set(numbers).difference(going)
        if any(cuts[number] is None for number in staying):
            return CollectReport(manifests=len(going), parts=0, freed_bytes=0)  # who knows
        named = frozenset[str]().union(*(self._known[number][1] for number in staying))
        parts = list_parts(*self._chain)
        unneeded = parts_to_delete(parts, named=named, highest=max(numbers, default=None))
        for part in unneeded:
            self._objects.delete(self._layout.part(self._node, part))
        freed_bytes = sum(parts[part] for part in unneeded)
        return CollectReport(manifests=len(going), parts=len(unneeded), freed_bytes=freed_bytes)

    # One attempt.

    @property
    def _chain(self) -> tuple[ObjectStore, SnapshotLayout, NodeName]:
        return self._objects, self._layout, self._node

    def _attempt(self) -> SnapshotReport | None:
        """Return None if somebody else got the number."""
        numbers = list_numbers(self._objects, self._layout, self._node)
        parts = list_parts(*self._chain)
        newest = self._complete_manifest(numbers, parts)
        contents = self._newest_contents()
        self._working = contents.cut
        is_ours = newest is not None and self._is_ours(newest)
        self._base = newest.cut if newest is not None and is_ours else None
        if newest is not None and newest.cut.lsn >= contents.cut.lsn:
            return _report(newest, LayerKind.NOTHING)
        plan = plan_layers(
            newest.layers if newest is not None and is_ours else None,
            live_pages=sum(file.blocks for file in contents.files.values()),
            settings=self._settings,
        )
        number = max(numbers, default=0) + 1
        self._merging = newest.number if newest is not None else 0
        versions = self._versions(plan, contents, newest)
        packer = LayerPacker(number, self._packing)
        packed = [self._put_part(part, parts) for part in packer.parts(versions)]
        added = Layer(tuple(part.ref for part in packed), sum(part.pages for part in packed))
        manifest = Manifest(
            node=self._node,
            number=number,
            contents=contents,
            layers=[added, *plan.kept] if packed else plan.kept,
        )
        data = encode_manifest(self._layout, manifest)
        if not self._put_manifest(number, data):
            return None
        self._base = contents.cut
        self._known[number] = contents.cut, manifest.part_names
        return _report(manifest, plan.kind, added=added, manifest_bytes=len(data))

    def _newest_contents(self) -> CutContents:
        cuts = self._store.cuts(self._layout.branch)
        if not cuts:
            raise SnapshotMissingError(
                f"branch {self._layout.branch} has no cut yet: wait for its first"
            )
        return self._store.contents(self._layout.branch, cuts[-1].seq)

    def _complete_manifest(self, numbers: list[int], parts: dict[str, int]) -> Manifest | None:
        """Return the highest manifest, if there is nothing against it."""
        if not numbers or numbers[-1] == self._distrusted:
            return None
        try:
            manifest = read_manifest(*self._chain, numbers[-1])
        except SnapshotDamagedError:
            return None  # a full layer mends it
        self._known[manifest.number] = manifest.cut, manifest.part_names
        return None if missing_part(manifest, parts) else manifest

    def _is_ours(self, manifest: Manifest) -> bool:
        """Whether it is of a cut that this very store has."""
        if manifest.cut not in self._store.cuts(self._layout.branch):
            return False
        try:
            contents = self._store.contents(self._layout.branch, manifest.cut.seq)
        except CutGoneError:
            return False
        return dict(contents.files) == dict(manifest.contents.files)

    def _cut_of(self, number: int) -> Cut | None:
        known = self._known.get(number)
        if known is None:
            try:
                manifest = read_manifest(*self._chain, number)
            except SnapshotDamagedError:
                return None
            known = self._known[number] = manifest.cut, manifest.part_names
        return known[0]

    # Pages.

    def _versions(
        self, plan: LayerPlan, contents: CutContents, base: Manifest | None
    ) -> Iterator[PageVersion]:
        branch, upto = self._layout.branch, contents.cut.seq
        if plan.kind is LayerKind.FULL:
            return self._store.versions(branch, after=CutSeq(0), upto=upto)
        assert base is not None, "what is not full has a base"
        changed = self._store.versions(branch, after=base.cut.seq, upto=upto)
        if not plan.merged:
            return changed
        lengths = {file.file_id: file.blocks for file in contents.files.values()}
        places = live_blocks(self._objects, self._layout, base, list(plan.merged), lengths)
        return _without_twins(merge(changed, self._read(contents, places), key=_place))

    def _read(
        self, contents: CutContents, places: Iterator[tuple[int, int]]
    ) -> Iterator[PageVersion]:
        """Yield pages of the cut as they are now."""
        paths = {file.file_id: file.path for file in contents.files.values()}
        while some := list(islice(places, _READ_PAGES)):
            ranges = [PageRange(paths[file_id], block, 1) for file_id, block in some]
            answers = self._store.read(self._layout.branch, contents.cut.seq, ranges)
            for (file_id, block), answer in zip(some, answers, strict=True):
                if isinstance(answer, StoreError):
                    raise answer
                page = None if answer == _ZERO_PAGE else bytes(answer)
                yield PageVersion(file_id=file_id, block=block, page=page)

    # Objects.

    def _put_part(self, part: PackedPart, there: dict[str, int]) -> PackedPart:
        """Store a part, and forget its bytes."""
        if there.get(part.ref.name) != part.ref.size_bytes:
            # If it is there, an earlier attempt stored it: the name is made of all of its bytes.
            with contextlib.suppress(ObjectExistsError):
                self._put(self._layout.part(self._node, part.ref.name), part.pieces)
        part.pieces.clear()
        return part

    def _put_manifest(self, number: int, data: bytes) -> bool:
        """Return whether the number is ours and the highest."""
        name = self._layout.manifest(self._node, number)
        try:
            self._put(name, data)
        except ObjectExistsError:
            if not self._is_there(name, data):  # if it is, an answer was lost
                return False
        if list_numbers(self._objects, self._layout, self._node, after=number):
            self._objects.delete(name)  # it was made and deleted before: see snapshot_plan
            return False
        return True

    def _is_there(self, name: str, data: bytes) -> bool:
        try:
            return self._objects.get(name) == data
        except ObjectMissingError:
            return False  # somebody else's, who has gone on since then and collected

    def _put(self, name: str, data: Payload) -> None:
        for pause_s in PAUSES_S:
            if self._stopping.is_set():
                raise SnapshotStoppedError(
                    f"the snapshot of {self._layout.branch} was given up: make it another time"
                )
            try:
                return self._objects.put_new(name, data)
            except StoreBusyError:
                self._pause(pause_s)
        return self._objects.put_new(name, data)


def forget_chain(objects: ObjectStore, layout: SnapshotLayout, node: NodeName) -> None:
    """Delete all snapshots of a node that will not come back."""
    for number in list_numbers(objects, layout, node):
        objects.delete(layout.manifest(node, number))
    for part in list_parts(objects, layout, node):
        objects.delete(layout.part(node, part))


def _report(
    manifest: Manifest, kind: LayerKind, *, added: Layer | None = None, manifest_bytes: int = 0
) -> SnapshotReport:
    return SnapshotReport(
        cut=manifest.cut,
        number=manifest.number,
        kind=kind,
        pages=added.pages if added else 0,
        objects=len(added.parts) + 1 if added else 0,
        stored_bytes=added.size_bytes + manifest_bytes if added else 0,
        layers=len(manifest.layers),
    )


def _place(version: PageVersion) -> tuple[int, int]:
    return version.file_id, version.block


def _without_twins(versions: Iterator[PageVersion]) -> Iterator[PageVersion]:
    last: tuple[int, int] | None = None
    for version in versions:
        place = _place(version)
        if place != last:
            yield version
        last = place
