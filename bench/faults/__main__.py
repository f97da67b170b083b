"""Break a cluster under load, and say whether anything was lost or out of order.

    python -P -m bench.faults [--seconds S] [--seed N] [--dir D] [--report R] [--existing | --stock]
                              [--not-strict] [--elle-jar J] [--version N | --pg-bin DIR]

A cluster is started with `seawall up --ha` in --dir, or in a directory that is removed at the end;
with --existing the one that runs there is used and left alone: its data is not touched, but for the
schema seawall_faults, no network is cut and no disk filled. --stock tests the suite itself, on one
PostgreSQL without any of ours.

Exit status 1 when there is a violation, 2 when the test could not be carried out. The report
directory gets summary.txt, timeline.svg, report.json, history.jsonl, and *.edn for elle-cli.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import uvloop

from bench.pagefault.workspace import workspace
from fabric.logs import LogSettings, configure
from sqlnode.postgres import Postgres, PostgresError, PostgresSettings
from sqlnode.privileges import PrivilegeError, choose_identity
from sqlnode.server_copy import runnable_server
from sqlnode.servers import ServerError, choose_server

from .cluster_target import ClusterTarget, LocalCluster
from .elle import JAR_VARIABLE, elle_checks
from .fitting import fitted
from .nemesis import wait_whole
from .report import summary, violation_count, write_lists, write_report
from .sessions import BrokenError, RefusedError
from .stock_target import StockTarget, kept_running
from .suite import judged, run_suite
from .target import Target, TargetError

SECONDS: Final = 60.0
REFUSALS: Final = (
    BrokenError, PostgresError, PrivilegeError, RefusedError, ServerError, TargetError,
)  # fmt: skip


def main() -> int:
    """Run what the arguments choose."""
    arguments = _arguments()
    configure(LogSettings(level="warning"), component="faults", stream=sys.stderr)
    # Terminated as well as interrupted, clusters are stopped and files removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        return uvloop.run(_run(arguments))
    except REFUSALS as refusal:
        print(f"bench.faults: {refusal}", file=sys.stderr)
        return 2


async def _run(arguments: argparse.Namespace) -> int:
    async with _target(arguments) as target:
        run = await run_suite(target, seconds=arguments.seconds, seed=arguments.seed)
    checks = judged(run)
    strict = not arguments.not_strict
    report = arguments.report or Path(tempfile.mkdtemp(prefix="seawall-faults-"))
    jar = arguments.elle_jar or os.environ.get(JAR_VARIABLE)
    lists = write_lists(report, run)
    more, note = elle_checks(run, lists, jar=Path(jar) if jar else None, strict=strict)
    checks += more
    run.notes.append(note)
    write_report(report, run, checks, strict=strict)
    print(summary(run, checks, strict=strict), end="")
    print(f"report: {report}")
    return 1 if violation_count(checks, strict=strict) else 0


@contextlib.asynccontextmanager
async def _target(arguments: argparse.Namespace) -> AsyncIterator[Target]:
    if arguments.stock:
        async with _stock(arguments) as stock:
            yield stock
        return
    directory = arguments.dir or Path(
        tempfile.mkdtemp(prefix="swf-", dir="/tmp")
    )  # short for sockets, and private
    cluster = LocalCluster(directory)
    if arguments.existing:
        yield ClusterTarget(cluster, (await cluster.status()).urls.primary)
        return
    try:
        await cluster.up("--ha", *_server_options(arguments))
        async with fitted(cluster, keep=arguments.dir is not None) as fittings:
            if fittings.lacks:
                print(f"bench.faults: {fittings.lacks}", file=sys.stderr)
            target = await fittings.target(cluster)
            await wait_whole(target)
            yield target
    finally:
        if not arguments.dir:
            await cluster.command("destroy", "--yes")
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def _stock(arguments: argparse.Namespace) -> AsyncIterator[Target]:
    identity = choose_identity()
    binaries = choose_server(
        arguments.version, pg_bin=arguments.pg_bin, search_path=os.environ.get("PATH", os.defpath)
    )
    with workspace(runnable_server(binaries, identity), identity) as place:
        data_dir = place.new_cluster("stock")
        server = Postgres(
            binaries=place.binaries,
            data_dir=data_dir,
            run_dir=data_dir.parent,
            identity=identity,
            # Processes are killed, the machine is not: what was written stays.
            settings=PostgresSettings(fsync=False, full_page_writes=True),
        )
        try:
            await server.start()
            async with kept_running(StockTarget(server)) as target:
                yield target
        finally:
            await server.kill()


def _server_options(arguments: argparse.Namespace) -> list[str]:
    return [] if arguments.version is None else ["--pg-version", str(arguments.version)]


def _arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -P -m bench.faults", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="replays the faults")
    parser.add_argument("--dir", type=Path, metavar="D", help="the cluster's directory")
    parser.add_argument(
        "--elle-jar", type=Path, metavar="J", help=f"elle-cli's, to judge, too ({JAR_VARIABLE})"
    )
    parser.add_argument("--report", type=Path, metavar="R", help="where the report goes")
    parser.add_argument(
        "--not-strict", action="store_true", help="reads may be older than the clock allows"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--existing", action="store_true", help="use the cluster that runs in --dir")
    which.add_argument("--stock", action="store_true", help="one stock PostgreSQL")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--version", type=int, metavar="N", help="major version of PostgreSQL")
    chosen.add_argument("--pg-bin", type=Path, metavar="DIR", help="for --stock: its programs")
    arguments = parser.parse_args()
    if arguments.existing and not arguments.dir:
        parser.error("--existing needs --dir")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
