"""The two systems that are compared: our log, and what stock high availability gives.

stock   a primary and two synchronous standbys, `ANY 1`, full-page writes and fsync on everywhere:
        what Patroni and CloudNativePG set up. Everything else as PostgreSQL ships it.
ours    a primary with the settings of every compute, and three log nodes. Its disk is a cache, so
        it neither flushes nor logs full pages; the log is the one synchronous standby.

Both get the same data (copies of one directory at rest), shared_buffers, max_wal_size and
checkpoint_timeout, data checksums, and no autovacuum. All replication connections to a primary go
through its Unix socket; log nodes talk TCP to each other. Both sides are up all the time, and one
at a time is loaded.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.pagefault.pgbench import find_pgbench, run_pgbench
from bench.pagefault.workspace import Workspace, connected, one_value
from sqlnode.initdb import InitdbOptions, initdb
from sqlnode.postgres import Postgres, PostgresSettings, request_standby

from .nodes import LogNode

SHARED_BUFFERS: Final = "256MB"
STANDBYS: Final = ("s1", "s2")

# On both sides. 1 GB and 5 min are PostgreSQL's defaults, written down because they decide how many
# full-page images a transaction costs.
EVEN: Final[Mapping[str, str]] = {
    "autovacuum": "off",
    "checkpoint_timeout": "5min",
    "max_connections": "100",
    "max_wal_size": "1GB",
    "shared_buffers": SHARED_BUFFERS,
}

# What every compute has and a stock server does not: back to PostgreSQL's own defaults.
STOCK: Final[Mapping[str, str]] = {
    "effective_io_concurrency": "1",
    "maintenance_io_concurrency": "10",
    "wal_compression": "off",
    "wal_init_zero": "on",
    "wal_recycle": "on",
    "wal_retrieve_retry_interval": "5s",
}


class SideError(Exception):
    """A side does not do what is to be measured; the text says what."""


@dataclass(frozen=True, slots=True)
class Side:
    """One system under load."""

    name: str
    primary: Postgres
    others: tuple[Postgres, ...] = ()
    nodes: tuple[LogNode, ...] = ()

    def pids(self) -> list[int]:
        """The roots of all its processes."""
        servers = [server.pid for server in (self.primary, *self.others)]
        return servers + [node.pid for node in self.nodes]


def make_origin(place: Workspace, *, scale: int) -> Path:
    """A data directory at rest, with pgbench's tables if the scale is not 0."""
    origin = place.new_directory("origin") / "data"
    initdb(place.binaries, origin, identity=place.identity, options=InitdbOptions(sync=False))
    with place.running(origin) as server:
        if scale:
            run_pgbench(
                find_pgbench(place.binaries),
                server,
                "--initialize", "--quiet", f"--scale={scale}",
            )  # fmt: skip
            with connected(server) as session:
                session.execute("vacuum analyze")
    return origin


@contextlib.contextmanager
def stock_side(place: Workspace, origin: Path) -> Iterator[Side]:
    """A stock primary with its standbys, streaming and synchronous."""
    with contextlib.ExitStack() as ends:
        primary = new_server(place, place.copy_cluster(origin, "stock"), is_stock=True)
        ends.callback(primary.kill_blocking)
        primary.start_blocking()
        standbys = []
        for name in STANDBYS:
            conninfo = f"{primary.conninfo()} application_name={name}"
            data_dir = place.copy_cluster(origin, name)
            request_standby(data_dir, place.identity)
            standby = new_server(
                place,
                data_dir,
                is_stock=True,
                primary_conninfo=conninfo,
                hot_standby_feedback="off",
            )
            ends.callback(standby.kill_blocking)
            standby.start_blocking()
            standbys.append(standby)
        synchronous(primary, f"ANY 1 ({', '.join(STANDBYS)})", streams=len(STANDBYS))
        yield Side("stock", primary, tuple(standbys))


def synchronous(primary: Postgres, names: str, *, streams: int) -> None:
    """Have commits wait for whom the setting names, once so many of them stream."""
    wait_for_true(
        primary,
        f"select count(*) = {streams} from pg_stat_replication where state = 'streaming'",  # noqa: S608  # a number
    )
    with connected(primary) as session:
        session.execute(f"alter system set synchronous_standby_names = '{names}'".encode())
        session.execute("select pg_reload_conf()")
    wait_for_true(
        primary,
        f"select count(*) = {streams} from pg_stat_replication"  # noqa: S608  # a number
        " where sync_state in ('sync', 'quorum') and state = 'streaming'",
    )


def wait_for_true(server: Postgres, query: str, *, deadline_s: float = 30.0) -> None:
    """Until a query's answer is true."""
    wait = (
        "do $$ declare give_up timestamptz := clock_timestamp() + {} * interval '1 s'; begin"
        " while not ({}) loop if clock_timestamp() > give_up then raise 'not true in time'; end if;"
        " perform pg_sleep(0.005); perform pg_stat_clear_snapshot(); end loop; end $$"
    )
    with connected(server) as session:
        session.execute(wait.format(deadline_s, query).encode())


def wal_position(server: Postgres) -> int:
    """How many bytes of WAL the server has written in its life."""
    with connected(server) as session:
        value = one_value(session, "select (pg_current_wal_insert_lsn() - '0/0')::bigint")
    assert isinstance(value, int)
    return value


def new_server(place: Workspace, data_dir: Path, *, is_stock: bool, **settings: str) -> Postgres:
    """A server that is not started yet, with the settings of its side."""
    extra = {**EVEN, **(STOCK if is_stock else {}), **settings}
    return Postgres(
        binaries=place.binaries,
        data_dir=data_dir,
        run_dir=data_dir.parent,
        identity=place.identity,
        settings=PostgresSettings(
            fsync=is_stock, full_page_writes=is_stock, restart_after_crash=is_stock, extra=extra
        ),
    )
