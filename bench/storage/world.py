"""A cluster that a storage node founded, for a benchmark: a log, storage nodes, a primary.

    with storage_world(place) as world:
        world.primary                        # a compute by hand, made whole of the first cut
        lsn = world.checkpoint()             # a checkpoint as the last word, and the log has it
        node = world.new_node("storage-2")   # not started; over a copy of a node's directory

There is one log node: how the log replicates is bench.log's, and three would take the cores that
are measured here. Nothing waits for the log to commit; `checkpoint` waits until it has everything.
Nothing happens by itself: no autovacuum, no checkpoint that was not asked for.
"""

import contextlib
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.log.cluster import Cluster
from bench.log.control import LogControl, log_control
from bench.log.nodes import LogNode, NodeSpec
from bench.log.sides import wait_for_true
from bench.node_process import HOST, free_ports
from bench.pagefault.workspace import QUIET, Workspace, connected, one_value
from fabric.lsn import Lsn
from log_service.record_bodies import Genesis
from sqlnode.postgres import Postgres, PostgresSettings
from storage.first_cut import write_first_wal

from .control import StorageControl, storage_control
from .nodes import StorageProcess, StorageSpec

CLUSTER: Final = "bench"
BRANCH: Final = "main"
LOG: Final = "log-1"
STORE: Final = "storage-1"
LOG_DEADLINE_S: Final = 120.0
CUT_DEADLINE_S: Final = 300.0
LOOK_S: Final = 0.01

MAX_CONNECTIONS: Final = "100"  # initdb's, so that a standby over the first cut may start with it

PRIMARY: Final[Mapping[str, str]] = {
    **QUIET,
    "max_connections": MAX_CONNECTIONS,
    "shared_buffers": "256MB",
}

# What initdb makes beside what a cut has.
EMPTY_DIRECTORIES: Final = (
    "pg_commit_ts", "pg_dynshmem", "pg_logical/mappings", "pg_logical/snapshots",
    "pg_multixact/members", "pg_multixact/offsets", "pg_notify", "pg_replslot", "pg_serial",
    "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase",
    "pg_wal/archive_status", "pg_xact",
)  # fmt: skip


@dataclass(slots=True)
class World:
    """What is up; everything ends with the context that made it."""

    place: Workspace
    log_node: LogNode
    log: LogControl
    stores: dict[str, StorageProcess]
    control: StorageControl
    origin: Path  # the first cut as a data directory at rest
    primary: Postgres
    ends: contextlib.ExitStack
    settings: Mapping[str, object] = field(default_factory=dict)  # of every storage node

    @property
    def store(self) -> StorageProcess:
        """The node that founded the cluster."""
        return self.stores[STORE]

    def checkpoint(self) -> Lsn:
        """A checkpoint as the last word of the WAL; its end, once the log has it."""
        with connected(self.primary) as session:
            session.execute("checkpoint")
            lsn = Lsn.parse(str(one_value(session, "select pg_current_wal_flush_lsn()::text")))
        wait_for_true(
            self.primary,
            f"select coalesce(max(flush_lsn), '0/0') >= '{lsn}' from pg_stat_replication",  # noqa: S608  # a position
            deadline_s=LOG_DEADLINE_S,
        )
        return lsn

    def cut(self, node: str = STORE) -> Lsn:
        """Have a node take a cut where the WAL ends; where that is."""
        lsn = self.checkpoint()
        self.wait_for_cut(node, lsn)
        return lsn

    def wait_for_cut(self, node: str, lsn: Lsn) -> None:
        """Until the newest cut of a node is exactly there."""
        newest = self.control.watch_for_cut(node, lsn, deadline_s=CUT_DEADLINE_S)
        if newest != lsn:
            raise WorldError(f"{node} has a cut at {newest}, beyond the checkpoint at {lsn}")

    def wal_bytes(self) -> int:
        """How many bytes of WAL the primary has written in its life."""
        with connected(self.primary) as session:
            value = one_value(session, "select (pg_current_wal_insert_lsn() - '0/0')::bigint")
        assert isinstance(value, int)
        return value

    def new_node(self, name: str, *, copy_of: str | None = None) -> StorageProcess:
        """A storage node that is not started yet: an empty one, or a stopped one's twin."""
        process = _storage_process(
            self.place, name, log_address=self.log_node.spec.rpc_address, settings=self.settings
        )
        if copy_of is not None:
            shutil.copytree(self.stores[copy_of].spec.data_path, process.spec.data_path)
            self.place.identity.give_tree(process.spec.data_path)
        self.stores[name] = process
        self.ends.callback(process.kill)
        return process

    def end_node(self, name: str) -> None:
        """Stop a node, so that its engine ends too, and delete what it had."""
        process = self.stores.pop(name)
        if process.running:
            process.stop()
        shutil.rmtree(process.spec.directory)

    def standby_conninfo(self) -> str:
        """Where a stock standby streams from: the log node."""
        user = f"{CLUSTER}.{BRANCH}"
        return f"host={HOST} port={self.log_node.spec.pg_port} user={user} application_name=s"


class WorldError(Exception):
    """What was measured is not what should have been; the text says what."""


@contextlib.contextmanager
def storage_world(place: Workspace, **settings: object) -> Iterator[World]:
    """Found a cluster on a storage node with these settings, and start its primary."""
    with contextlib.ExitStack() as ends:
        log_node = _log_node(place)
        ends.callback(log_node.kill)
        log_node.start()
        stores: dict[str, StorageProcess] = {}
        log = ends.enter_context(log_control({LOG: log_node}, branch=BRANCH))
        control = ends.enter_context(storage_control(stores, branch=BRANCH))
        store = _storage_process(
            place, STORE, log_address=log_node.spec.rpc_address, settings=settings
        )
        stores[STORE] = store
        ends.callback(_stop_or_kill, stores)
        store.start()
        genesis, first_wal = _founded(control)
        log.begin(genesis)
        Cluster({LOG: log_node}, log).wait_for_leader()
        origin = place.new_directory("origin") / "data"
        control.materialise(STORE, origin)
        for name in EMPTY_DIRECTORIES:
            (origin / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        write_first_wal(genesis, first_wal, origin / "pg_wal")
        primary = _primary(place, origin)
        ends.callback(primary.kill_blocking)
        primary.start_blocking()
        log.grant_epoch(holder="primary", server=primary)
        wait_for_true(primary, "select count(*) = 1 from pg_stat_replication")
        yield World(place, log_node, log, stores, control, origin, primary, ends, settings)


def _stop_or_kill(stores: Mapping[str, StorageProcess]) -> None:
    """A killed node leaves its engine's postgres behind for a moment; a stopped one does not."""
    for process in stores.values():
        if process.running:
            try:
                process.stop()
            finally:
                process.kill()


def _founded(control: StorageControl) -> tuple[Genesis, bytes]:
    founded, first_wal = control.found(STORE)
    genesis = Genesis(
        system_identifier=founded.system_identifier,
        tli=founded.tli,
        start=founded.start,
        segment_bytes=founded.segment_bytes,
        server_version=founded.server_version,
    )
    return genesis, first_wal


def _primary(place: Workspace, origin: Path) -> Postgres:
    data_dir = place.copy_cluster(origin, "p")
    return Postgres(
        binaries=place.binaries,
        data_dir=data_dir,
        run_dir=data_dir.parent,
        identity=place.identity,
        settings=PostgresSettings(extra=PRIMARY),
    )


def _log_node(place: Workspace) -> LogNode:
    rpc_port, pg_port = _ports(2)
    return LogNode(
        NodeSpec(
            name=LOG,
            cluster=CLUSTER,
            directory=place.new_directory("log"),
            rpc_port=rpc_port,
            pg_port=pg_port,
        )
    )


def _storage_process(
    place: Workspace, name: str, *, log_address: str, settings: Mapping[str, object]
) -> StorageProcess:
    (rpc_port,) = _ports(1)
    return StorageProcess(
        StorageSpec(
            name=name,
            cluster=CLUSTER,
            directory=place.new_directory("st"),
            rpc_port=rpc_port,
            log_nodes=[log_address],
            pg_bin=place.binaries.bin_dir,
            settings=settings,
        )
    )


def _ports(count: int) -> list[int]:
    return free_ports(count, random.Random(secrets.randbits(32)))  # noqa: S311  # no secret


def wait_for_replay(server: Postgres, lsn: Lsn, *, deadline_s: float) -> None:
    """Until a standby has replayed so far. Each look is a transaction: none may hold replay up."""
    query = f"select coalesce(pg_last_wal_replay_lsn() >= '{lsn}', false)"
    with connected(server) as session:
        until(
            lambda: one_value(session, query) is True,
            f"replay to {lsn} on {server}",
            deadline_s=deadline_s,
        )


def until(look: Callable[[], bool], what: str, *, deadline_s: float) -> None:
    """Look until it is so."""
    end_s = time.monotonic() + deadline_s
    while not look():
        if time.monotonic() > end_s:
            raise WorldError(f"{what} did not happen within {deadline_s:g} s")
        time.sleep(LOOK_S)
