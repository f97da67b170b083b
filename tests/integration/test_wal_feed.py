"""A stock redo engine is fed from a real log through the feed, stops at gates, follows promotions.

In scope: an engine without any WAL on its disk, the gate at checkpoints, restartpoints, a promotion
while the gate is shut, other leaders, a log that is gone for a while, back-pressure. Out of scope:
answers that a sound log does not give, in tests/unit/storage/test_wal_feed.py; page faults.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import uvloop
from fixtures.log_cluster import BRANCH, CLUSTER, LogWorld, compute_settings
from fixtures.redo import one, restartpoint
from fixtures.waiting import eventually

from fabric.addresses import UnixAddress
from fabric.ids import BranchName, SystemIdentifier
from fabric.lsn import Lsn, Tli, wal_file_name
from log_service.client import LogClient
from log_service.replication_admission import Admission
from log_service.replication_server import ReplicationServer, postgres_socket
from log_service.replication_source import Gate
from sqlnode.control_file import ControlFile, read_control_file
from sqlnode.postgres import Postgres, request_standby
from storage.wal_feed import WalFacts, WalFeed, WalFeedSettings
from storage.wal_scan import CheckpointFound, CheckpointScanner

pytestmark = pytest.mark.postgres

T = TypeVar("T")
DEADLINE_S = 30.0
PORT = 5432


class StorageThread:
    """A feed, its gate, and the server that the engine connects to, in a loop of their own."""

    def __init__(self, world: LogWorld, directory: Path, start: CheckpointFound, **settings: int):
        self.world = world
        self.directory = directory
        self.start = start
        self.settings = WalFeedSettings(**settings)
        self.gate = Gate(start.end)
        self.feed: WalFeed
        self._client: LogClient
        self._server: ReplicationServer
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def open(self) -> None:
        """Begin to pull and to serve."""
        self.directory.mkdir()
        self.directory.chmod(0o755)
        self._thread.start()
        self.run(self._open())

    async def _open(self) -> None:
        nodes = self.world.cluster.nodes.values()
        rng = random.Random(1)
        self._client = LogClient([node.spec.rpc_address for node in nodes], rng=rng)
        control = read_control_file(self.world.primary.data_dir)
        facts = WalFacts(
            system_identifier=SystemIdentifier(control.system_identifier),
            segment_bytes=control.wal_segment_bytes,
            server_version=str(self.world.fleet.binaries.version),
        )
        self.feed = WalFeed(
            self._client,
            BranchName(BRANCH),
            facts,
            start_lsn=self.start.end,
            start_tli=self.start.tli,
            rng=rng,
            settings=self.settings,
        )
        await self.feed.start()
        self._server = ReplicationServer(
            source_of=lambda _: self.feed.source,
            gate_of=lambda _: self.gate,
            admission=Admission(trusts_local=True),
        )
        address = postgres_socket(self.directory, PORT)
        assert isinstance(address, UnixAddress)
        await self._server.listen(address, socket_mode=0o666)

    def close(self) -> None:
        """End everything, and the thread."""
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        await self._server.close()
        await self.feed.close()
        await self._client.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_S)

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function in the loop."""

        async def call() -> T:
            return function(*arguments)

        return self.run(call())

    def next_checkpoint(self) -> CheckpointFound:
        """The one behind the gate, once it is known."""
        assert self.gate.limit is not None
        after = self.gate.limit
        return eventually(
            lambda: self.call(self.feed.next_checkpoint, after), what=f"checkpoint after {after}"
        )

    def positions(self) -> list[Lsn]:
        """What was sent, and what the engine says that it has written, flushed and replayed."""
        found = self._server.standbys()
        return [lsn for s in found for lsn in (s.sent, s.write, s.flush, s.apply)]

    def conninfo(self) -> str:
        """What the engine connects with."""
        return f"host={self.directory} port={PORT} user={CLUSTER}.{BRANCH} application_name=engine"


@contextmanager
def storage_thread(
    world: LogWorld, name: str, start: CheckpointFound, **settings: int
) -> Iterator[StorageThread]:
    thread = StorageThread(world, world.fleet.directory / name, start, **settings)
    thread.open()
    try:
        yield thread
    finally:
        thread.close()


def first_checkpoint(data_dir: Path) -> CheckpointFound:
    """The record with which initdb ended."""
    control: ControlFile = read_control_file(data_dir)
    name = wal_file_name(control.tli, control.checkpoint, control.wal_segment_bytes)
    start = control.checkpoint.segment_start(control.wal_segment_bytes)
    wal = (data_dir / "pg_wal" / name).read_bytes()
    found = CheckpointScanner(control.wal_segment_bytes, start).feed(start, wal)[-1]
    assert found.start == control.checkpoint
    return found


def start_engine(thread: StorageThread, data_dir: Path, name: str) -> Postgres:
    """A standby with nothing in pg_wal: neither segments nor history files."""
    for path in (data_dir / "pg_wal").iterdir():
        if path.is_file():
            path.unlink()
    fleet = thread.world.fleet
    request_standby(data_dir, fleet.identity)
    settings = compute_settings(
        primary_conninfo=thread.conninfo(), restore_command="", wal_retrieve_retry_interval="100ms"
    )
    engine = fleet.server(name, data_dir=data_dir, settings=settings)
    engine.start_blocking()
    return engine


def cut_at_next_checkpoint(thread: StorageThread, engine: Postgres) -> CheckpointFound:
    """What a keeper does: open the gate up to a checkpoint, wait, make a restartpoint."""
    found = thread.next_checkpoint()
    thread.call(thread.gate.move, found.end)
    # Not pg_last_wal_receive_lsn(): when a checkpoint is the last word of its timeline, the engine
    # asks for the next one from the start of the segment, and the function stays there.
    eventually(lambda: thread.call(thread.positions) == [found.end] * 4, what=f"all at {found.end}")
    with psycopg.connect(engine.conninfo(), autocommit=True) as connection:
        assert one(connection, "select pg_last_wal_replay_lsn()::text") == str(found.end)
    restartpoint(engine)
    control = read_control_file(engine.data_dir)
    assert (control.checkpoint, control.redo) == (found.start, found.redo)
    return found


def write_and_checkpoint(server: Postgres, table: str, rows: int = 2000) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(f"create table {table} as select generate_series(1, {rows}) as id")
        connection.execute("checkpoint")


def count(server: Postgres, table: str) -> str:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        return one(connection, f"select count(*) from {table}")


def test_engine_without_wal_stops_behind_each_checkpoint(log_world: LogWorld) -> None:
    data_dir = log_world.fleet.make_cluster("engine")
    first = first_checkpoint(data_dir)
    with storage_thread(log_world, "feed", first) as thread:
        engine = start_engine(thread, data_dir, "engine")
        for round_ in range(3):
            write_and_checkpoint(log_world.primary, f"t{round_}")
        for round_ in range(3):
            cut_at_next_checkpoint(thread, engine)
            assert count(engine, f"t{round_}") == "2000"
            assert count(engine, f"pg_class where relname = 't{round_ + 1}'") == "0"
        thread.call(thread.gate.move, None)
        with psycopg.connect(log_world.primary.conninfo(), autocommit=True) as connection:
            connection.execute("insert into t2 values (0)")
        log_world.assert_equal(log_world.primary, engine)
        assert thread.feed.received == thread.feed.committed


def test_gate_is_held_across_a_promotion_and_new_leaders(log_world: LogWorld) -> None:
    fleet, cluster = log_world.fleet, log_world.cluster
    data_dir = fleet.make_cluster("engine")
    with storage_thread(log_world, "feed", first_checkpoint(data_dir)) as thread:
        engine = start_engine(thread, data_dir, "engine")
        standby = log_world.standby("s")
        write_and_checkpoint(log_world.primary, "t0")
        held = cut_at_next_checkpoint(thread, engine)

        leader = cluster.wait_for_leader()
        write_and_checkpoint(log_world.primary, "t1")
        log_world.transfer(next(name for name in cluster.nodes if name != leader))
        log_world.primary.kill_blocking()
        log_world.promote(standby, holder="s")
        write_and_checkpoint(standby, "t2")
        cluster.nodes[cluster.wait_for_leader()].kill()
        cluster.wait_for_leader()
        write_and_checkpoint(standby, "t3")
        eventually(lambda: thread.feed.source.tli == 2, what="the second timeline")
        with psycopg.connect(engine.conninfo(), autocommit=True) as connection:
            replayed = one(connection, "select pg_last_wal_replay_lsn()::text")
        assert replayed == str(held.end)

        tlis: list[int] = []
        while not tlis or count(engine, "pg_class where relname = 't3'") == "0":
            tlis.append(int(cut_at_next_checkpoint(thread, engine).tli))
        assert tlis == sorted(tlis)
        assert set(tlis) == {1, 2}
        engine.kill_blocking()
        last = Lsn(thread.gate.limit or 0)

    # A storage node that starts from the cut on the second timeline, with nothing but its files.
    control = read_control_file(data_dir)
    assert control.tli == Tli(2)
    cut = CheckpointFound(
        start=control.checkpoint, end=last, redo=control.redo, tli=control.tli, is_shutdown=False
    )
    with storage_thread(log_world, "feed2", cut) as thread:
        engine = start_engine(thread, data_dir, "engine2")
        write_and_checkpoint(standby, "t4")
        cut_at_next_checkpoint(thread, engine)
        thread.call(thread.gate.move, None)
        log_world.assert_equal(standby, engine)


def test_log_that_is_gone_for_a_while_is_waited_for(log_world: LogWorld) -> None:
    data_dir = log_world.fleet.make_cluster("engine")
    first = first_checkpoint(data_dir)
    with storage_thread(log_world, "feed", first, call_timeout_ms=500, poll_ms=200) as thread:
        write_and_checkpoint(log_world.primary, "t0")
        thread.next_checkpoint()
        received = thread.feed.received
        log_world.cluster.stop()
        eventually(lambda: thread.feed.complaint, what="a complaint")
        # What is here is served meanwhile: all but what was from before the feed began.
        assert thread.feed.received == received
        for node in log_world.cluster.nodes.values():
            node.start()
        log_world.cluster.wait_for_leader()
        engine = start_engine(thread, data_dir, "engine")
        cut_at_next_checkpoint(thread, engine)
        eventually(lambda: not thread.feed.complaint, what="the end of the complaint")
        write_and_checkpoint(log_world.primary, "t1")
        cut_at_next_checkpoint(thread, engine)
        assert count(engine, "t1") == "2000"


def test_feed_holds_a_window_and_no_more(log_world: LogWorld) -> None:
    data_dir = log_world.fleet.make_cluster("engine")
    first = first_checkpoint(data_dir)
    limits = {"window_bytes_max": 1 << 20, "read_bytes_max": 256 << 10, "idle_poll_ms": 60_000}
    with storage_thread(log_world, "feed", first, **limits) as thread:
        # With a checkpoint in the window the feed need not look for one.
        write_and_checkpoint(log_world.primary, "t0")
        log_world.fill(16 << 20)
        feed = thread.feed
        end = eventually(
            lambda: feed.committed if feed.committed - first.end > 16 << 20 else None,
            what="the end of the log",
        )
        assert feed.received <= first.end + (1 << 20)
        create_table_of_another(log_world.primary)
        eventually(lambda: feed.committed > end, what="news while it is full")
        assert feed.received <= first.end + (1 << 20)

        engine = start_engine(thread, data_dir, "engine")
        thread.call(thread.gate.move, None)
        log_world.assert_equal(log_world.primary, engine)


def create_table_of_another(server: Postgres) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute("create table another (id int)")
