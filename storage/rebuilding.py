"""A node's data directory from the object store alone, on a machine where no node runs.

    data_dir/restoring/pages, branches    while it is made
    data_dir/pages, data_dir/branches     afterwards: what a node starts with

Everything is made below `restoring`, and gets its place when it is complete: the pages first, the
branch's record last, because without a record a node does not look for the branch. So whenever this
is interrupted there is either no record, and the next attempt throws away what is left, or all of
it. `branches` is also what a node makes first, so a directory that one has ever used is refused.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from fabric.ids import NodeName
from object_store.interface import ObjectStore

from .branch_records import BranchRecord, BranchRecords
from .restore import PassedOver, Restored, RestoreProgress, restore_best
from .rocks_store import RocksStore
from .snapshot_format import SnapshotLayout

RESTORING: Final = "restoring"
LOCK: Final = "lock"

_PAGES: Final = "pages"
_BRANCHES: Final = "branches"
_NOTHING: Final = frozenset({LOCK, "lost+found"})  # a file system of its own has the latter
_UNFINISHED: Final = frozenset({RESTORING, _PAGES})


class RebuildError(Exception):
    """The directory cannot be used: the sentence says why."""


def require_empty(data_dir: Path) -> None:
    """Refuse a directory that has anything in it but what an interrupted attempt has left."""
    if not data_dir.exists():
        return
    if not data_dir.is_dir():
        raise RebuildError(f"{data_dir} is no directory: name one that is empty or not there yet")
    found = {path.name for path in data_dir.iterdir()} - _NOTHING
    if RESTORING in found and found <= _UNFINISHED:
        return
    if found:
        raise RebuildError(
            f"{data_dir} is not empty (it has {min(found)}): name a directory that is, "
            "or remove what is in it if nobody needs it"
        )


def rebuild(
    objects: ObjectStore,
    layout: SnapshotLayout,
    data_dir: Path,
    *,
    among: Mapping[NodeName, Sequence[int]] | None = None,
    progress: Callable[[RestoreProgress], None] = lambda _: None,
    passed_over: PassedOver | None = None,
) -> Restored:
    """Make the directory of a node that has the branch as its newest snapshot has it.

    The caller holds the lock of the directory. Errors are those of `restore`, and RebuildError;
    nothing is left then.
    """
    require_empty(data_dir)
    aside = data_dir / RESTORING
    _remove(data_dir / _PAGES, aside)
    try:
        with closing(RocksStore(aside / _PAGES)) as store:
            restored = restore_best(
                objects, layout, store, layout.branch,
                among=among, progress=progress, passed_over=passed_over,
            )  # fmt: skip
        BranchRecords(aside / _BRANCHES).save(BranchRecord(branch=layout.branch))
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for folder, _, _ in os.walk(aside):
        _sync(Path(folder))
    for name in (_PAGES, _BRANCHES):
        (aside / name).rename(data_dir / name)
        _sync(data_dir)
    aside.rmdir()
    return restored


def _remove(pages: Path, aside: Path) -> None:
    """Throw away what an interrupted attempt has left: what says that it was one goes last."""
    for path in (pages, aside):
        if path.exists():
            shutil.rmtree(path)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
