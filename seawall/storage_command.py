"""`seawall storage`: look at storage nodes, check what one has on its disk, make that anew.

    status   every branch of every node that is named       cuts   which cuts one node keeps
    verify   every page of a node that is not running       (storage_verify)
    restore  a node's data directory of a snapshot          (storage_restore)

What goes wrong is one sentence on standard error: of the nodes or their disks (exit status 1), or
of the call (2). A node that does not answer is such, too, and so is a page that cannot be read.
"""

import argparse
import asyncio
import random
import secrets
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from fabric.addresses import parse_address
from fabric.logs import LogSettings, configure
from fabric.lsn import Lsn
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import RpcError
from fabric.settings import SettingsError
from fabric.tls import ClientTls, IdentityError
from object_store.interface import ObjectStoreError
from sqlnode.privileges import PrivilegeError
from storage.branch_records import BranchRecordError
from storage.methods import LIST_CUTS, STATUS, ListCuts, NodeStatus, Nothing
from storage.page_store import StoreError
from storage.rebuilding import RebuildError
from storage.snapshot_format import SnapshotError

from .node_arguments import UsageError
from .storage_arguments import storage_access
from .storage_directory import DirectoryError
from .storage_report import cuts_json, cuts_table, json_text, rows_of, status_table
from .storage_restore import run_restore
from .storage_verify import run_verify

if TYPE_CHECKING:
    from storage.cut import Cut

STATUS_TIMEOUT_MS: Final = 2_000  # takes a millisecond; a node that hangs must not hide the others
CALL_TIMEOUT_MS: Final = 10_000
WATCH_S: Final = 2.0

REFUSALS: Final = (
    BranchRecordError,
    DirectoryError,
    ObjectStoreError,
    OSError,
    PrivilegeError,
    RebuildError,
    RpcError,
    SnapshotError,
    StoreError,
)


class StorageCommandError(Exception):
    """Storage is not as the command needs it: the sentence says why."""


def run_storage(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Do what the arguments ask for; the exit status."""
    # What goes wrong is said once, in a sentence, not by the layers below as well.
    configure(LogSettings(level="error"), component="seawall", stream=sys.stderr)
    try:
        return _run(arguments, environ)
    except (StorageCommandError, *REFUSALS) as error:
        print(f"seawall: {error}", file=sys.stderr)
        return 1
    except (UsageError, SettingsError, IdentityError, ValueError) as error:
        print(f"seawall: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    match arguments.storage_command:
        case "verify":
            return run_verify(arguments.directory, arguments.branch, newest=arguments.newest)
        case "restore":
            return run_restore(arguments, storage_access(arguments, environ))
        case "cuts":
            return asyncio.run(_cuts(arguments, environ))
        case _:
            return asyncio.run(_status(arguments, environ))


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
