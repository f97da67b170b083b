"""One branch on one node, whatever state it is in: without a cut yet, or kept and served.

no cut ─► copy it from another node, or restore it ─► first cut ─► feed and keeper
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from fabric.ids import BranchName, SystemIdentifier
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from log_service.replication_source import Gate, WalSource
from sqlnode.control_file import CONTROL_FILE, ControlFileError, parse_control_file

from .branch_records import BranchRecord
from .client import StorageClient
from .keeper import Keeper, KeeperContext
from .page_service import BranchReport, PageService
from .page_store import CutGoneError, StoreError
from .redo_plan import Pause
from .seeding import SeedError, copy_branch
from .snapshot_task import SnapshotTask
from .store_source import StoreSource
from .threads import in_thread
from .wal_feed import WalFeed
from .wal_feed_settings import WalFacts

log = structlog.get_logger()

FAILURES: Final = (ControlFileError, RpcError, SeedError, StoreError, TimeoutError)

Restore = Callable[[BranchName], None]
"""Restores a branch from the object store as its first cut; for a thread. SeedError: not now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostContext:
    """What a node gives to its branches."""

    keeper: KeeperContext
    service: PageService
    rng: random.Random
    client_of: Callable[[Sequence[str]], StorageClient]
    restore: Restore | None
    snapshots: Callable[[BranchName], SnapshotTask] | None


class BranchHost:
    """A branch of a node."""

    def __init__(self, record: BranchRecord, context: HostContext) -> None:
        self.record = record
        self.keeper: Keeper | None = None
        self._context = context
        self._complaint = ""
        self._feed: WalFeed | None = None
        self._snapshots: SnapshotTask | None = None
        self._pause = Pause()
        name = f"branch {record.branch}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

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

    def look_elsewhere(self, record: BranchRecord) -> None:
        """Get the first cut from other nodes than was said before; without effect if it is here."""
        self.record = record

    def report(self) -> BranchReport:
        """Say how it is, for a human."""
        keeper, feed = self.keeper, self._feed
        if keeper is None or feed is None:
            state = "rebuilding"
            if self._complaint:
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

    async def unpin(self) -> None:
        """Let the log trim what this node has kept there."""
        if self.keeper is not None:
            await self.keeper.unpin()

    async def close(self) -> None:
        """Stop everything of the branch."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._snapshots is not None:
            await self._snapshots.close()
        if self.keeper is not None:
            await self.keeper.close()
        if self._feed is not None:
            await self._feed.close()

    # --- From nothing to a keeper -------------------------------------------------------------

    async def _run(self) -> None:
        while self.keeper is None:
            try:
                await self._begin()
            except FAILURES as error:
                self._complain(str(error))
                await asyncio.sleep(self._pause.failed())
            except Exception as error:
                # Of our own making. It must not end the branch without a word.
                log.exception("branch_host.bug", branch=self.branch)
                self._complain(repr(error))
                await asyncio.sleep(self._pause.failed())

    async def _begin(self) -> None:
        """Get a first cut if there is none, serve what there is, and begin to keep the branch."""
        store, service = self._context.keeper.store, self._context.service
        if not store.cuts(self.branch):
            await self._seed()
        if not len(service.cuts(self.branch)):
            service.load(self.branch, store.cuts(self.branch))
        await self._keep()
        self._complaint = ""

    async def _seed(self) -> None:
        if self.record.sources:
            client = self._context.client_of(self.record.sources)
            keeper = self._context.keeper
            try:
                cut = await copy_branch(client, keeper.store, self.branch, node=keeper.node)
            finally:
                await client.close()
            log.info("branch copied", branch=self.branch, lsn=str(cut.lsn))
        elif self._context.restore is not None:
            await in_thread(self._context.restore, self.branch)
        else:
            raise SeedError(
                f"{self.branch} has no cut here, and there is neither a node nor an object store "
                "to get one from: adopt it with the address of a storage node that has it"
            )

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
        source = StoreSource(self._context.service.pool, self.branch, cut, fallback=None)
        self.keeper = Keeper(self.branch, context, feed=self._feed, source=source)
        await self._feed.start()
        if self._context.snapshots is not None:
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
