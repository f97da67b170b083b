"""The redo engine: a stock postgres in recovery whose blocks fault in from this node's own cuts.

    start ─► replay_to(checkpoint) ─► restartpoint ─► harvest ─► stored ─► replay_to(the next) ..
               (replay_ahead before it, any number of times)

It is fed through a gate (replication_source.Gate) that is opened up to the end of a checkpoint
record and no further. A restartpoint there leaves files that are exactly the state at that
position, and the harvest says what of them has changed. The engine is stateless: its directory is
built from a cut in a moment, and thrown away after any doubt; none is ever started twice.

The broker that answers its faults runs in this process: a fault costs no network.

    EngineError            it has failed: discard it and make another one
    SettingsGrownError     as above; the next one needs the settings that it names
    FalseCheckpointError   no checkpoint ends there; go on with the next
"""

import asyncio
import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import structlog

from fabric.lsn import Lsn
from log_service.replication_source import Gate
from sqlnode import orphans
from sqlnode.broker import Broker
from sqlnode.control_file import (
    ControlFile,
    ControlFileError,
    StandbyLimits,
    read_control_file,
    wider,
)
from sqlnode.datadir import ComputeDir, DataDirectoryError, Expectations, build_data_directory
from sqlnode.harvest import Harvest, Harvester
from sqlnode.page_source import SourceError, relation_block
from sqlnode.pagefault.block_map import (
    BLOCK_BYTES,
    LIBRARY_PATH,
    BlockMapError,
    Pages,
    verify_pages,
)
from sqlnode.postgres import Postgres, PostgresError, PostgresSettings, Preload, request_standby
from sqlnode.postgres_settings import SettingsError
from sqlnode.postmaster import LOCK_FILE
from sqlnode.privileges import Identity, PrivilegeError
from sqlnode.servers import ServerBinaries

from .store_source import StoreSource
from .wal_scan import CheckpointFound

log = structlog.get_logger()

POLL_S: Final = 0.002  # between looks at what the engine has replayed; it reports at once
POLL_MAX_S: Final = 0.1
# Far from the end looks are rare: each is a query, and one in 2 ms takes a tenth of a core.
REPLAY_BYTES_A_S_MAX: Final = 500_000_000  # no engine is faster
REPLAYED_SQL: Final = "select pg_last_wal_replay_lsn()::text"
RECEIVED_SQL: Final = "select pg_last_wal_receive_lsn()::text"
STALLED_S: Final = 0.5  # without progress: ask it why; it may have to be made anew
STARVED_LOOKS_MAX: Final = 20  # in a row at which it waits for WAL that it should have had by then
WAITS_SQL: Final = """
    select pg_get_wal_replay_pause_state(), wait_event from pg_stat_activity
     where backend_type = 'startup'
"""
WAITS_FOR_WAL: Final = frozenset({"RecoveryWalStream", "RecoveryRetrieveRetryInterval"})
SQL_TIMEOUT_S: Final = 300.0  # a restartpoint writes everything that is dirty
START_TIMEOUT_S: Final = 120.0  # it replays from R to S before it takes connections
DATABASES: Final = ("template1", "postgres")

FAILURES: Final = (
    BlockMapError,
    ControlFileError,
    DataDirectoryError,
    OSError,
    PostgresError,
    PrivilegeError,
    SettingsError,
    SourceError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)


class EngineError(Exception):
    """The engine has failed; the sentence says how."""


class SettingsGrownError(EngineError):
    """The primary has raised settings that a standby must not undercut, and replay waits."""

    def __init__(self, limits: StandbyLimits) -> None:
        super().__init__("the primary's settings have grown: the next engine takes them over")
        self.limits = limits


class FalseCheckpointError(Exception):
    """There is no checkpoint record that ends where the gate was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine may use."""

    shared_buffers: str = "128MB"
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What an engine is made of."""

    binaries: ServerBinaries
    identity: Identity
    run_dir: Path  # of this engine alone: made and deleted by it
    source: StoreSource
    wal_conninfo: str
    gate: Gate
    settings: EngineSettings
    limits: StandbyLimits | None = None  # what an engine before this one has met


class RedoEngine:
    """One life of an engine: started once, closed once."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._paths = ComputeDir(spec.run_dir)
        self._broker: Broker | None = None
        self._postgres: Postgres | None = None
        self._harvester: Harvester | None = None
        self._sql: asyncpg.Connection | None = None

    async def start(self) -> None:
        """Build the directory of the source's cut, and have postgres replay up to that cut."""
        began_s = time.monotonic()
        try:
            control = await self._build()
            await self._start_postgres(control)
        except FAILURES as error:
            raise EngineError(f"the redo engine did not start: {error}") from error
        log.info(
            "redo engine started",
            directory=str(self._spec.run_dir),
            redo=str(control.redo),
            took_ms=round((time.monotonic() - began_s) * 1000),
        )

    async def close(self) -> None:
        """End it, whatever state it is in, and delete its directory; what fails is logged."""
        if self._sql is not None:
            self._sql.terminate()
        try:
            async with contextlib.AsyncExitStack() as ends:  # the last one first, and all of them
                ends.push_async_callback(
                    asyncio.to_thread, shutil.rmtree, self._spec.run_dir, ignore_errors=True
                )
                if self._broker is not None:
                    ends.push_async_callback(self._broker.__aexit__)
                if self._postgres is not None:
                    ends.push_async_callback(self._postgres.kill)
        except FAILURES as error:
            log.error("redo engine did not end well", reason=str(error))  # noqa: TRY400  # one line will do

    async def replay_to(self, target: CheckpointFound) -> None:
        """Open the gate up to the end of a checkpoint record, and wait until it is replayed."""
        self._spec.gate.move(target.end)
        try:
            await self._until(target.end, REPLAYED_SQL)
        except FAILURES as error:
            raise EngineError(f"the redo engine failed on its way to {target.end}: {error}") from (
                error
            )

    async def replay_ahead(self, upto: Lsn) -> None:
        """Open the gate up to a position with no checkpoint before it; wait until WAL is there.

        What has come is not replayed yet: so the engine always has something to do.
        """
        self._spec.gate.move(upto)
        try:
            await self._until(upto, RECEIVED_SQL)
        except FAILURES as error:
            raise EngineError(f"the redo engine failed on its way to {upto}: {error}") from error

    async def restartpoint(self, target: CheckpointFound) -> ControlFile:
        """Flush everything; the files are then the state at the end of the checkpoint record."""
        try:
            await self._running_sql.execute("CHECKPOINT", timeout=SQL_TIMEOUT_S)
            control = read_control_file(self._paths.data)
        except FAILURES as error:
            raise EngineError(f"the restartpoint at {target.end} failed: {error}") from error
        if control.checkpoint != target.start:
            # CHECKPOINT on a standby succeeds silently, even when it did nothing.
            raise FalseCheckpointError(
                f"the WAL before {target.end} looks like a checkpoint and is none"
            )
        return control

    def harvest(self) -> Harvest:
        """Set aside what has changed since the last cut; `stored` or `not_stored` ends that."""
        assert self._harvester is not None, "it was started"
        try:
            return self._harvester.take()
        except FAILURES as error:
            raise EngineError(f"the redo engine's files cannot be read: {error}") from error

    def stored(self) -> None:
        """Note that storage has the harvest."""
        assert self._harvester is not None, "it was started"
        self._harvester.commit()

    def not_stored(self) -> None:
        """Note that storage does not have it: it comes again."""
        assert self._harvester is not None, "it was started"
        self._harvester.undo()

    def read_pages(self, path: str, first: int, count: int) -> Pages:
        """Return pages as they are on disk, checked; for the thread that stores a harvest."""
        try:
            with open(self._paths.data / path, "rb", buffering=0) as file:
                pages = os.pread(file.fileno(), count * BLOCK_BYTES, first * BLOCK_BYTES)
        except OSError as error:  # or the store would take it for a failure of its own disk
            raise EngineError(f"the redo engine's {path} cannot be read: {error}") from error
        if len(pages) != count * BLOCK_BYTES:
            raise EngineError(f"{path} ends before block {first + count} of its harvest")
        relation = relation_block(path)
        if relation is not None:
            bad = verify_pages(pages, first_block=relation + first)
            if bad is not None:
                raise EngineError(
                    f"the engine wrote {path} block {first + bad} with a bad checksum"
                )
        return pages

    # --- Starting -----------------------------------------------------------------------------

    async def _build(self) -> ControlFile:
        spec = self._spec
        spec.identity.make_directory(spec.run_dir)
        cut = await spec.source.describe()
        expected = Expectations(server_version=spec.binaries.version)
        control = await asyncio.to_thread(
            build_data_directory, cut, self._paths, expected, tracks_changes=True
        )
        request_standby(self._paths.data, spec.identity)
        broker = Broker(self._paths, spec.source)
        await broker.__aenter__()
        self._broker = broker
        self._harvester = Harvester(broker.block_map, self._paths.data)
        return control

    async def _start_postgres(self, control: ControlFile) -> None:
        spec = self._spec
        self._postgres = postgres = Postgres(
            binaries=spec.binaries,
            data_dir=self._paths.data,
            run_dir=spec.run_dir,
            identity=spec.identity,
            settings=_settings(spec, control),
            preload=Preload(
                library=LIBRARY_PATH, environment={"SEAWALL_BLOCK_MAP": str(self._paths.block_map)}
            ),
        )
        await postgres.start(START_TIMEOUT_S)
        self._sql = await self._connect()

    async def _connect(self) -> asyncpg.Connection:
        assert self._postgres is not None, "it was started"
        failure: Exception = EngineError("there is no database to connect to")
        for database in DATABASES:
            try:
                return await asyncpg.connect(
                    host=str(self._spec.run_dir),
                    port=self._postgres.port,
                    user="postgres",
                    database=database,
                    timeout=START_TIMEOUT_S,
                )
            except asyncpg.PostgresError as error:
                failure = error
        raise failure

    @property
    def _running_sql(self) -> asyncpg.Connection:
        if self._sql is None or self._sql.is_closed():
            raise EngineError("the redo engine's connection is gone")
        return self._sql

    # --- Waiting ------------------------------------------------------------------------------

    async def _until(self, end: Lsn, position_sql: str) -> None:
        """Wait for a position; give up when nothing moves and the engine says why not."""
        seen, moved_s, starved = Lsn(0), time.monotonic(), 0
        while True:
            text = await self._running_sql.fetchval(position_sql, timeout=SQL_TIMEOUT_S)
            here = Lsn(0) if text is None else Lsn.parse(text)
            if here >= end:
                return
            now_s = time.monotonic()
            if here != seen:
                seen, moved_s, starved = here, now_s, 0
            elif now_s - moved_s > STALLED_S:
                starved = starved + 1 if await self._is_starved() else 0
                if starved >= STARVED_LOOKS_MAX:
                    raise EngineError(f"it is at {here} and asks for WAL that does not help it")
                moved_s = now_s
            await asyncio.sleep(min(max(POLL_S, (end - here) / REPLAY_BYTES_A_S_MAX), POLL_MAX_S))

    async def _is_starved(self) -> bool:
        """Return whether it waits for WAL; raise if its files are gone, or if it waits for
        settings that the primary has raised.

        Without a directory the receiver of WAL fails again and again, and replay waits for ever.
        """
        control = read_control_file(self._paths.data)
        row = await self._running_sql.fetchrow(WAITS_SQL, timeout=SQL_TIMEOUT_S)
        if row is None:
            return False
        pause_state, event = row
        if pause_state != "not paused":
            raise SettingsGrownError(control.standby_limits)
        return event in WAITS_FOR_WAL


def _settings(spec: EngineSpec, control: ControlFile) -> PostgresSettings:
    """Return the engine's settings: not less than the primary's, and no work of its own accord."""
    limits = wider(control.standby_limits, spec.limits)
    extra = {
        "autovacuum": "off",
        "checkpoint_timeout": "1h",  # restartpoints come when we ask
        "hot_standby_feedback": "off",
        "max_connections": str(max(20, limits.max_connections)),
        "max_locks_per_transaction": str(limits.max_locks_per_transaction),
        "max_prepared_transactions": str(limits.max_prepared_transactions),
        "max_wal_senders": str(limits.max_wal_senders),
        "max_wal_size": "16GB",
        "max_worker_processes": str(limits.max_worker_processes),
        "primary_conninfo": spec.wal_conninfo,
        "shared_buffers": spec.settings.shared_buffers,
        "track_commit_timestamp": "on" if control.track_commit_timestamp else "off",
        "wal_receiver_status_interval": "1s",
        "wal_retrieve_retry_interval": "100ms",
    }
    return PostgresSettings(extra={**extra, **dict(spec.settings.extra)})


def end_orphans(run_dir: Path) -> int:
    """End the engines that a node has left in its run directory when it was killed; how many."""
    return orphans.end_orphans(path.parent for path in run_dir.glob(f"*/data/{LOCK_FILE}"))
