"""Stock PostgreSQL: alone, and with two synchronous standbys. Nobody restarts it but we.

Without an agent there is no failover: whoever runs one of these starts a server again that died,
which is what `wait_whole` does.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from bench.log.sides import STANDBYS, synchronous
from bench.pagefault.workspace import Workspace
from sqlnode.postgres import Postgres, PostgresError, request_standby

from . import even
from .programs import end_all_in, kill_alone, kill_trees
from .sessions import ask, takes_writes, wait_until_nothing_is_missing
from .target import Address, Blow, TargetError, TargetSettings

START_RETRY_SECONDS: Final = 0.1
POSTGRES_MARK: Final = "postgres"
STREAMING: Final = (
    "select count(*) from pg_stat_replication where state = 'streaming' and sync_state = 'quorum'"
)
SYNCHRONOUS: Final = f"ANY 1 ({', '.join(STANDBYS)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class StockTarget:
    """A server, and its standbys if it has some."""

    name: str
    description: str
    facts: Mapping[str, object]
    primary: Postgres
    direct: Address
    standbys: Sequence[Postgres] = ()
    readers: Sequence[Address] = ()

    @property
    def front(self) -> Address:
        """There is nothing in front of it."""
        return self.direct

    @property
    def pids(self) -> Sequence[int]:
        """The postmasters."""
        return [one.pid for one in (self.primary, *self.standbys) if one.running]

    @property
    def blows(self) -> frozenset[Blow]:
        """There are no agents, and stopping a server for a while tells nothing of it."""
        standby = {Blow.STORAGE_KILLED} if self.standbys else set()
        return frozenset({Blow.POSTGRES_KILLED} | standby)

    def strike(self, blow: Blow) -> None:
        """Kill a postmaster."""
        if blow not in self.blows:
            raise TargetError(f"{self.name} has nothing that {blow} could hit: see its blows")
        if blow is Blow.POSTGRES_KILLED:
            kill_alone(self.primary.pid, POSTGRES_MARK)
        else:
            kill_trees([self.standbys[0].pid])

    def wait_whole(self, *, deadline_seconds: float = 120.0) -> None:
        """Start what does not run; all standbys stream and the primary takes writes."""
        end = time.monotonic() + deadline_seconds
        for server in (self.primary, *self.standbys):
            _start_again(server, end)
        wait_until_nothing_is_missing(
            self.name, self._missing, deadline_seconds=max(1.0, end - time.monotonic())
        )

    def _missing(self) -> str:
        down = [str(one) for one in (self.primary, *self.standbys) if not one.running]
        if down:
            return f"{down[0]} has ended; its log ends: {self.primary.last_log_lines()}"
        return self._not_streaming() or takes_writes(self.direct)

    def _not_streaming(self) -> str:
        if not self.standbys:
            return ""
        try:
            (streaming,) = ask(self.direct, STREAMING)
        except (psycopg.Error, TimeoutError) as error:
            return f"the primary does not answer: {str(error).strip()}"
        if streaming == len(self.standbys):
            return ""
        return f"{streaming} of {len(self.standbys)} standbys stream"


def _start_again(server: Postgres, end: float) -> None:
    """Start a server whose backends may not have noticed yet that it was killed."""
    while not server.running:
        try:
            server.start_blocking()
        except PostgresError:
            if time.monotonic() > end:
                raise
            time.sleep(START_RETRY_SECONDS)


@contextlib.contextmanager
def stock_target(place: Workspace, settings: TargetSettings) -> Iterator[StockTarget]:
    """One server with PostgreSQL's own defaults."""
    password = even.new_password()
    (port,) = even.new_ports(1)
    data_dir = even.new_data_directory(place, "stock", password)
    server = even.new_server(place, data_dir, port, even.even_settings(settings))
    with contextlib.ExitStack() as ends:
        ends.callback(end_all_in, [data_dir])
        ends.callback(server.kill_blocking)
        server.start_blocking()
        yield StockTarget(
            name="stock",
            description=f"PostgreSQL {place.binaries.version} alone, fsync on,"
            f" shared_buffers {settings.shared_buffers}",
            facts=even.facts_of(place, settings),
            primary=server,
            direct=even.address(port, password),
        )


@contextlib.contextmanager
def stock_sync_target(place: Workspace, settings: TargetSettings) -> Iterator[StockTarget]:
    """A primary whose commits wait for one of two standbys."""
    password = even.new_password()
    port, *standby_ports = even.new_ports(1 + len(STANDBYS))
    values = {**even.even_settings(settings), "hot_standby_feedback": "off"}
    origin = even.new_data_directory(place, "sync", password)
    primary = even.new_server(place, origin, port, values)
    with contextlib.ExitStack() as ends:
        ends.callback(end_all_in, [origin])
        ends.callback(primary.kill_blocking)
        # Once before it is copied: no standby starts whose primary had more connections than it.
        primary.start_blocking()
        primary.stop_blocking()
        copies = [place.copy_cluster(origin, name) for name in STANDBYS]
        ends.callback(end_all_in, copies)
        primary.start_blocking()
        standbys = []
        for name, copy, standby_port in zip(STANDBYS, copies, standby_ports, strict=True):
            request_standby(copy, place.identity)
            # By the Unix socket, as in bench/log/sides.py: no password is in any setting.
            conninfo = f"{primary.conninfo()} application_name={name}"
            standby = even.new_server(
                place, copy, standby_port, {**values, "primary_conninfo": conninfo}
            )
            ends.callback(standby.kill_blocking)
            standby.start_blocking()
            standbys.append(standby)
        synchronous(primary, SYNCHRONOUS, streams=len(STANDBYS))
        yield StockTarget(
            name="stock-sync",
            description=f"PostgreSQL {place.binaries.version} with two synchronous standbys"
            f" ({SYNCHRONOUS}), fsync on, shared_buffers {settings.shared_buffers}; no failover",
            facts={
                **even.facts_of(place, settings),
                "synchronous_standby_names": SYNCHRONOUS,
            },
            primary=primary,
            direct=even.address(port, password),
            standbys=standbys,
            readers=[even.address(one, password) for one in standby_ports],
        )
