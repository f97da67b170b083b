"""A storage node as a process.

    python -P -m storage --config NODE.toml

Prints one line of JSON on standard output once it listens, with the address that was chosen, and
its log on standard error. Ends on SIGTERM or SIGINT. Started as root it becomes the unprivileged
user that postgres runs as, before it opens anything, and gives that user its directories.
"""

import argparse
import asyncio
import concurrent.futures.thread  # noqa: F401  # before root's rights go: it may lie below /root
import encodings.idna  # noqa: F401  # likewise; looked up when an address is
import gc
import json
import os
import random
import resource
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from fabric.logs import configure
from fabric.settings import SettingsError, load
from fabric.tls import IdentityError
from object_store.interface import ObjectStore, ObjectStoreError, StoreBusyError
from object_store.open import open_object_store
from sqlnode.privileges import Identity, PrivilegeError, choose_identity, drop
from sqlnode.server_copy import runnable_server
from sqlnode.servers import ServerBinaries, ServerError, choose_server

from .branch_records import BranchRecordError
from .node import NodeError, StorageNode
from .node_handlers import NodeHandlers
from .node_settings import StorageSettings
from .page_store import StoreError

log = structlog.get_logger()

STORE_RETRY_S = 2.0

REFUSALS = (
    BranchRecordError,
    IdentityError,
    NodeError,
    ObjectStoreError,
    OSError,
    PrivilegeError,
    ServerError,
    SettingsError,
    StoreError,
    ValueError,  # an address that is none
)


def main() -> int:
    """Run until told to stop; 1 and one sentence when that is not possible."""
    parser = argparse.ArgumentParser(prog="storage", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the settings")
    arguments = parser.parse_args()
    try:
        settings = load(StorageSettings, arguments.config, os.environ)
        configure(settings.logs, component="storage", stream=sys.stderr)
        identity = choose_identity()
        binaries = _server(settings, identity)
        _own_directories(settings, identity)
        drop(identity)
        _allow_open_files()
        return uvloop.run(_serve(settings, binaries, identity))
    except REFUSALS as refusal:
        print(f"storage: {refusal}", file=sys.stderr)  # noqa: T201  # before there is a log
        return 1


async def _serve(settings: StorageSettings, binaries: ServerBinaries, identity: Identity) -> int:
    rng = random.Random(os.urandom(16))  # noqa: S311  # spreads reconnections, keeps no secret
    objects = await _objects(settings)
    node = StorageNode(settings, binaries=binaries, identity=identity, rng=rng, objects=objects)
    NodeHandlers(node).serve()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await node.start()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    ready = {"event": "storage node ready", "rpc": str(node.rpc_address)}
    print(json.dumps(ready), flush=True)  # noqa: T201  # for whoever started us
    await stopped.wait()
    await node.close()
    log.info("storage node stopped")
    return 0


async def _objects(settings: StorageSettings) -> ObjectStore | None:
    """Open the object store; one that does not answer yet is asked until it does, or we end."""
    url = settings.object_store
    while url is not None:
        try:
            return await asyncio.to_thread(open_object_store, url, options=settings.store)
        except StoreBusyError as error:
            log.warning("object store does not answer", reason=str(error))
            await asyncio.sleep(STORE_RETRY_S)
    return None


def _server(settings: StorageSettings, identity: Identity) -> ServerBinaries:
    pg_bin = None if settings.pg_bin is None else Path(settings.pg_bin)
    search_path = os.environ.get("PATH", os.defpath)
    server = choose_server(settings.pg_version, pg_bin=pg_bin, search_path=search_path)
    return runnable_server(server, identity)


def _own_directories(settings: StorageSettings, identity: Identity) -> None:
    """Make them while we still may, for the user that we become."""
    for directory in (settings.data_dir, settings.run_dir):
        identity.make_directory(Path(directory))


def _allow_open_files() -> None:
    """The store's tables, connections, the engines' files: the hard limit is ours to use."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
