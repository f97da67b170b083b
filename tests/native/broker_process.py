"""A broker over a plain directory as a process of its own, for tests that kill or stop it.

broker_process.py RUN_DIR SOURCE_DIR prints `ready` and serves until it is killed. Unlike
`python -m sqlnode` it wants no control file and does not change its user.
"""

import asyncio
import sys
from pathlib import Path

import structlog
import uvloop

from sqlnode.broker import Broker
from sqlnode.datadir import ComputeDir
from sqlnode.directory_source import DirectorySource


async def serve(run_dir: Path, source_dir: Path) -> None:
    """Until killed."""
    source = DirectorySource(source_dir)
    async with Broker(ComputeDir(run_dir), source, verify_checksums=False):
        print("ready", flush=True)  # noqa: T201  # the test waits for it
        await asyncio.Event().wait()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    uvloop.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
