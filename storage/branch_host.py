"""One branch on one node, whatever state it is in: without a cut yet, or kept and served.

no cut ─► copy it from another node, or restore it ─► first cut ─► feed and keeper
                         ▲                                                │
                         └────── the log lacks WAL behind the newest cut ◄┘

A node that was down for so long that the log has trimmed what it needs gets a newer cut as it got
its first one. The cuts that it has are served meanwhile, and afterwards.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from fabric.ids import BranchName, SystemIdentifier
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from log_service.replication_source import Gate, WalRemovedError, WalSource
from sqlnode.control_file import CONTROL_FILE, ControlFileError, parse_control_file

from .branch_records import BranchRecord
from .cut import Cut
from .keeper import Keeper, KeeperContext
from .page_service import BranchReport, PageService
from .page_store import CutGoneError, StoreError
from .redo_plan import Pause
from .seeding import CutSources, SeedError
from .snapshot_task import SnapshotTask
from .store_source import StoreSource, peer_pages
from .wal_feed import WalFeed
from .wal_feed_settings import WalFacts

if TYPE_CHECKING:
    from .client import StorageClient

log = structlog.get_logger()

FAILURES: Final = (ControlFileError, RpcError, SeedError, StoreError, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostContext:
    """What a node gives to its branches."""

    keeper: KeeperContext
    service: PageService
    rng: random.Random
    sources: CutSources
    peers: Callable[[BranchRecord], Sequence[str]]
    """The other nodes that may have a branch."""

    snapshots: Callable[[BranchName], SnapshotTask] | None


class BranchHost:
    """A branch of a node."""

    def __init__(self, record: BranchRecord, context: HostContext) -> None:
        self.record = record
        self.keeper: Keeper | None = None
        self._context = context
        self._complaint = ""
        self._behind = ""  # why a newer cut than the newest one here is needed
        self._elsewhere: StorageClient | None = None  # the other nodes, for what is damaged here
        self._feed: WalFeed | None = None
        self._snapshots: SnapshotTask | None = None
        self._pause = Pause()
        self._task = self._started()

    @property
    def branch(self) -> BranchName:
        """Its name."""
        return self.record.branch

    @property
    def wal(self) -> WalSource | None:
        """What the redo engine reads."""
        return None if self._feed is None else self._feed.source

    @property
    def gate(self) -> Gate | None:
        """How far the redo engine may read."""
        return None if self.keeper is None else self.keeper.gate

    def kept(self) -> Sequence[Lsn] | None:
        """Return the positions of cuts that the node itself needs; None: not known yet."""
        if self._snapshots is None:
            return ()
        return self._snapshots.kept if self._snapshots.is_base_known else None

    @property
    def problem(self) -> str:
        """Why the branch gets no further here; empty if it does, or is only waiting."""
        return self._complaint if self.keeper is None else self.keeper.problem

    @property
    def peers(self) -> Sequence[str]:
        """The other nodes that may have the branch."""
        return self._context.peers(self.record)

    def look_elsewhere(self, record: BranchRecord) -> None:
        """Get what is not here from other nodes than was said before."""
        self.record = record

    def report(self) -> BranchReport:
        """Say how it is, for a human."""
        keeper, feed = self.keeper, self._feed
        if keeper is None or feed is None:
            state = "rebuilding"
            if self._complaint and not self._behind:
                has_cut = bool(self._context.keeper.store.cuts(self.branch))
                state = "failing" if has_cut else "waiting for a first cut"
            return BranchReport(branch=self.branch, state=state, complaint=self._complaint)
        complaints = [text for text in (keeper.complaint, feed.complaint) if text]
        if self._snapshots is not None and self._snapshots.complaint:
            complaints.append(f"no snapshot: {self._snapshots.complaint}")
        if feed.failed is not None:
            complaints.append(str(feed.failed))
        return BranchReport(
            branch=self.branch,
            state=keeper.state.value,
            lag_bytes=keeper.lag_bytes,
            lag_s=keeper.lag_s(time.time()),
            complaint="; ".join(dict.fromkeys(complaints)),
        )

    async def close(self) -> None:
        """Stop everything of the branch."""
        await self.hold()
        if self._snapshots is not None:
            await self._snapshots.close()

    async def hold(self) -> None:
        """Make no cuts until `go_on`; those that are here are served."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._end_keeper()

    def go_on(self) -> None:
        """Make cuts again."""
        self._behind = self._complaint = ""
        self._task = self._started()

    # --- From nothing to a keeper -------------------------------------------------------------

    def _started(self) -> asyncio.Task[None]:
        name = f"branch {self.record.branch}"
        return asyncio.get_running_loop().create_task(self._run(), name=name)

    async def _run(self) -> None:
        while True:
            try:
                await self._begin()
                self._behind = await self._until_wal_is_gone()
                self._complain(self._behind)
                await self._end_keeper()
            except FAILURES as error:
                self._complain(str(error))
                await asyncio.sleep(self._pause.failed())
            except Exception as error:
                # Of our own making. It must not end the branch without a word.
                log.exception("branch_host.bug", branch=self.branch)
                self._complain(repr(error))
                await asyncio.sleep(self._pause.failed())

    async def _begin(self) -> None:
        """Get a cut if one is missing, serve what there is, and begin to keep the branch."""
        store, service = self._context.keeper.store, self._context.service
        has_cuts = bool(store.cuts(self.branch))
        served = service.cuts(self.branch).newest
        known = store.cuts(self.branch)
        service.load(self.branch, [c for c in known if served is None or c.lsn > served.lsn])
        if not has_cuts or self._behind:
            cut = await self._seed()
            service.published(self.branch, cut)
        self._behind = ""
        await self._keep()
        self._complaint = ""
        self._pause.succeeded()

    async def _seed(self) -> Cut:
        context = self._context
        try:
            return await context.sources.fetch(self.branch, context.keeper.store, [self.peers])
        except SeedError as error:
            if self._behind:
                raise SeedError(f"{self._behind}; and there is none yet: {error}") from error
            raise

    async def _until_wal_is_gone(self) -> str:
        """Wait until the log has no WAL behind the newest cut; return that in a sentence."""
        feed = self._feed
        assert feed is not None, "the branch is kept"
        changed = asyncio.Event()
        unsubscribe = feed.subscribe(changed.set)
        try:
            while not isinstance(feed.failed, WalRemovedError):
                await changed.wait()
                changed.clear()
        finally:
            unsubscribe()
        return str(feed.failed)

    async def _end_keeper(self) -> None:
        keeper, self.keeper = self.keeper, None
        feed, self._feed = self._feed, None
        elsewhere, self._elsewhere = self._elsewhere, None
        if keeper is not None:
            await keeper.close()
        if feed is not None:
            await feed.close()
        if elsewhere is not None:
            await elsewhere.close()

    async def _keep(self) -> None:
        context = self._context.keeper
        cut = context.store.cuts(self.branch)[-1]
        facts = await asyncio.to_thread(self._facts)
        self._feed = WalFeed(
            context.client,
            self.branch,
            facts,
            start_lsn=cut.lsn,
            start_tli=cut.tli,
            rng=self._context.rng,
        )
        fallback = None
        if self.peers:
            self._elsewhere = self._context.sources.client_of(self.peers)
            fallback = peer_pages(self._elsewhere, self.branch)
        source = StoreSource(self._context.service.pool, self.branch, cut, fallback=fallback)
        self.keeper = Keeper(self.branch, context, feed=self._feed, source=source)
        await self._feed.start()
        if self._context.snapshots is not None and self._snapshots is None:
            self._snapshots = self._context.snapshots(self.branch)

    def _facts(self) -> WalFacts:
        """Read off the newest cut what its WAL is like."""
        context = self._context.keeper
        cut = context.store.cuts(self.branch)[-1]
        contents = context.store.contents(self.branch, cut.seq)
        content = contents.small_files.get(str(CONTROL_FILE))
        if content is None:
            raise CutGoneError(f"the cut at {cut.lsn} of {self.branch} has no {CONTROL_FILE}")
        control = parse_control_file(content, Path(self.branch))
        return WalFacts(
            system_identifier=SystemIdentifier(control.system_identifier),
            segment_bytes=control.wal_segment_bytes,
            server_version=str(context.binaries.version),
        )

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            log.warning("branch is not kept yet", branch=self.branch, reason=reason)
