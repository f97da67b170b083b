"""`seawall storage verify`: every page of a node that does not run, read and checked."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fabric.ids import BranchName
from sqlnode.page_source import PageRange
from storage.cut import Cut, CutContents
from storage.page_store import StoreError
from storage.rocks_store import RocksStore

from .storage_directory import DirectoryError, become_owner, locked, show_progress

READ_BLOCKS: Final = 128  # 1 MiB: as large as the store reads well
FINDINGS_SHOWN_MAX: Final = 100  # of one cut; the rest is counted


def run_verify(directory: Path, branch: BranchName | None, *, newest: bool) -> int:
    """Read what there is, and say whether it is sound; the exit status."""
    pages = directory / "pages"
    if not pages.is_dir():
        raise DirectoryError(f"{directory} is no data directory of a storage node")
    become_owner(directory)
    with locked(directory):
        store = RocksStore(pages)
        try:
            branches = sorted(store.branches())
            if branch is not None and branch not in branches:
                raise DirectoryError(f"{directory} has no cut of branch {branch}")
            are_sound = [
                _verify_branch(store, name, newest=newest)
                for name in (branches if branch is None else [branch])
            ]
        finally:
            store.close()
    return 0 if all(are_sound) else 1


def _verify_branch(store: RocksStore, branch: BranchName, *, newest: bool) -> bool:
    cuts = store.cuts(branch)[-1:] if newest else store.cuts(branch)
    bad_cuts = 0
    for number, cut in enumerate(cuts, 1):
        pages, findings = _verify_cut(store, branch, cut, f"{branch}: cut {number}/{len(cuts)}")
        verdict = f"{len(findings)} pages are DAMAGED" if findings else "sound"
        print(f"{branch} at {cut.lsn}: {verdict}, {pages} pages")
        for text in findings[:FINDINGS_SHOWN_MAX]:
            print(f"  DAMAGE: {text}")
        bad_cuts += bool(findings)
    return not bad_cuts


def _verify_cut(
    store: RocksStore, branch: BranchName, cut: Cut, what: str
) -> tuple[int, list[str]]:
    """Read all of a cut; return how many pages it should have, and what is wrong with some."""
    try:
        contents = store.contents(branch, cut.seq)
    except StoreError as error:
        return 0, [f"the files of the cut cannot be told: {error}"]
    total = sum(file.blocks for file in contents.files.values())
    findings: list[str] = []
    done = 0
    for wanted in _ranges(contents):
        findings += _findings(store, branch, cut, wanted)
        done += wanted.blocks
        show_progress(f"{what}: {done}/{total} pages")
    show_progress("")
    return total, findings


def _ranges(contents: CutContents) -> Iterator[PageRange]:
    for path, file in sorted(contents.files.items()):
        for first in range(0, file.blocks, READ_BLOCKS):
            yield PageRange(path, first, min(READ_BLOCKS, file.blocks - first))


def _findings(store: RocksStore, branch: BranchName, cut: Cut, wanted: PageRange) -> Sequence[str]:
    """Read a range and, if that fails, each of its pages."""
    (outcome,) = store.read(branch, cut.seq, [wanted])
    if not isinstance(outcome, StoreError):
        return []
    if wanted.blocks == 1:
        return [f"{wanted.path} block {wanted.first}: {outcome}"]
    singles = range(wanted.first, wanted.first + wanted.blocks)
    found = [_findings(store, branch, cut, PageRange(wanted.path, n, 1)) for n in singles]
    return [text for texts in found for text in texts]
