"""A page store that is damaged is made anew, while what is sound in it is served.

    damage is met ─► no new cuts ─► pages.new ◄─ the newest cut of each branch: from this node
                                        │        where it is sound, from others, from snapshots
                                        ▼
    pages ◄─ the node starts again ◄─ pages.ready        what was there before: pages.damaged

RocksDB has no way to mend a block of a table file, and one that is damaged ends all writing as soon
as a compaction meets it. So the whole store is made anew. Nothing is given up for that: until the
new one is complete the old one serves what it can, and it goes only when each branch has had a cut
of its own again. If nobody has what is damaged here, everything stays as it is, and the node says
so.

A store that cannot be opened is put aside at the start of the node, and branches are copied as if
they had just been adopted.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from fabric.ids import BranchName
from fabric.rpc_errors import BadRequestError, RpcError
from log_service.client import LogClient

from .branch_host import BranchHost
from .cut import Cut
from .page_store import PageStore, StoreDamagedError, StoreError
from .rocks_store import RocksStore
from .seeding import CutSources, SeedError
from .threads import in_thread

log = structlog.get_logger()

LOOK_S: Final = 1.0
RETRY_FIRST_S: Final = 15.0
RETRY_MAX_S: Final = 3600.0  # an attempt may read all of the store

PAGES: Final = "pages"
_NEW: Final = "pages.new"
_READY: Final = "pages.ready"
_ASIDE: Final = "pages.damaged"


# --- The directories ------------------------------------------------------------------------------


def open_store(data_dir: Path) -> RocksStore:
    """Open the page store of a node; one that was made anew in its place, or else an empty one.

    StoreBrokenError: it cannot be opened, for a reason that a new one would not mend.
    """
    _take_place(data_dir)
    pages, aside = data_dir / PAGES, data_dir / _ASIDE
    try:
        return RocksStore(pages)
    except StoreDamagedError as error:
        log.error("page store is put aside", reason=str(error), aside=str(aside))  # noqa: TRY400  # one line will do
    if aside.exists():
        shutil.rmtree(pages)  # it was to be what `aside` was: that one has more
    else:
        pages.rename(aside)
    _sync(data_dir)
    return RocksStore(pages)


def _take_place(data_dir: Path) -> None:
    """Put a store that was made anew into its place; can be interrupted anywhere, and repeated."""
    shutil.rmtree(data_dir / _NEW, ignore_errors=True)
    pages, ready, aside = (data_dir / name for name in (PAGES, _READY, _ASIDE))
    if not ready.exists():
        return
    if pages.exists():
        if aside.exists():
            shutil.rmtree(aside)
        pages.rename(aside)
        _sync(data_dir)
    ready.rename(pages)
    _sync(data_dir)
    log.info("page store is in place", was_before=str(aside))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- The task -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HealerContext:
    """What a node gives to its healer."""

    data_dir: Path
    store: RocksStore
    hosts: Mapping[BranchName, BranchHost]
    sources: CutSources
    client: LogClient
    own_address: Callable[[], str]
    rebuilt: Callable[[], None]
    """Called when a new store is ready: the node has to start again."""


class Healer:
    """Looks for damage, and has the page store made anew."""

    def __init__(self, context: HealerContext) -> None:
        self.is_rebuilding = False
        self.reason = ""  # why the last attempt has failed
        self._context = context
        self._failures = 0
        self._task = asyncio.get_running_loop().create_task(self._run(), name="healer")

    @property
    def complaint(self) -> str:
        """What is wrong with the page store; empty if nothing is known to be."""
        damage = self._context.store.damage
        if not damage.count:
            return ""
        text = "the page store is damaged, and is made anew"
        if self.reason:
            text = f"the page store is damaged, and cannot be made anew now: {self.reason}"
        return f"{text} (last met: {damage.newest})"

    async def close(self) -> None:
        """Stop; what was not completed is nothing."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if self._context.store.damage.count:
                    await self._rebuild()
                    self._context.rebuilt()
                    return
                await self._clear()
            except (OSError, RpcError, SeedError, StoreError, TimeoutError) as error:
                self.reason = str(error) or type(error).__name__
                log.error("page store is not made anew", reason=self.reason)  # noqa: TRY400  # one line will do
                await self._pause()
            except Exception as error:
                # Of our own making. It must not end the healer without a word.
                log.exception("healing.bug")
                self.reason = repr(error)
                await self._pause()

    async def _pause(self) -> None:
        wait_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        await asyncio.sleep(wait_s)

    async def _rebuild(self) -> None:
        """Make a store with the newest cut of each branch, ready to take the place of this one."""
        context = self._context
        log.error("page store is made anew", damage=context.store.damage.newest)
        self.is_rebuilding = True  # from here on no branch comes or goes
        hosts = list(context.hosts.values())
        new, ready = context.data_dir / _NEW, context.data_dir / _READY
        try:
            # The newest cuts, and what the log keeps for them, stay as they are meanwhile.
            await asyncio.gather(*(host.hold() for host in hosts))
            await in_thread(shutil.rmtree, new, ignore_errors=True)
            with closing(await in_thread(RocksStore, new)) as store:
                for host in hosts:
                    if context.store.cuts(host.branch):
                        await self._copy(host, store)
            new.rename(ready)
            _sync(context.data_dir)
        except BaseException:
            await in_thread(shutil.rmtree, new, ignore_errors=True)
            for host in hosts:
                host.go_on()
            self.is_rebuilding = False
            raise

    async def _copy(self, host: BranchHost, store: PageStore) -> None:
        branch, own, peers = host.branch, self._context.own_address(), host.peers
        newest = self._context.store.cuts(branch)[-1]
        orders: Sequence[Sequence[str]] = [[own, *peers], [*peers, own]] if peers else [[own]]
        cut = await self._context.sources.fetch(branch, store, orders)
        if cut.lsn < newest.lsn:
            await self._require_wal(branch, cut, newest)

    async def _require_wal(self, branch: BranchName, cut: Cut, newest: Cut) -> None:
        """Never go back to a cut from which the way to the newest one is lost."""
        try:
            await self._context.client.read_wal(branch, tli=cut.tli, lsn=cut.redo, bytes_max=1)
        except BadRequestError as error:
            raise SeedError(
                f"what others have of {branch} is of {cut.lsn}, before {newest.lsn}, and the log "
                f"has no WAL in between any more ({error})"
            ) from error

    async def _clear(self) -> None:
        """Remove what was put aside when each branch has had a cut of its own again."""
        aside = self._context.data_dir / _ASIDE
        if not aside.exists():
            return
        newest = [self._context.store.cuts(branch)[-1:] for branch in self._context.hosts]
        if newest and all(cuts and cuts[0].seq > 1 for cuts in newest):
            await in_thread(shutil.rmtree, aside)
            log.info("what was damaged is removed", path=str(aside))
