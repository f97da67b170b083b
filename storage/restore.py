"""A branch from the object store alone: the newest snapshot of any node, as a store's first cut.

    chains of manifests ─► the best one that is complete ─► PageStore.publish ─► Cut

The page store takes all of a cut or nothing, and asks for its pages in order while it does. So
pages pass through memory a window at a time, and a snapshot that turns out to be damaged half-way
has left nothing behind: the next best one is tried, and what was passed over is logged.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

import structlog

from fabric.ids import BranchName, NodeName
from fabric.lsn import LSN_MAX, Lsn
from object_store.interface import ObjectStore
from sqlnode.harvest import ChangedFile
from sqlnode.pagefault.block_map import Pages

from .cut import Cut
from .page_store import NewCut, PageStore, ReadPages
from .seeding import replacing
from .snapshot_format import (
    Manifest,
    SnapshotDamagedError,
    SnapshotError,
    SnapshotLayout,
    SnapshotMissingError,
)
from .snapshot_objects import list_chains, list_parts, missing_part, read_manifest
from .snapshot_reader import SnapshotPages

log = structlog.get_logger()

_LSN_LAST: Final = Lsn(LSN_MAX)

PassedOver = Callable[[NodeName, SnapshotDamagedError], None]
"""Told of a snapshot that cannot be restored, before the next best one is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreProgress:
    """How far a restore is."""

    node: NodeName  # whose snapshot it is
    number: int
    cut: Cut  # as the snapshot has it
    pages: int
    pages_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was restored, and from what."""

    node: NodeName
    number: int
    cut: Cut  # as the store has it now
    pages: int


def restore(
    objects: ObjectStore,
    layout: SnapshotLayout,
    store: PageStore,
    branch: BranchName,
    *,
    last: Lsn = _LSN_LAST,
    progress: Callable[[RestoreProgress], None] = lambda _: None,
) -> Cut:
    """Publish the newest snapshot up to `last` as the first cut of a branch, and return that.

    SnapshotMissingError: there is none. SnapshotDamagedError: none is whole. ValueError: the store
    has the branch already. Errors of both stores pass, and so does one that `progress` raises to
    end it; the branch is not there then.
    """
    return restore_best(objects, layout, store, branch, last=last, progress=progress).cut


def restore_best(
    objects: ObjectStore,
    layout: SnapshotLayout,
    store: PageStore,
    branch: BranchName,
    *,
    last: Lsn = _LSN_LAST,
    among: Mapping[NodeName, Sequence[int]] | None = None,
    progress: Callable[[RestoreProgress], None] = lambda _: None,
    passed_over: PassedOver | None = None,
    on_top: bool = False,
) -> Restored:
    """Do as `restore`, with the numbers of `among` only if it is given; say what it was.

    `on_top`: as the next cut of a branch that is here, of a snapshot that is newer than all it has.
    """
    known = store.cuts(branch)
    newest = known[-1].lsn if known else None
    if known and not on_top:
        raise ValueError(f"branch {branch} is here already: remove it before it is restored")
    chains = list_chains(objects, layout) if among is None else among
    if not any(chains.values()):
        raise _missing(layout)
    damage: SnapshotError | None = None
    for node, found in _best_first(objects, layout, chains):
        if isinstance(found, Manifest) and not _is_wanted(found.cut, newest, last):
            continue
        try:
            if not isinstance(found, Manifest):
                raise found
            read = _reader(objects, layout, found, progress)
            cut = store.publish(branch, replacing(store, branch, _new_cut(found)), read)
        except SnapshotDamagedError as error:
            log.warning("snapshot passed over", branch=branch, node=node, reason=str(error))
            if passed_over is not None:
                passed_over(node, error)
            damage = error
        else:
            return Restored(node=node, number=found.number, cut=cut, pages=found.pages)
    if damage is not None:
        raise SnapshotDamagedError(
            f"no snapshot of branch {layout.branch} can be restored: {damage}"
        ) from damage
    raise _missing(layout, f" up to {last}" if newest is None else f" behind {newest}")


def _is_wanted(cut: Cut, newest: Lsn | None, last: Lsn) -> bool:
    return cut.lsn <= last and (newest is None or cut.lsn > newest)


def _missing(layout: SnapshotLayout, limit: str = "") -> SnapshotMissingError:
    return SnapshotMissingError(
        f"there is no snapshot of branch {layout.branch} of cluster {layout.cluster}{limit}: "
        "check the names, and where the object store is"
    )


def _best_first(
    objects: ObjectStore, layout: SnapshotLayout, chains: Mapping[NodeName, Sequence[int]]
) -> Iterator[tuple[NodeName, Manifest | SnapshotDamagedError]]:
    """Yield manifests, those of later cuts first; only those that are asked for are read.

    In a chain later numbers have later cuts, as a rule.
    """
    left = {node: list(numbers) for node, numbers in chains.items()}
    heap: list[tuple[int, NodeName, int]] = []  # minus the Lsn
    found: dict[NodeName, Manifest | SnapshotDamagedError] = {}

    def look(node: NodeName) -> None:
        if left[node]:
            number = left[node].pop()
            try:
                found[node] = read_manifest(objects, layout, node, number)
            except SnapshotDamagedError as error:
                found[node] = error
            one = found[node]
            lsn = one.cut.lsn if isinstance(one, Manifest) else _LSN_LAST
            heappush(heap, (-lsn, node, number))

    for node in left:
        look(node)
    while heap:
        _, node, _ = heappop(heap)
        yield node, found[node]
        look(node)


def _reader(
    objects: ObjectStore,
    layout: SnapshotLayout,
    manifest: Manifest,
    progress: Callable[[RestoreProgress], None],
) -> ReadPages:
    """Return what gives a snapshot's pages, and tells of it."""
    problem = missing_part(manifest, list_parts(objects, layout, manifest.node))
    if problem:
        raise SnapshotDamagedError(problem)
    pages = SnapshotPages(objects, layout, manifest)
    total, read_count = manifest.pages, 0

    def read(path: str, first: int, blocks: int) -> Pages:
        nonlocal read_count
        found = pages.read(path, first, blocks)
        read_count += blocks
        progress(
            RestoreProgress(
                node=manifest.node,
                number=manifest.number,
                cut=manifest.cut,
                pages=read_count,
                pages_total=total,
            )
        )
        return found

    return read


def _new_cut(manifest: Manifest) -> NewCut:
    """Return a cut whose files are all new, in the order in which layers have them."""
    contents = manifest.contents
    files = sorted(contents.files.values(), key=lambda file: file.file_id)
    return NewCut(
        tli=contents.cut.tli,
        lsn=contents.cut.lsn,
        redo=contents.cut.redo,
        taken_at_s=contents.cut.taken_at_s,
        files=[
            ChangedFile(
                path=file.path, blocks=file.blocks, keep_blocks=0, changed=range(file.blocks)
            )
            for file in files
        ],
        removed=(),
        small_files=contents.small_files,
        directories=contents.directories,
    )
