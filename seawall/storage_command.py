"""`seawall storage`: look at storage nodes, and check what one of them has on its disk.

    status   every branch of every node that is named       cuts   which cuts one node keeps
    verify   every page of a node that is not running

What goes wrong is one sentence on standard error: of the nodes or their disks (exit status 1), or
of the call (2). A node that does not answer is such, too, and so is a page that cannot be read.
"""

import argparse
import asyncio
import fcntl
import os
import random
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fabric.addresses import parse_address
from fabric.ids import BranchName
from fabric.logs import LogSettings, configure
from fabric.lsn import Lsn
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import RpcError
from fabric.settings import SettingsError
from fabric.tls import ClientTls, IdentityError
from sqlnode.page_source import PageRange
from storage.cut import Cut, CutContents
from storage.methods import LIST_CUTS, STATUS, ListCuts, NodeStatus, Nothing
from storage.page_store import StoreError
from storage.rocks_store import RocksStore

from .storage_arguments import StorageUsageError, storage_access
from .storage_report import cuts_json, cuts_table, json_text, rows_of, status_table

STATUS_TIMEOUT_MS: Final = 2_000  # takes a millisecond; a node that hangs must not hide the others
CALL_TIMEOUT_MS: Final = 10_000
WATCH_S: Final = 2.0
READ_BLOCKS: Final = 128  # 1 MiB: as large as the store reads well
FINDINGS_SHOWN_MAX: Final = 100  # of one cut; the rest is counted


class StorageCommandError(Exception):
    """Storage is not as the command needs it: the sentence says why."""


def run_storage(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Do what the arguments ask for; the exit status."""
    # What goes wrong is said once, in a sentence, not by the layers below as well.
    configure(LogSettings(level="error"), component="seawall", stream=sys.stderr)
    try:
        match arguments.storage_command:
            case "verify":
                return _verify(arguments.directory, arguments.branch, newest=arguments.newest)
            case "cuts":
                return asyncio.run(_cuts(arguments, environ))
            case _:
                return asyncio.run(_status(arguments, environ))
    except (StorageCommandError, RpcError, StoreError, OSError) as error:
        print(f"seawall: {error}", file=sys.stderr)
        return 1
    except (StorageUsageError, SettingsError, IdentityError, ValueError) as error:
        print(f"seawall: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


# --- Nodes that run -------------------------------------------------------------------------------


async def _status(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    access = storage_access(arguments, environ)
    addresses, tls = access.address_list(), access.client_tls()
    while True:
        said = await asyncio.gather(*(_node_status(address, tls) for address in addresses))
        survey = dict(zip(addresses, said, strict=True))
        rows = rows_of(survey)
        print(json_text(rows) if arguments.json else status_table(rows), flush=True)
        if not arguments.watch:
            break
        await asyncio.sleep(WATCH_S)
        print()
    if silent := [address for address, said in survey.items() if isinstance(said, str)]:
        raise StorageCommandError(f"no answer from {', '.join(silent)}")
    return 0


async def _node_status(address: str, tls: ClientTls | None) -> NodeStatus | str:
    try:
        async with RpcClient(parse_address(address), rng=_rng(), tls=tls) as client:
            answer = await client.call(STATUS, Nothing(), timeout_ms=STATUS_TIMEOUT_MS)
            return answer.response
    except RpcError as error:
        return str(error)


async def _cuts(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    access = storage_access(arguments, environ)
    (address,) = access.address_list()
    cuts: list[Cut] = []
    async with RpcClient(parse_address(address), rng=_rng(), tls=access.client_tls()) as client:
        is_all = False
        while not is_all:
            after = cuts[-1].lsn if cuts else Lsn(0)
            request = ListCuts(arguments.branch, after)
            answer = await client.call(LIST_CUTS, request, timeout_ms=CALL_TIMEOUT_MS)
            cuts += answer.response.cuts
            is_all = answer.response.is_all or not answer.response.cuts
    if not cuts:
        raise StorageCommandError(f"{address} has no cut of branch {arguments.branch}")
    print(cuts_json(cuts) if arguments.json else cuts_table(cuts))
    return 0


def _rng() -> random.Random:
    return random.Random(secrets.randbits(64))  # noqa: S311  # spreads reconnections, no secret


# --- A node that does not run ---------------------------------------------------------------------


def _verify(directory: Path, branch: BranchName | None, *, newest: bool) -> int:
    pages = directory / "pages"
    if not pages.is_dir():
        raise StorageCommandError(f"{directory} is no data directory of a storage node")
    _become_owner(directory)
    with _locked(directory):
        store = RocksStore(pages)
        try:
            branches = sorted(store.branches())
            if branch is not None and branch not in branches:
                raise StorageCommandError(f"{directory} has no cut of branch {branch}")
            are_sound = [
                _verify_branch(store, name, newest=newest)
                for name in (branches if branch is None else [branch])
            ]
        finally:
            store.close()
    return 0 if all(are_sound) else 1


def _become_owner(directory: Path) -> None:
    """Opening a store writes some files; root's would keep the node from opening it again."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep a node from starting meanwhile, and refuse while one runs."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageCommandError(f"a node runs on {directory}: stop it first") from None
        yield
    finally:
        os.close(lock)


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
        _progress(f"{what}: {done}/{total} pages")
    _progress("")
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


def _progress(text: str) -> None:
    """Show how far it is, on one line of a terminal; nothing in a file."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
