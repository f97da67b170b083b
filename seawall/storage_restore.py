"""`seawall storage restore`: a node's data directory of a snapshot, on a machine that has nothing.

Nothing of ours has to run, neither here nor elsewhere: the object store has all that is needed. The
node that is started on the directory goes on from the log, or from the archive, as any node does.
"""

import argparse
import concurrent.futures.thread  # noqa: F401  # before root's rights go: it may lie below /root
import encodings.idna  # noqa: F401  # likewise; looked up when an address is
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fabric.ids import NodeName
from object_store.interface import ObjectStore
from object_store.open import open_object_store
from sqlnode.privileges import choose_identity, drop
from storage.rebuilding import RebuildError, rebuild, require_empty
from storage.restore import RestoreProgress
from storage.snapshot_format import SnapshotDamagedError, SnapshotLayout, SnapshotMissingError
from storage.snapshot_objects import list_chains, list_snapshots

from .node_arguments import UsageError
from .storage_arguments import StorageAccess
from .storage_directory import locked, show_progress
from .storage_report import moment, snapshots_json, snapshots_table


def run_restore(arguments: argparse.Namespace, access: StorageAccess) -> int:
    """List snapshots, or make a directory of one; the exit status."""
    url, cluster = access.snapshots()
    layout = SnapshotLayout(cluster=cluster, branch=arguments.branch)
    directory: Path | None = arguments.directory
    if directory is None and not arguments.list:
        raise UsageError("where to? Give DATA_DIR; or --list, to see what there is")
    _require_directory_of_objects(url)
    identity = choose_identity()
    if directory is not None and not arguments.list:
        require_empty(directory)
        identity.make_directory(directory)
    # As a node does: what we make is to be that user's, and it reads objects with no other rights.
    drop(identity)
    objects = open_object_store(url, options=access.store)
    if arguments.list or directory is None:
        return _list(objects, layout, arguments)
    among = chosen(list_chains(objects, layout), layout, arguments.node, arguments.manifest)
    with locked(directory):
        restored = rebuild(
            objects, layout, directory,
            among=among, progress=_show, passed_over=_passed_over,
        )  # fmt: skip
    show_progress("")
    print(
        f"{layout.branch} is restored to {directory}: snapshot {restored.number} of "
        f"{restored.node}, cut at {restored.cut.lsn} of {moment(restored.cut.taken_at_s)}, "
        f"{restored.pages} pages; start a storage node on it"
    )
    return 0


def chosen(
    chains: Mapping[NodeName, Sequence[int]],
    layout: SnapshotLayout,
    node: NodeName | None,
    number: int | None,
) -> Mapping[NodeName, Sequence[int]]:
    """Return the snapshots that the arguments allow, at least one; pure."""
    where = f"of branch {layout.branch} of cluster {layout.cluster}"
    if not any(chains.values()):
        raise SnapshotMissingError(
            f"there is no snapshot {where}: check the names, and where the object store is"
        )
    found = {
        name: [one for one in numbers if number in {None, one}]
        for name, numbers in chains.items()
        if node in {None, name}
    }
    found = {name: numbers for name, numbers in found.items() if numbers}
    if not found:
        raise SnapshotMissingError(f"there is no such snapshot {where}: --list says which are")
    if number is not None and len(found) > 1:
        raise UsageError(f"{' and '.join(sorted(found))} have a snapshot {number}: give --node")
    return found


def _require_directory_of_objects(url: str) -> None:
    """Opening a directory makes it; here that would only hide that the name is wrong."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not Path(unquote(parts.path)).is_dir():
        raise RebuildError(f"there is no object store at {url}: check where it is")


def _list(objects: ObjectStore, layout: SnapshotLayout, arguments: argparse.Namespace) -> int:
    node, number = arguments.node, arguments.manifest
    allowed = chosen(list_chains(objects, layout), layout, node, number)
    found = [
        one for one in list_snapshots(objects, layout) if one.number in allowed.get(one.node, ())
    ]
    print(snapshots_json(found) if arguments.json else snapshots_table(found))
    return 0


def _show(progress: RestoreProgress) -> None:
    show_progress(
        f"snapshot {progress.number} of {progress.node}: "
        f"{progress.pages}/{progress.pages_total} pages"
    )


def _passed_over(node: NodeName, error: SnapshotDamagedError) -> None:
    show_progress("")
    print(f"seawall: a snapshot of {node} is passed over: {error}", file=sys.stderr)
