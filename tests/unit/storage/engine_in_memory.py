"""A redo engine without postgres, over a real feed: for the keeper's loop.

It takes WAL as the replication server hands it out, up to the gate, and finds the records of
checkpoints that its test says are real. Its one file has one page, which says where it stands.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from unit.log_service.replication_world import DEADLINE_S
from unit.storage.contract import MAIN, A, changed, new, page, publish
from unit.storage.log_in_memory import FAST, FakeLog, feeding
from unit.storage.memory_store import MemoryStore

from fabric.ids import BranchName, NodeName
from fabric.lsn import Lsn, Tli
from fabric.rpc_errors import RetryError
from sqlnode.control_file import ControlFile, StandbyLimits
from sqlnode.harvest import Harvest
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import Pages
from storage.cut import Cut
from storage.keeper import Keeper
from storage.keeper_context import KeeperContext
from storage.page_store import NewCut, ReadPages, StoreFullError
from storage.redo_engine import (
    EngineError,
    EngineSettings,
    EngineSpec,
    FalseCheckpointError,
    SettingsGrownError,
)
from storage.store_source import StoreSource
from storage.wal_feed import WalFeedSettings
from storage.wal_scan import CheckpointFound

LIMITS = StandbyLimits(
    max_connections=100,
    max_worker_processes=8,
    max_wal_senders=10,
    max_prepared_transactions=0,
    max_locks_per_transaction=64,
)


class PinnedLog(FakeLog):
    """A log that also remembers what is pinned."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.pins: list[Lsn | None] = []
        self.is_pin_refused = False

    async def set_pin(self, branch: BranchName, name: str, lsn: Lsn | None) -> None:
        """As a log node does."""
        assert (branch, name) == (MAIN, "storage.storage-1")
        await asyncio.sleep(0)
        if self.is_pin_refused:
            raise RetryError("nobody leads")
        self.pins.append(lsn)


class Store(MemoryStore):
    """A store that is full as often as it is told."""

    refusals = 0

    def publish(self, branch: BranchName, new: NewCut, read_pages: ReadPages) -> Cut:
        """Store a cut, or refuse."""
        if self.refusals:
            self.refusals -= 1
            raise StoreFullError("no room")
        return super().publish(branch, new, read_pages)


class Source(StoreSource):
    """Where the keeper says that its engine reads; nobody reads here."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut


class MemoryEngine:
    """Implements `Engine`."""

    def __init__(self, world: "KeeperWorld", spec: EngineSpec) -> None:
        self.world = world
        self.spec = spec
        self.replayed = spec.source.cut.lsn
        self.is_taken = self.is_closed = False
        world.engines.append(self)

    async def start(self) -> None:
        """Stand where the newest cut is."""
        assert all(engine.is_closed for engine in self.world.engines[:-1]), "one at a time"
        assert self.spec.gate.limit == self.replayed == self.world.store.cuts(MAIN)[-1].lsn

    async def close(self) -> None:
        """End."""
        self.is_closed = True

    async def replay_to(self, target: CheckpointFound) -> None:
        """Take what comes, unless something is in the way."""
        self.spec.gate.move(target.end)
        self.world.steps.append(target.end)
        self._fail_if_told()
        await self._take(target.end)

    async def replay_ahead(self, upto: Lsn) -> None:
        """As above."""
        self.world.ahead.append(upto)
        self.spec.gate.move(upto)
        self._fail_if_told()
        await self._take(upto)

    def _fail_if_told(self) -> None:
        if self.world.failures:
            self.world.failures -= 1
            raise EngineError("the engine was told to fail")
        wanted = self.world.limits
        if wanted.max_connections > (self.spec.limits or LIMITS).max_connections:
            raise SettingsGrownError(wanted)

    async def _take(self, upto: Lsn) -> None:
        source = self.world.feed.source
        while self.replayed < upto:
            assert upto <= self.world.log.end, "beyond what is committed"
            if self.replayed >= source.committed:
                await asyncio.sleep(0)
                continue
            count = min(upto, source.committed) - self.replayed
            pieces = source.read_now(Tli(1), self.replayed, count)
            pieces = pieces or await source.read(Tli(1), self.replayed, count)
            self.replayed += sum(len(piece) for piece in pieces)

    async def restartpoint(self, target: CheckpointFound) -> ControlFile:
        """Refuse what is no checkpoint."""
        assert self.replayed == target.end, "the engine has passed that checkpoint"
        if target.end in self.world.false:
            raise FalseCheckpointError(f"there is none at {target.end}")
        return cast("ControlFile", Control(target.tli, target.redo))

    def harvest(self) -> Harvest:
        """One page, always the same one."""
        assert not self.is_taken
        self.is_taken = True
        return Harvest(
            files=[changed(A, 1, [0])], removed=[], small_files={}, directories=["base", "base/1"]
        )

    def stored(self) -> None:
        """The harvest is done with."""
        assert self.is_taken
        self.is_taken = False

    not_stored = stored

    def read_pages(self, path: str, first: int, count: int) -> Pages:
        """Say where the engine stands."""
        assert (path, first, count) == (A, 0, 1)
        return bytearray(page(int(self.replayed)))


@dataclass(frozen=True)
class Control:
    """What a keeper reads of a control file."""

    tli: Tli
    redo: Lsn
    checkpoint_time_s: int = 1_700_000_000


@dataclass
class KeeperWorld:
    """A keeper, its log and its store; the test says what goes wrong."""

    log: PinnedLog
    store: Store = field(default_factory=Store)
    engines: list[MemoryEngine] = field(default_factory=list)
    steps: list[Lsn] = field(default_factory=list)  # to which checkpoints engines were sent
    ahead: list[Lsn] = field(default_factory=list)  # and how far without one
    failures: int = 0  # so many more steps of engines fail
    false: set[Lsn] = field(default_factory=set)  # ends of what only looks like a checkpoint
    limits: StandbyLimits = LIMITS  # the primary's
    idle_stop_s: float = 60.0
    cut_published: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def keeping(self, settings: WalFeedSettings = FAST) -> AsyncIterator[Keeper]:
        """Run the keeper over the cut where the log begins."""
        cut = publish(self.store, "first", new(A, 1), lsn=int(self.log.start))
        log: Any = self.log  # of a LogClient a keeper wants the pin alone
        unused: Any = None
        context = KeeperContext(
            node=NodeName("storage-1"),
            store=self.store,
            client=log,
            binaries=unused,
            identity=unused,
            run_dir=Path("run"),
            wal_conninfo=lambda _: "",
            settings=EngineSettings(),
            published=self._published,
            idle_stop_s=self.idle_stop_s,
            full_retry_s=0.01,
            engine_of=lambda spec: MemoryEngine(self, spec),
        )
        async with feeding(self.log, settings=settings) as self.feed:
            keeper = Keeper(MAIN, context, feed=self.feed, source=Source(cut))
            try:
                yield keeper
            finally:
                await keeper.close()
                assert all(engine.is_closed for engine in self.engines)

    def _published(self, branch: BranchName, cut: Cut) -> None:
        assert branch == MAIN
        # The page of a cut is the one that the engine had there, and no later one.
        (pages,) = self.store.read(MAIN, cut.seq, [PageRange(A, 0, 1)])
        assert pages == page(int(cut.lsn))
        self.cut_published.set()

    @property
    def cut_ends(self) -> list[Lsn]:
        """Where cuts were taken."""
        return [cut.lsn for cut in self.store.cuts(MAIN)][1:]

    async def until_cut(self, lsn: Lsn) -> None:
        """Until the newest cut is there."""
        await self.until(lambda: self.cut_ends[-1:] == [lsn], self.cut_published)

    async def until(self, is_so: Callable[[], bool], changed: asyncio.Event | None = None) -> None:
        """Until something is so; without an event, look at every turn of the loop."""
        async with asyncio.timeout(DEADLINE_S):
            while not is_so():
                if changed is None:
                    await asyncio.sleep(0)
                else:
                    await changed.wait()
                    changed.clear()


def with_more_connections(count: int) -> StandbyLimits:
    """The limits of a primary that was given more."""
    return replace(LIMITS, max_connections=count)
