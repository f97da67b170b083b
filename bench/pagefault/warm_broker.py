"""A broker process that has started and waits for its orders, as a compute's agent does.

    python -P -m bench.pagefault.warm_broker SETTINGS.toml

Does what `python -m sqlnode` does, in two steps: prints `imported` and waits for a line on standard
input; then describes the cut, builds the data directory, serves, and prints one line of JSON with
the milliseconds that each took. Ends when its standard input does.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import uvloop

from fabric.logs import LogSettings, configure
from fabric.settings import load
from sqlnode.broker import Broker
from sqlnode.datadir import ComputeDir, Expectations, build_data_directory
from sqlnode.directory_source import DirectorySource
from sqlnode.privileges import choose_identity, drop
from sqlnode.servers import PgVersion
from sqlnode.settings import BrokerSettings


def main() -> None:
    """Get ready, wait, serve."""
    configure(LogSettings(), component="sqlnode", stream=sys.stderr)
    settings = load(BrokerSettings, Path(sys.argv[1]), os.environ)
    drop(choose_identity())
    uvloop.run(_serve(settings))


async def _serve(settings: BrokerSettings) -> None:
    compute = ComputeDir(settings.run_dir)
    source = DirectorySource(settings.source_dir)
    expected = Expectations(server_version=PgVersion.parse(settings.server_version))
    print("imported", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    start_s = time.perf_counter()
    cut = await source.describe()
    described_s = time.perf_counter()
    build_data_directory(cut, compute, expected)
    built_s = time.perf_counter()
    async with Broker(compute, source):
        serving_s = time.perf_counter()
        phases_ms = {
            "describe": (described_s - start_s) * 1000,
            "build": (built_s - described_s) * 1000,
            "serve": (serving_s - built_s) * 1000,
        }
        print(json.dumps(phases_ms), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    await source.close()


if __name__ == "__main__":
    main()
