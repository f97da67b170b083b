"""The broker process of one compute: build the data directory if there is none, answer faults.

    python -P -m sqlnode SETTINGS.toml

Prints one line, `ready`, on standard output once faults are answered; ends on SIGTERM or SIGINT.
Started as root it becomes the unprivileged user that postgres runs as, before it opens anything.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import sys
from pathlib import Path

import structlog
import uvloop
from fabric.settings import SettingsError, load

from .broker import Broker
from .control_file import ControlFileError
from .datadir import ComputeDir, DataDirectoryError, Expectations, build_data_directory
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
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        settings = load(BrokerSettings, arguments.settings, os.environ)
        drop(choose_identity())
        _allow_open_files()
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
        if not compute.block_map.exists():
            await _build(settings, compute, source)
        async with Broker(compute, source, verify_checksums=settings.verify_checksums) as broker:
            print("ready", flush=True)  # noqa: T201  # the parent waits for it
            filling = asyncio.create_task(_fill(broker)) if settings.fill else None
            await stopped.wait()
            if filling is not None:
                filling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await filling
    finally:
        await source.close()


async def _build(settings: BrokerSettings, compute: ComputeDir, source: DirectorySource) -> None:
    expected = Expectations(
        server_version=PgVersion.parse(settings.server_version),
        system_identifier=settings.system_identifier,
        data_checksums=settings.verify_checksums,
    )
    cut = await source.describe()
    build_data_directory(cut, compute, expected, tracks_changes=settings.tracks_changes)
    log.info("broker.built", directory=str(compute.data), files=len(cut.files))


async def _fill(broker: Broker) -> None:
    blocks = await broker.fill()
    log.info("broker.filled", blocks=blocks)


def _allow_open_files() -> None:
    """Every client is a descriptor, and so are the data files; the hard limit is ours to use."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
