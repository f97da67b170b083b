"""The broker process of one compute: build the data directory if there is none, answer faults.

    python -P -m sqlnode SETTINGS.toml

Prints one line, `ready`, on standard output once faults are answered; ends on SIGTERM or SIGINT.
Started as root it becomes the unprivileged user that postgres runs as, before it opens anything.
"""

import argparse
import asyncio
import concurrent.futures.thread  # noqa: F401  # before root's rights go: it may lie below /root
import contextlib
import encodings.idna  # noqa: F401  # likewise; looked up when an address is
import gc
import os
import resource
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from fabric.logs import configure
from fabric.metrics import MetricsServer, MetricsSettings
from fabric.settings import SettingsError, load

from .broker import Broker
from .broker_metrics import registry_of
from .control_file import ControlFileError
from .datadir import (
    ComputeDir,
    DataDirectoryError,
    Expectations,
    build_data_directory,
    control_of,
    open_block_map,
)
from .directory_source import DirectorySource
from .page_source import SourceError
from .pagefault.block_map import BlockMapError
from .privileges import PrivilegeError, choose_identity, drop
from .servers import PgVersion, ServerError
from .settings import BrokerSettings

REFUSALS = (
    BlockMapError,
    ControlFileError,
    DataDirectoryError,
    PrivilegeError,
    ServerError,
    SettingsError,
    SourceError,
)

log = structlog.get_logger()


def main() -> int:
    """Run until told to stop; 1 and one sentence when that is not possible."""
    parser = argparse.ArgumentParser(prog="sqlnode", description=__doc__.splitlines()[0])
    parser.add_argument("settings", type=Path, help="TOML file with the settings")
    arguments = parser.parse_args()
    try:
        settings = load(BrokerSettings, arguments.settings, os.environ)
        configure(settings.logs, component="broker", stream=sys.stderr)
        drop(choose_identity())
        _allow_open_files()
        _collect_seldom()
        uvloop.run(_serve(settings))
    except REFUSALS as refusal:
        print(f"sqlnode: {refusal}", file=sys.stderr)  # noqa: T201  # before there is a log
        return 1
    return 0


async def _serve(settings: BrokerSettings) -> None:
    compute = ComputeDir(settings.run_dir)
    source = DirectorySource(settings.source_dir)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        if compute.block_map.exists():
            await _require_same_cluster(settings, compute, source)
        else:
            await _build(settings, compute, source)
        broker = Broker(compute, source, verify_checksums=settings.verify_checksums)
        async with broker, contextlib.AsyncExitStack() as stack:
            if settings.metrics is not None:
                await _export(broker, settings.metrics, stack)
            print("ready", flush=True)  # noqa: T201  # the parent waits for it
            if settings.fill:
                filling = asyncio.create_task(_fill(broker))
                stack.callback(filling.cancel)
            await stopped.wait()
    finally:
        await source.close()


def _expectations(settings: BrokerSettings, system_identifier: int | None) -> Expectations:
    return Expectations(
        server_version=PgVersion.parse(settings.server_version),
        system_identifier=system_identifier,
        data_checksums=settings.verify_checksums,
    )


async def _require_same_cluster(
    settings: BrokerSettings, compute: ComputeDir, source: DirectorySource
) -> None:
    """A broker that goes on with a directory must not fill it from another cluster's source."""
    with open_block_map(compute) as block_map:
        expected = _expectations(settings, block_map.system_identifier)
    control_of(await source.describe(), compute.data, expected)


async def _build(settings: BrokerSettings, compute: ComputeDir, source: DirectorySource) -> None:
    expected = _expectations(settings, settings.system_identifier)
    cut = await source.describe()
    build_data_directory(
        cut, compute, expected, tracks_changes=settings.tracks_changes, waits=settings.waits
    )
    log.info("broker.built", directory=str(compute.data), files=len(cut.files))


async def _export(
    broker: Broker, settings: MetricsSettings, stack: contextlib.AsyncExitStack
) -> None:
    metrics = MetricsServer(registry_of(broker), problem=lambda: None, settings=settings)
    port = await metrics.start()
    stack.push_async_callback(metrics.close)
    log.info("broker.metrics", host=settings.host, port=port)


async def _fill(broker: Broker) -> None:
    blocks = await broker.fill()
    log.info("broker.filled", blocks=blocks)


def _allow_open_files() -> None:
    """Every client is a descriptor, and so are the data files; the hard limit is ours to use."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_seldom() -> None:
    """Fetches make many short-lived objects and no cycles; what was imported stays for good."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


if __name__ == "__main__":
    sys.exit(main())
