"""The keeper of one branch on one storage node: from the log's WAL to published cuts.

    log ─► WalFeed ─► checkpoint found ─► engine replays up to it ─► harvest ─► PageStore ─► cut

One task, which does one thing after the other. No engine runs while there is nothing to cut: an
idle branch costs a long poll at the log. An engine that fails is discarded and made anew from the
newest cut, after a pause; a store that is full keeps what it has, serves it, and is tried again.

Invariants: cuts ascend; a cut is published whole or not at all; nothing beyond the log's committed
end is ever replayed; WAL that the newest cut still needs is pinned in the log.
"""

import asyncio
import contextlib
import time
from typing import Final

import structlog

from fabric.ids import BranchName
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from log_service.replication_source import Gate
from sqlnode.control_file import ControlFile, StandbyLimits, wider

from .keeper_context import CutTimes, CutTotals, Engine, KeeperContext, KeeperState
from .page_store import NewCut, StoreError, StoreFullError
from .redo_engine import (
    EngineError,
    EngineSpec,
    FalseCheckpointError,
    SettingsGrownError,
)
from .redo_plan import Pause, choose_target, look_ahead_upto, replay_ahead
from .store_source import StoreSource
from .threads import in_thread
from .wal_feed import WalFeed
from .wal_records import PAGE_BYTES
from .wal_scan import CheckpointFound

__all__ = ["Keeper", "KeeperContext", "KeeperState"]

log = structlog.get_logger()

PIN_TIMEOUT_MS: Final = 5_000
PIN_RETRY_S: Final = 5.0  # while nothing else is to be done; else with the next cut


class Keeper:
    """Makes the cuts of a branch that has one already."""

    def __init__(
        self, branch: BranchName, context: KeeperContext, *, feed: WalFeed, source: StoreSource
    ) -> None:
        self.branch = branch
        self.feed = feed
        self.gate = Gate(Lsn(0))
        self.state = KeeperState.WAITING
        self.complaint = ""  # of the last attempt at a cut; a cut ends it
        self.times: CutTimes | None = None
        self.totals = CutTotals()
        self.newest = context.store.cuts(branch)[-1]
        self.source = source
        self._context = context
        self._engine: Engine | None = None
        self._engines_so_far = 0
        self._limits: StandbyLimits | None = None
        self._refused: Lsn = Lsn(0)  # up to here checkpoints are done with, or were none
        self._ahead: Lsn = Lsn(0)  # so far some engine was let go without a checkpoint
        self._pinned = Lsn(0)
        self._pause = Pause()
        self._changed = asyncio.Event()
        self._unsubscribe = feed.subscribe(self._changed.set)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"keeper {branch}")

    @property
    def has_engine(self) -> bool:
        """Whether an engine runs."""
        return self._engine is not None

    @property
    def problem(self) -> str:
        """Why there was no cut at the last attempt, or will be none; else empty."""
        return self.complaint if self.feed.failed is None else str(self.feed.failed)

    @property
    def lag_bytes(self) -> int:
        """Committed WAL that is in no cut yet."""
        return max(0, int(self.feed.committed) - int(self.newest.lsn))

    def lag_s(self, now_s: float) -> float:
        """How old the newest cut is, if there is WAL that it does not have; else 0."""
        return max(0.0, now_s - self.newest.taken_at_s) if self.lag_bytes else 0.0

    async def close(self) -> None:
        """Stop; what was not published is not."""
        self._unsubscribe()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._discard_engine()

    # --- The loop -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._pin()
            step = await self._next_step()
            try:
                if isinstance(step, CheckpointFound):
                    await self._cut(step)
                else:
                    await self._replay_ahead(step)
            except FalseCheckpointError as error:
                log.warning("false checkpoint", branch=self.branch, reason=str(error))
                self._refused = self.gate.limit or self._refused  # the gate is at its end
            except StoreFullError as error:
                self._complain(KeeperState.FULL, str(error))
                await asyncio.sleep(self._context.full_retry_s)
            except SettingsGrownError as error:
                await self._grow(error)
            except (EngineError, StoreError) as error:
                await self._start_over(str(error))
            except Exception as error:
                # Of our own making. It must not end the branch without a word.
                log.exception("keeper.bug", branch=self.branch)
                await self._start_over(repr(error))

    async def _grow(self, error: SettingsGrownError) -> None:
        """Have the next engine take over the primary's settings: that is no failure."""
        limits = wider(error.limits, self._limits)
        if limits == self._limits:  # that engine had them, and waits all the same
            await self._start_over(str(error))
            return
        self._limits = limits
        log.info("redo engine is made anew", branch=self.branch, reason=str(error))
        await self._discard_engine()

    async def _start_over(self, reason: str) -> None:
        self._complain(KeeperState.FAILING, reason)
        await self._discard_engine()
        await asyncio.sleep(self._pause.failed())

    async def _next_step(self) -> CheckpointFound | Lsn:
        """Wait for a checkpoint to cut at, or for much WAL without one; say how far to replay.

        Stop the engine when neither comes for a while. News that bring none do not count: an idle
        branch has some every few seconds.
        """
        now_s = asyncio.get_running_loop().time
        idle_from_s = now_s()
        while True:
            self._changed.clear()
            step = await self._step_at_hand()
            if step is not None:
                return step
            self.state = KeeperState.WAITING
            is_pinned = self._pinned == self.newest.redo
            until_s = idle_from_s + self._context.idle_stop_s if self.has_engine else None
            try:
                async with asyncio.timeout_at(until_s if is_pinned else now_s() + PIN_RETRY_S):
                    await self._changed.wait()
            except TimeoutError:
                if is_pinned:
                    await self._discard_engine()
                else:
                    await self._pin()

    async def _step_at_hand(self) -> CheckpointFound | Lsn | None:
        feed = self.feed
        done = max(self.newest.lsn, self._refused)
        replayed = self.gate.limit if self.has_engine else None
        target = choose_target(feed.checkpoints, newest=done, replayed=replayed)
        if target is None:
            return replay_ahead(
                at=max(done, self._ahead),
                received=feed.received,
                committed=feed.committed,
                window_bytes=feed.settings.window_bytes_max,
            )
        upto = look_ahead_upto(
            target, newest=done, received=feed.received, committed=feed.committed
        )
        if upto is None:
            return target
        # From a page before what was received: there may be a record of which the end is missing.
        after = Lsn(max(target.end, int(feed.received) - PAGE_BYTES))
        return await feed.look_ahead(after=after, upto=upto) or target

    async def _replay_ahead(self, upto: Lsn) -> None:
        """Have the engine replay WAL that has no checkpoint."""
        engine = await self._running_engine()
        self.state = KeeperState.REPLAYING
        await engine.replay_ahead(upto)
        self._ahead = upto

    async def _cut(self, target: CheckpointFound) -> None:
        """Bring the engine to a checkpoint, and publish what it has then."""
        engine = await self._running_engine()
        self.state = KeeperState.REPLAYING
        began_s = time.monotonic()
        await engine.replay_to(target)
        replayed_s = time.monotonic()
        control = await engine.restartpoint(target)
        flushed_s = time.monotonic()
        self.state = KeeperState.STORING
        pages = await self._store(engine, target, control)
        self.times = CutTimes(
            replay_s=replayed_s - began_s,
            restartpoint_s=flushed_s - replayed_s,
            store_s=time.monotonic() - flushed_s,
            pages=pages,
        )
        self.totals.add(self.times)
        self._tell(self.times)
        self._pause.succeeded()
        self.complaint = ""
        self.feed.discard_checkpoints(target.end)

    async def _store(self, engine: Engine, target: CheckpointFound, control: ControlFile) -> int:
        harvest = engine.harvest()
        new = NewCut(
            tli=control.tli,
            lsn=target.end,
            redo=control.redo,
            taken_at_s=float(control.checkpoint_time_s),
            files=harvest.files,
            removed=harvest.removed,
            small_files=harvest.small_files,
            directories=harvest.directories,
        )
        store = self._context.store
        try:
            # Never left behind: the engine's files must stay until the thread has read them.
            cut = await in_thread(store.publish, self.branch, new, engine.read_pages)
        except BaseException:
            engine.not_stored()
            raise
        self.newest = cut
        self.source.move_to(cut)
        self._context.published(self.branch, cut)
        engine.stored()
        return harvest.changed_blocks

    # --- Engines ------------------------------------------------------------------------------

    async def _running_engine(self) -> Engine:
        if self._engine is not None:
            return self._engine
        self.state = KeeperState.STARTING
        context = self._context
        self._engines_so_far += 1
        self.gate.move(self.newest.lsn)
        engine = context.engine_of(
            EngineSpec(
                binaries=context.binaries,
                identity=context.identity,
                run_dir=context.run_dir / f"{self.branch}.{self._engines_so_far}",
                source=self.source,
                wal_conninfo=context.wal_conninfo(self.branch),
                gate=self.gate,
                settings=context.settings,
                limits=self._limits,
            )
        )
        self._engine = engine
        await engine.start()
        return engine

    async def _discard_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    # --- The log ------------------------------------------------------------------------------

    async def _pin(self) -> None:
        """Keep the WAL that the newest cut needs; when it fails, the older pin keeps more."""
        lsn = self.newest.redo
        if lsn != self._pinned and await self._set_pin(lsn):
            self._pinned = lsn

    async def _set_pin(self, lsn: Lsn) -> bool:
        name = f"storage.{self._context.node}"
        try:
            async with asyncio.timeout(PIN_TIMEOUT_MS / 1000):
                await self._context.client.set_pin(self.branch, name, lsn)
        except (RpcError, TimeoutError) as error:
            log.warning("pin of wal is not moved", branch=self.branch, reason=str(error))
            return False
        return True

    def _tell(self, times: CutTimes) -> None:
        log.info(
            "cut published",
            branch=self.branch,
            lsn=str(self.newest.lsn),
            pages=times.pages,
            replay_ms=round(times.replay_s * 1000, 1),
            restartpoint_ms=round(times.restartpoint_s * 1000, 1),
            store_ms=round(times.store_s * 1000, 1),
        )

    def _complain(self, state: KeeperState, reason: str) -> None:
        self.state = state
        if reason != self.complaint:
            self.complaint = reason
            log.error("no cut", branch=self.branch, state=state.value, reason=reason)
