"""A stock standby of the log: what there is without storage nodes.

It runs without our library and with fsync, over a copy of the first cut.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.pagefault.cpu_time import tree_cpu_s
from bench.pagefault.workspace import QUIET, Workspace, connected
from fabric.lsn import Lsn
from sqlnode.postgres import Postgres, PostgresSettings, request_standby

from .world import CUT_DEADLINE_S, MAX_CONNECTIONS, World, wait_for_replay


def stock_standby(world: World, data_dir: Path) -> contextlib.AbstractContextManager[Postgres]:
    """A standby of a world's log; see `standby_of`."""
    return standby_of(world.place, data_dir, world.standby_conninfo())


@contextlib.contextmanager
def standby_of(
    place: Workspace, data_dir: Path, primary_conninfo: str, **settings: str
) -> Iterator[Postgres]:
    """A standby that is not started yet; killed at the end. Its directory stays."""
    request_standby(data_dir, place.identity)
    standby = Postgres(
        binaries=place.binaries,
        data_dir=data_dir,
        run_dir=data_dir.parent,
        identity=place.identity,
        settings=PostgresSettings(
            fsync=True,
            full_page_writes=True,
            extra={
                **QUIET,
                "max_connections": MAX_CONNECTIONS,
                "primary_conninfo": primary_conninfo,
                **settings,
            },
        ),
    )
    try:
        yield standby
    finally:
        standby.kill_blocking()


def standby_at(world: World, lsn: Lsn) -> Path:
    """The directory of a standby that has replayed so far, and was stopped there."""
    data_dir = world.place.copy_cluster(world.origin, "s")
    with stock_standby(world, data_dir) as standby:
        standby.start_blocking()
        wait_for_replay(standby, lsn, deadline_s=CUT_DEADLINE_S)
        with connected(standby) as session:
            session.execute("checkpoint")
        standby.stop_blocking()
    return data_dir


def replay_cpu_s(world: World, data_dir: Path, end: Lsn) -> float:
    """Processor time that a standby needs from its start until it has replayed so far.

    Recovery alone, without a restartpoint: no storage node whose engine is a stock postgres needs
    less than most of it.
    """
    with stock_standby(world, data_dir) as standby:
        standby.start_blocking()
        wait_for_replay(standby, end, deadline_s=CUT_DEADLINE_S)
        return tree_cpu_s(standby.pid)
