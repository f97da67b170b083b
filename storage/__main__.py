"""A storage node as a process.

    python -P -m storage --config NODE.toml

Prints one line of JSON on standard output once it listens, with the address that was chosen, and
its log on standard error. Ends on SIGTERM or SIGINT. Started as root it becomes the unprivileged
user that postgres runs as, before it opens anything, and gives that user its directories.
"""

import argparse
import asyncio
import concurrent.futures.thread  # noqa: F401  # before root's rights go: it may lie below /root
import dataclasses
import encodings.idna  # noqa: F401  # likewise; looked up when an address is
import gc
import json
import os
import random
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from fabric.logs import configure
from fabric.settings import SettingsError, load
from fabric.tls import IdentityError
from object_store.interface import ObjectStoreError
from object_store.open import open_when_it_answers
from sqlnode.privileges import Identity, PrivilegeError, choose_identity, drop
from sqlnode.processes import allow_open_files
from sqlnode.server_copy import server_to_run
from sqlnode.servers import ServerBinaries, ServerError

from .branch_records import BranchRecordError
from .node import StorageNode
from .node_directories import NodeError
from .node_handlers import NodeHandlers
from .node_settings import StorageSettings
from .page_store import StoreError

log = structlog.get_logger()

# How long a thread keeps the interpreter lock from the event loop. RocksDB's binding never lets it
# go, so with the usual 5 ms each step of a single read waited so long beside a large read or a
# publish: 5.2 ms (90 %: 5.8) against 0.7 (0.9).
LOCK_TURN_S = 0.000_5

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
        binaries = server_to_run(settings.pg_version, settings.pg_bin, identity)
        _own_directories(settings, identity)
        drop(identity)
        allow_open_files()
        sys.setswitchinterval(LOCK_TURN_S)
        return uvloop.run(_serve(settings, binaries, identity))
    except REFUSALS as refusal:
        print(f"storage: {refusal}", file=sys.stderr)  # noqa: T201  # before there is a log
        return 1


async def _serve(settings: StorageSettings, binaries: ServerBinaries, identity: Identity) -> int:
    rng = random.Random(os.urandom(16))  # noqa: S311  # spreads reconnections, keeps no secret
    objects = await open_when_it_answers(settings.object_store, options=settings.store)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    is_first = True
    while not stopped.is_set():
        node = StorageNode(settings, binaries=binaries, identity=identity, rng=rng, objects=objects)
        NodeHandlers(node).serve()
        await node.start()
        # Others know us by it, also when the node is started again.
        settings = dataclasses.replace(settings, rpc_listen=str(node.rpc_address))
        if is_first:
            is_first = False
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
            ready = {"event": "storage node ready", "rpc": str(node.rpc_address)}
            print(json.dumps(ready), flush=True)  # noqa: T201  # for whoever started us
        await _first_of(stopped, node.is_outdated)
        await node.close()
        del node
        gc.collect()  # what still held the store would keep it open
    log.info("storage node stopped")
    return 0


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _own_directories(settings: StorageSettings, identity: Identity) -> None:
    """Make them while we still may, for the user that we become."""
    for directory in (settings.data_dir, settings.run_dir):
        identity.make_directory(Path(directory))


if __name__ == "__main__":
    sys.exit(main())
