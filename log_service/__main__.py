"""A log node as a process.

    python -P -m log_service --config NODE.toml

Prints one line of JSON on standard output once it listens, with the addresses that were chosen, and
its log on standard error. Ends on SIGTERM or SIGINT, after handing over what it leads; ends with 1
when its disk fails, because only a restart can tell what is on it then.
"""

import argparse
import asyncio
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

from .disk_errors import LogError
from .handlers import Handlers
from .node import LogNode, NodeError
from .node_settings import NodeSettings

log = structlog.get_logger()

REFUSALS = (
    IdentityError,
    LogError,
    NodeError,
    ObjectStoreError,
    OSError,
    SettingsError,
    ValueError,  # an address that is none
)


def main() -> int:
    """Run until told to stop; 1 and one sentence when that is not possible."""
    parser = argparse.ArgumentParser(prog="log_service", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the settings")
    arguments = parser.parse_args()
    try:
        settings = load(NodeSettings, arguments.config, os.environ)
        configure(settings.logs, component="log", stream=sys.stderr)
        return uvloop.run(_serve(settings))
    except REFUSALS as refusal:
        print(f"log_service: {refusal}", file=sys.stderr)  # noqa: T201  # before there is a log
        return 1


async def _serve(settings: NodeSettings) -> int:
    store = await open_when_it_answers(settings.object_store, options=settings.store)
    rng = random.Random(os.urandom(16))  # noqa: S311  # spreads elections, keeps no secret
    node = LogNode(settings, store=store, rng=rng)
    Handlers(node).serve()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await node.start()
    # What lives as long as the process is not looked at again and again.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    ready = {"event": "log node ready", "rpc": str(node.rpc_address), "pg": str(node.pg_address)}
    print(json.dumps(ready), flush=True)  # noqa: T201  # for whoever started us
    node.failure.add_done_callback(lambda _: stopped.set())
    await stopped.wait()
    if node.failure.done():
        os._exit(1)  # nothing may be written any more, not even on the way out
    await node.close()
    log.info("log node stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
