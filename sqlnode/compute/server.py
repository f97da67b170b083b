"""One life of a compute's data directory: built from the newest cut, served, ended, removed.

    server = Server(context, life, ...)
    await server.start()         # a replica that takes connections
    await server.promote()       # ... a primary
    await server.shut_down()     # in order; `ending()` says how it was
    await server.end()           # killed, whatever it is doing; nothing of it is left

`end` may be called at any time, once. The files go aside, and most become those of the next life.
Faults are answered in this process: a broker over the storage nodes' pages.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from fabric.ids import Epoch
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from log_service.client import LogClient
from sqlnode.broker import Broker
from sqlnode.control_file import (
    CONTROL_FILE,
    ClusterState,
    ControlFile,
    ControlFileError,
    StandbyLimits,
    read_control_file,
    wider,
)
from sqlnode.datadir import (
    ComputeDir,
    DataDirectoryError,
    Expectations,
    build_data_directory,
    control_of,
)
from sqlnode.orphans import end_children, remove_sockets
from sqlnode.page_source import CutDescription, SourceError
from sqlnode.pagefault.block_map import LIBRARY_PATH, BlockMapError, Waits
from sqlnode.postgres import Postgres, PostgresError, Preload, StopMode, request_standby
from sqlnode.postgres_settings import SettingsError
from sqlnode.postmaster import LOCK_FILE, exit_description, parse_postmaster_file
from sqlnode.privileges import Identity, PrivilegeError
from sqlnode.processes import remove_shared_memory, shared_segments
from sqlnode.servers import ServerBinaries
from storage.client import StorageClient
from storage.cut import Cut
from storage.storage_pages import StoragePages
from storage.wal_records import CHECKPOINT_RECORD_BYTES, WalView

from .aside import put_aside, spare_files
from .auxiliary import Keeper, Saved, read_saved
from .cache_keeper import CacheKeeper, bound_of
from .configuration import compute_settings
from .draining import drain
from .patient_pages import PatientPages
from .pins import PinKeeper, pin
from .positions import SQL_FAILURES, Connection, Positions, connect
from .prewarm import Run, blocks_max, used_runs
from .settings import AgentSettings

DESCRIBE_MS: Final = 5_000
START_DEADLINE_S: Final = 300.0  # a tail of gigabytes, or no storage node for a while
PROMOTE_DEADLINE_S: Final = 60.0
SHUTDOWN_DEADLINE_S: Final = 60.0
CHECKPOINT_BEFORE_SHUTDOWN_S: Final = 3.0
WAITS: Final = Waits(reply_ms=10 * 60_000)  # the agent goes on asking; so may a statement

FAILURES: Final = (
    *SQL_FAILURES,
    BlockMapError,
    ControlFileError,
    DataDirectoryError,
    PostgresError,
    PrivilegeError,
    RpcError,
    SettingsError,
    SourceError,
)

EXECUTE_S: Final = 10.0
WARM_AFTER_S: Final = 2.0  # whoever waited for this compute comes first
WARM_BLOCKS: Final = 128
WARM_PAUSE_S: Final = 0.02  # after so many: 50 MB/s, for it is a hint, and others have work to do

log = structlog.get_logger()


class LifeError(Exception):
    """The life cannot go on; the sentence says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What all lives of an agent share."""

    settings: AgentSettings
    binaries: ServerBinaries
    identity: Identity
    log_client: LogClient
    storage_client: StorageClient

    @property
    def run_dir(self) -> Path:
        """Of the agent and its postgres."""
        return Path(self.settings.run_dir)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What a life has to know of those before it."""

    limits: StandbyLimits | None = None
    is_plain: bool = False  # without what ALTER SYSTEM has set: postgres did not start with it


@dataclass(frozen=True, slots=True)
class Ending:
    """How postgres ended: in order, with the end of its WAL (0 of a replica), or not."""

    is_orderly: bool
    end: Lsn
    reason: str


class Server:
    """See the module."""

    def __init__(
        self, context: Context, life: int, lessons: Lessons, *, moved: Callable[[], None],
        doubted: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`moved` is called after each look at the positions; `doubted` when it must not go on."""
        self.life = life
        self.positions: Positions | None = None
        self.pages: StoragePages | None = None
        self.keeper: Keeper | None = None
        self.cache: CacheKeeper | None = None
        self.limits = lessons.limits
        self._context, self._lessons = context, lessons
        self._moved, self._doubted = moved, doubted
        self._paths = ComputeDir(context.run_dir)
        self._patient: PatientPages | None = None
        self._postgres: Postgres | None = None
        self._building: asyncio.Future[ControlFile] | None = None
        self._opening: asyncio.Future[Broker] | None = None
        self.cache_bytes_max = 0  # known once there is a server
        self._tasks: list[asyncio.Task[None]] = []
        self._segments: set[str] = set()
        self._sql: Connection | None = None

    # Facts.

    @property
    def pid(self) -> int:
        """Of the postmaster; 0 if there is none."""
        postgres = self._postgres
        return postgres.pid if postgres is not None and postgres.running else 0

    @property
    def reached(self) -> Lsn:
        """How far the files are at least; 0 while that is not known."""
        return Lsn(0) if self.positions is None else self.positions.reached

    @property
    def is_whole(self) -> bool:
        """Whether the directory is there still; postgres itself looks once a minute."""
        return (self._paths.data / CONTROL_FILE).exists() and self._paths.block_map.exists()

    @property
    def cut_lsn(self) -> Lsn:
        """Of the newest cut that its missing blocks may be read from."""
        return Lsn(0) if self.pages is None else self.pages.cut_lsn

    @property
    def broker(self) -> Broker | None:
        """What gets its blocks, once that is open; not to be touched while this life is ended."""
        opening = self._opening
        if opening is None or not opening.done() or opening.cancelled() or opening.exception():
            return None
        return self._broker

    @property
    def complaint(self) -> str:
        """What holds it up, if anything does."""
        return "" if self._patient is None else self._patient.complaint

    # Verbs.

    async def start(self) -> None:
        """Build the directory of the newest cut, and have postgres serve it as a replica."""
        began_s = time.monotonic()
        try:
            cut, saved = await self._build()
            built_s = time.monotonic()
            await self._serve(saved)
        except FAILURES as error:
            raise LifeError(f"postgres did not start: {error}") from error
        log.info(
            "replica ready", life=self.life, cut=cut.lsn, redo=cut.redo, pid=self.pid,
            built_ms=round((built_s - began_s) * 1000),
            took_ms=round((time.monotonic() - began_s) * 1000),
        )  # fmt: skip

    async def promote(self) -> None:
        """Make it a primary; return when it takes writes."""
        began_s = time.monotonic()
        try:
            await self._running.promote(PROMOTE_DEADLINE_S)
        except FAILURES as error:
            raise LifeError(f"the promotion failed: {error}") from error
        if self.positions is not None:
            self.positions.look_now()
        log.info("promoted", life=self.life, took_ms=round((time.monotonic() - began_s) * 1000))

    async def shut_down(self, *, is_primary: bool) -> None:
        """Shut down in order. A primary writes nearly everything while it still serves; a replica
        waits for statements that run.
        """
        if is_primary:
            with contextlib.suppress(*SQL_FAILURES):
                async with asyncio.timeout(CHECKPOINT_BEFORE_SHUTDOWN_S):
                    await self.checkpoint()
        else:
            await drain(self._running, self._context.settings.drain_ms / 1000)
        try:
            await self._running.stop(StopMode.FAST, SHUTDOWN_DEADLINE_S)
        except PostgresError as error:
            log.warning("postgres did not shut down", life=self.life, reason=str(error))

    async def checkpoint(self) -> None:
        """Have the server make a checkpoint, over a connection of its own."""
        if self._sql is None or self._sql.is_closed():
            self._sql = await connect(self._running)
        await self._sql.execute("checkpoint")

    async def execute(self, sql: str) -> None:
        """Carry out statements, over a connection of their own; raises one of `SQL_FAILURES`.

        The server logs nothing of them: they may be secret, and it quotes those that fail.
        """
        connection = await connect(self._running)
        try:
            await connection.execute("set log_min_messages = panic", timeout=EXECUTE_S)
            await connection.execute(sql, timeout=EXECUTE_S)
        finally:
            connection.terminate()

    async def ending(self) -> Ending:
        """Wait until postgres ends, by whatever cause."""
        status = await self._running.wait_exit()
        reason = f"postgres {exit_description(status)}; its log ends: "
        reason += self._running.last_log_lines()
        try:
            control = read_control_file(self._paths.data)
        except ControlFileError:
            return Ending(False, Lsn(0), reason)
        if status == 0 and control.state is ClusterState.SHUT_DOWN:
            return Ending(True, end_of_checkpoint(control), reason)
        is_orderly = status == 0 and control.state is ClusterState.SHUT_DOWN_IN_RECOVERY
        return Ending(is_orderly, Lsn(0), reason)

    async def save_settings(self, epoch: Epoch) -> None:
        """Save what ALTER SYSTEM has changed, if anything."""
        if self.keeper is not None:
            await self.keeper.save_settings(epoch)

    async def save_prewarm(self, epoch: Epoch) -> None:
        """Save which blocks were read in this life, for the next ones."""
        if self.keeper is not None:
            most = blocks_max(self.cache_bytes_max)
            await self.keeper.save_prewarm(epoch, await used_runs(self._broker.block_map, most))

    async def refresh_settings(self) -> None:
        """Take over what ALTER SYSTEM has set on the primary since this directory was built."""
        saved = await read_saved(self._context.log_client, self._context.settings.branch)
        if self._lessons.is_plain or self.keeper is None or not self._running.running:
            return
        if self.keeper.replace(saved.altered):
            self._running.reload()
            log.info("settings taken over", life=self.life, names=sorted(saved.altered))

    async def end(self) -> None:
        """Kill it, and put its files aside for deletion; what fails is logged."""
        try:
            async with contextlib.AsyncExitStack() as ends:  # the last one first, and all of them
                ends.callback(put_aside, self._paths, self.life)
                # What was begun is waited for, also when whoever began it was cancelled.
                if self._opening is not None:
                    ends.push_async_callback(self._close_broker, self._opening)
                if self._building is not None:
                    ends.push_async_callback(asyncio.wait, [self._building])
                ends.push_async_callback(self._end_processes)
                ends.push_async_callback(self._end_tasks)
                if self._postgres is not None:
                    ends.push_async_callback(self._postgres.kill)
        except FAILURES as error:
            log.error("a life did not end well", life=self.life, reason=str(error))  # noqa: TRY400  # one line will do

    # --- Building and starting ----------------------------------------------------------------

    async def _build(self) -> tuple[Cut, Saved]:
        context = self._context
        settings, client = context.settings, context.storage_client
        saved, described = await asyncio.gather(
            read_saved(context.log_client, settings.branch),
            client.describe(settings.branch, timeout_ms=DESCRIBE_MS),
        )
        cut, description = described
        if self._lessons.is_plain:
            saved = Saved()
        await pin(client, settings.branch, settings.name, cut.lsn)
        building = asyncio.to_thread(self._build_files, description, saved)
        self._building = asyncio.ensure_future(building)
        control = await asyncio.shield(self._building)
        self.limits = wider(control.standby_limits, self._lessons.limits)
        self.pages = StoragePages(client, settings.branch, cut.lsn, position=lambda: self.reached)
        self._patient = PatientPages(self.pages)
        broker = Broker(self._paths, self._patient)
        self._opening = asyncio.ensure_future(broker.__aenter__())
        await asyncio.shield(self._opening)
        return cut, saved

    def _build_files(self, cut: CutDescription, saved: Saved) -> ControlFile:
        """In a thread: make the directory of a cut, and what it gets besides."""
        data_dir, identity = self._paths.data, self._context.identity
        expected = Expectations(server_version=self._context.binaries.version)
        control_of(cut, data_dir, expected)  # before its bytes are changed
        path = str(CONTROL_FILE)
        small_files = {**cut.small_files, path: saved.control(cut.small_files[path])}
        changed = CutDescription(
            files=cut.files, small_files=small_files, directories=cut.directories
        )
        control = build_data_directory(
            changed, self._paths, expected, waits=WAITS,
            spares=spare_files(self._paths.root),
        )  # fmt: skip
        saved.put(data_dir)
        request_standby(data_dir, identity)
        return control

    async def _serve(self, saved: Saved) -> None:
        context = self._context
        assert self.limits is not None, "the directory was built"
        assert self.pages is not None, "the directory was built"
        self._postgres = postgres = Postgres(
            binaries=context.binaries,
            data_dir=self._paths.data,
            run_dir=context.run_dir,
            identity=context.identity,
            settings=compute_settings(
                context.settings, self.limits, run_dir=context.run_dir, altered=saved.altered
            ),
            preload=Preload(
                library=LIBRARY_PATH,
                environment={"SEAWALL_BLOCK_MAP": str(self._paths.block_map)},
                ends_with_parent=True,
            ),
        )
        remove_sockets(context.run_dir)
        await postgres.start(START_DEADLINE_S)
        self._segments = shared_segments(postgres.pid)
        settings = context.settings
        self.keeper = Keeper(context.log_client, settings.branch, self._paths.data)
        self.positions = Positions(postgres, moved=self._moved, paused=self._stuck)
        pins = PinKeeper(
            context.storage_client,
            nodes=len(set(settings.storage_nodes)),
            branch=settings.branch,
            holder=settings.name,
            pages=self.pages,
            reached=lambda: self.reached,
        )
        self._spawn(self.positions.run())
        self._spawn(pins.run())
        self.cache_bytes_max = bound_of(settings.cache_bytes_max, context.run_dir)
        self.cache = CacheKeeper(
            self._broker,
            self.pages,
            postgres,
            bytes_max=self.cache_bytes_max,
            reached=lambda: self.reached,
            hurry_cut=pins.hurry,
        )
        self._spawn(self.cache.run())
        if saved.prewarm:
            self._spawn(self._warm(saved.prewarm))

    async def _warm(self, runs: Sequence[Run]) -> None:
        """Fetch what the last primary has read, behind everything that is asked for."""
        broker = self._broker
        await asyncio.sleep(WARM_AFTER_S)
        began_s, before = time.monotonic(), broker.counters.blocks
        for path, start, blocks in runs:
            for first in range(start, start + blocks, WARM_BLOCKS):
                count = min(WARM_BLOCKS, start + blocks - first)
                await broker.warm(path, first, count)
                await asyncio.sleep(WARM_PAUSE_S * count / WARM_BLOCKS)
        log.info(
            "warmed", life=self.life, runs=len(runs), blocks=broker.counters.blocks - before,
            took_ms=round((time.monotonic() - began_s) * 1000),
        )  # fmt: skip

    @property
    def _broker(self) -> Broker:
        assert self._opening is not None, "the directory was built"
        return self._opening.result()

    def _stuck(self) -> None:
        """Replay waits, because the primary has raised settings: the next life has them, too."""
        with contextlib.suppress(ControlFileError):
            self.limits = wider(read_control_file(self._paths.data).standby_limits, self.limits)
        self._doubted("the primary's settings have grown: the next life has them, too")

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.append(task)
        task.add_done_callback(self._verify)

    def _verify(self, task: "asyncio.Task[None]") -> None:
        """Without one of its tasks a life would never be promoted, or lose its cut."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of a life failed", life=self.life, exc_info=error)
            self._doubted(f"one of its tasks failed: {error!r}")

    @property
    def _running(self) -> Postgres:
        if self._postgres is None:
            raise PostgresError("postgres has not been started")
        return self._postgres

    # --- Ending -------------------------------------------------------------------------------

    async def _end_tasks(self) -> None:
        if self._sql is not None:
            self._sql.terminate()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close_broker(self, opening: "asyncio.Future[Broker]") -> None:
        await asyncio.wait([opening])
        if opening.exception() is None:
            await opening.result().__aexit__()

    async def _end_processes(self) -> None:
        """End the backends of a postmaster that was killed by others, and their shared memory."""
        if self._postgres is None:
            return
        await asyncio.to_thread(end_children)
        with contextlib.suppress(OSError):
            lock = parse_postmaster_file((self._paths.data / LOCK_FILE).read_bytes())
            remove_shared_memory(self._segments, None if lock is None else lock.shared_memory_id)


def end_of_checkpoint(control: ControlFile) -> Lsn:
    """Return where the WAL ends of a server that has shut down: behind its last checkpoint."""
    view = WalView(control.checkpoint, b"", control.wal_segment_bytes)
    return Lsn(view.record_end(control.checkpoint, CHECKPOINT_RECORD_BYTES))
