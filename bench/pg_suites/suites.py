"""The whole of `make pg-suites`: the suites, a failover, the suites again, the comparison.

    primary of a new cluster ─► regression, isolation
    replica made anew, so that every block of it is MISSING; failover to it
    the new primary ─► regression, isolation
    storage's pages against a stock standby's

Each run of a suite begins with a database of its own. Beside the figures this prints a line
`SUITE where name passed/total`, and for each test that failed its name and why, if that is known.
"""

import argparse
import asyncio
import os
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg

from bench.failover.world import local_cluster, target_of
from bench.faults.cluster_target import Compute, LocalCluster
from bench.faults.nemesis import wait_whole
from bench.faults.target import TargetError
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .known import KNOWN
from .pages import page_differences, read_access, write_origin
from .results import SuiteResult
from .running import PRIMARY_SETTINGS, SUITES, Target, keep_differences, own_files, run_pg_suite
from .sources import suite_files

NAME: Final = "suites"
CACHE: Final = Path(__file__).resolve().parents[2] / "build" / "pg-suites"
PGPASS: Final = "secrets/pgpass"
COLD_DEADLINE_S: Final = 120.0
LOOK_S: Final = 0.1
SHOWN_MAX: Final = 50


@dataclass(slots=True)
class Run:
    """One run of everything."""

    place: Workspace
    cluster: LocalCluster
    files: Path
    pgpass: Path
    report: Path  # what explains failures; made when there is one
    found: list[Measurement] = field(default_factory=list)

    async def run_suites(self, where: str) -> None:
        """Run both suites against whatever is the primary now."""
        for suite in SUITES:
            primary = await primary_of(self.cluster)
            target = Target(primary.host, primary.port, self.pgpass)
            began_s = time.monotonic()
            result, output = await asyncio.to_thread(
                run_pg_suite, suite, self.files, target, self.place
            )
            took_s = time.monotonic() - began_s
            known = KNOWN[suite.name]
            failed = len(result.unexplained(known))
            self.found += [
                Measurement(f"{where}_{suite.name}_passed", "tests", (len(result.passed),)),
                Measurement(f"{where}_{suite.name}_failed", "tests", (failed,)),
                Measurement(f"{where}_{suite.name}_s", "s", (took_s,)),
            ]
            kept = self.report / f"{where}-{suite.name}"
            if result.failed:
                keep_differences(output, kept)
            say(suite_lines(where, suite.name, result, kept))

    async def compare_pages(self, access_of: str, origin: Path) -> None:
        """Compare storage's pages with a stock standby's."""
        access = read_access(self.cluster.directory, access_of)
        dsn = (await self.cluster.status()).urls.primary
        blocks, found = await page_differences(
            access, dsn, origin, self.place, kept=self.report / "pages"
        )
        self.found += [
            Measurement("pages_compared", "blocks", (blocks,)),
            Measurement("page_differences", "blocks", (len(found),)),
        ]
        say([f"PAGES compared {blocks}, different {len(found)}", *found[:SHOWN_MAX]])
        if found:
            say([f"  see {self.report / 'pages'}"])


def measure_suites(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """Fetch, run and compare; with --quick the suites run only before the failover."""
    return asyncio.run(_measure(place, arguments))


async def _measure(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    files = arguments.sources or suite_files(place.binaries, CACHE)
    report = arguments.report or Path(tempfile.gettempdir(), f"seawall-pg-suites-{os.getpid()}")
    async with local_cluster(place) as cluster:
        copied, pgpass = own_files(files, cluster.directory / PGPASS, place)
        run = Run(place, cluster, copied, pgpass, report)
        await alter_settings(cluster)
        first = await primary_of(cluster)
        origin = await write_origin(read_access(cluster.directory, first.name), place)
        await run.run_suites("primary")
        if not arguments.quick:
            await fail_over_to_cold(cluster)
            await run.run_suites("failover")
        await run.compare_pages(first.name, origin)
    return Outcome(benchmark=NAME, settings={"files": files.name}, measurements=run.found)


async def alter_settings(cluster: LocalCluster) -> None:
    """Set what tests expect as a user does, with ALTER SYSTEM and a restart of all computes."""
    status = await cluster.status()
    async with await psycopg.AsyncConnection.connect(status.urls.primary, autocommit=True) as one:
        for name, value in PRIMARY_SETTINGS.items():
            await one.execute(f"alter system set {name} = {value}".encode())
    await cluster.command("restart", *(compute.name for compute in status.computes))
    await wait_whole(await target_of(cluster))
    async with await psycopg.AsyncConnection.connect(status.urls.primary, autocommit=True) as one:
        for name, value in PRIMARY_SETTINGS.items():
            row = await (await one.execute(f"show {name}".encode())).fetchone()
            if row != (value,):
                raise TargetError(f"{name} is {row} on the new primary, and not {value}")


async def primary_of(cluster: LocalCluster) -> Compute:
    """The compute that writes."""
    status = await cluster.status()
    for compute in status.computes:
        if compute.name == status.primary:
            return compute
    raise TargetError("the cluster has no primary: see `seawall doctor`")


async def fail_over_to_cold(cluster: LocalCluster) -> None:
    """Have the replica made anew, of which no block is local then; make it the primary."""
    (old,) = (one for one in (await cluster.status()).computes if one.role == "replica")
    assert old.pid is not None
    os.kill(old.pid, signal.SIGKILL)  # its agent never uses that directory again
    end_s = time.monotonic() + COLD_DEADLINE_S
    while True:
        (new,) = (one for one in (await cluster.status()).computes if one.name == old.name)
        if new.role == "replica" and new.pid not in {None, old.pid}:
            break
        if time.monotonic() > end_s:
            raise TargetError(f"{old.name} was not made anew: {new}")
        await asyncio.sleep(LOOK_S)
    await cluster.command("failover")
    if (now := await primary_of(cluster)).name != old.name:
        raise TargetError(f"{now.name} is the primary, and not {old.name}, which was cold")
    await wait_whole(await target_of(cluster))


def suite_lines(where: str, suite: str, result: SuiteResult, kept: Path) -> list[str]:
    """Return what is printed of a run of a suite."""
    lines = [f"SUITE {where} {suite} {len(result.passed)}/{result.total}"]
    for name in result.failed:
        reason = KNOWN[suite].get(name)
        lines.append(f"  {name} FAILED" if reason is None else f"  {name} differs: {reason}")
    if result.failed:
        lines.append(f"  see {kept / 'regression.diffs'}")
    return lines


def say(lines: list[str]) -> None:
    """Print at once: a run takes long."""
    print("\n".join(lines), flush=True)
