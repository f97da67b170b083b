"""Stock standbys of a replication server: the server in a thread, its source, and the clusters.

The source is the WAL of real primaries, read from their pg_wal up to where a test says that it is
committed. The server runs in a thread of its own under uvloop, as it does in a log node; a test
reaches into it through `Node.call`.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psycopg
import uvloop
from fixtures.servers import Fleet
from unit.log_service.replication_world import GROUP, SourceBase

from fabric.addresses import UnixAddress
from fabric.frames import Buffer
from fabric.ids import SystemIdentifier
from fabric.lsn import Lsn, Tli, history_file_name, parse_wal_file_name, wal_file_name
from log_service.history import parse_history
from log_service.replication_admission import Admission
from log_service.replication_server import ReplicationServer, postgres_socket
from log_service.replication_source import Gate, StandbyStatus
from sqlnode.postgres import Postgres, PostgresSettings, request_standby

T = TypeVar("T")

DEADLINE_S = 30.0
PORT = 5432
QUIET = {
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "4GB",
    "wal_keep_size": "4GB",
    "wal_retrieve_retry_interval": "100ms",
    "wal_receiver_status_interval": "1s",
}


@dataclass(slots=True, eq=False)
class PrimaryWal(SourceBase):
    """The WAL files of the primaries that a branch had, one directory a timeline."""

    directories: dict[Tli, Path] = field(default_factory=dict)

    def load(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer]:
        """Read up to the end of a file, in two pieces."""
        path = self.directories[tli] / wal_file_name(tli, lsn)
        offset = lsn % self.segment_bytes
        with path.open("rb") as file:
            data = os.pread(file.fileno(), min(bytes_max, self.segment_bytes - offset), offset)
        return [data[:1000], data[1000:]] if len(data) > 1000 else [data]


@dataclass(slots=True)
class Node:
    """A replication server in a thread, its source, and the gates by application name."""

    source: PrimaryWal
    directory: Path
    gates: dict[str, Gate] = field(default_factory=dict)
    loop: asyncio.AbstractEventLoop = field(default_factory=uvloop.new_event_loop)
    thread: threading.Thread | None = None
    server: ReplicationServer | None = None

    def start(self) -> None:
        """Listen on a Unix socket that any user may connect to, below a private directory."""
        self.directory.mkdir()
        self.directory.chmod(0o755)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.await_(self._listen())

    async def _listen(self) -> None:
        self.server = ReplicationServer(
            source_of={GROUP: self.source}.get,
            admission=Admission(trusts_local=True),
            gate_of=lambda applicant: self.gates.get(applicant.application_name),
        )
        address = postgres_socket(self.directory, PORT)
        assert isinstance(address, UnixAddress)
        await self.server.listen(address, socket_mode=0o666)

    def restart(self) -> None:
        """Close the server and open another one."""
        assert self.server is not None
        self.await_(self.server.close())
        self.await_(self._listen())

    def await_(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run a coroutine in the server's thread."""
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function in the server's thread."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001  # handed to the caller
                done.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return done.result(DEADLINE_S)

    def stop(self) -> None:
        """End server, thread and loop."""
        assert self.thread is not None
        if self.server is not None:
            self.await_(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def commit(self, lsn: Lsn) -> Lsn:
        """Let readers have WAL up to a position."""
        self.call(self.source.advance, lsn)
        return lsn

    def commit_all(self, primary: Postgres) -> Lsn:
        """Let readers have all that the primary has flushed."""
        return self.commit(flushed(primary))

    def promoted(self, primary: Postgres) -> None:
        """Go on with a promoted server's timeline."""
        name = str(value(primary, "select pg_walfile_name(pg_current_wal_flush_lsn())"))
        tli, _ = parse_wal_file_name(name)
        file = (primary.data_dir / "pg_wal" / history_file_name(tli)).read_bytes()
        self.source.directories[tli] = primary.data_dir / "pg_wal"
        self.call(self.source.promote, tli, file, parse_history(tli, file), flushed(primary))

    def conninfo(self, name: str) -> str:
        """What a standby connects with."""
        return f"host={self.directory} port={PORT} user={GROUP} application_name={name}"

    def standbys(self) -> dict[str, StandbyStatus]:
        """Who streams, by name."""
        assert self.server is not None
        found = self.call(self.server.standbys)
        return {status.application_name: status for status in found}


@dataclass(slots=True)
class Branch:
    """A primary, the node that serves its WAL, and standbys of it."""

    fleet: Fleet
    primary: Postgres
    node: Node

    def standby(self, name: str, data_dir: Path | None = None, **extra: str) -> Postgres:
        """A server that streams from the node, started."""
        upstream = {"primary_conninfo": self.node.conninfo(name)}
        settings = PostgresSettings(extra=QUIET | upstream | extra)
        data_dir = data_dir or self.fleet.make_cluster(name)
        server = self.fleet.server(name, settings=settings, data_dir=data_dir)
        request_standby(data_dir, self.fleet.identity)
        server.start_blocking()
        return server


@contextmanager
def running_branch(fleet: Fleet) -> Iterator[Branch]:
    """Start a primary, and a node that serves its WAL."""
    primary = fleet.server("p", settings=PostgresSettings(extra=QUIET))
    primary.start_blocking()
    identifier = value(primary, "select system_identifier from pg_control_system()")
    source = PrimaryWal(
        committed=flushed(primary),
        system_identifier=SystemIdentifier(int(str(identifier))),
        server_version=str(value(primary, "show server_version")).split()[0],
        directories={Tli(1): primary.data_dir / "pg_wal"},
    )
    node = Node(source, fleet.directory / "node")
    node.start()
    try:
        yield Branch(fleet, primary, node)
    finally:
        node.stop()


def value(server: Postgres, sql: str) -> object:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        row = connection.execute(sql).fetchone()
        assert row is not None
        return row[0]


def execute(server: Postgres, sql: str) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(sql)


def position(server: Postgres, function: str) -> Lsn:
    found = value(server, f"select coalesce({function}(), '0/0')::text")
    return Lsn.parse(str(found))


def flushed(primary: Postgres) -> Lsn:
    return position(primary, "pg_current_wal_flush_lsn")


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a server, which has no way to tell when it gets somewhere."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, "the standby does not get there"
        threading.Event().wait(0.01)


def wait_for_replay(standby: Postgres, lsn: Lsn) -> None:
    wait_until(lambda: position(standby, "pg_last_wal_replay_lsn") >= lsn)


def insert(primary: Postgres, count: int) -> None:
    execute(primary, "create table if not exists t (id bigserial primary key, filler text)")
    execute(
        primary, f"insert into t (filler) select repeat('x', 500) from generate_series(1, {count})"
    )


def digest(server: Postgres) -> object:
    return value(server, "select md5(string_agg(t::text, '' order by id)) from t")


def insert_and_wait(branch: Branch, primary: Postgres, count: int, *standbys: Postgres) -> None:
    insert(primary, count)
    lsn = branch.node.commit_all(primary)
    for standby in standbys:
        wait_for_replay(standby, lsn)
        assert digest(standby) == digest(primary)


def kill_at_end_of_wal(branch: Branch, primary: Postgres) -> None:
    """End a primary so that its last WAL is committed.

    Its background writer logs something every 15 s, so that is stopped before.
    """
    query = "select pid from pg_stat_activity where backend_type = 'background writer'"
    os.kill(int(str(value(primary, query))), signal.SIGSTOP)
    branch.node.commit_all(primary)
    primary.kill_blocking()
