"""Between RPC and the page store: which cut answers a request, and how much is read at once.

    published(branch, cut) ──► CutList ──► newest cut in [S, X] ──► ReadPool (threads) ──► PageStore

Whoever publishes cuts says so here, in the event loop; nothing asks the store which cuts there are.
A page newer than X is never given, because a replica would read the future: X bounds the choice of
the cut, and a cut has nothing behind its own Lsn.

Reads happen in a few threads (`read_pool`). Bytes that are being read, or wait to be sent, are
bounded, in all and for each peer: beyond it a request is refused as busy, and goes elsewhere.

Pins are in memory. Computes renew theirs, so a node that was started again knows all of them after
the longest lease: retention must drop nothing before that.

Not here: what travels how (`handlers`), what retention makes of the pins.
"""

import asyncio
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from fabric.ids import BranchName, CutSeq
from fabric.lsn import Lsn
from fabric.rpc_errors import BadRequestError, BusyError, FailedError, RetryError
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages

from .cut import Cut
from .methods import BLOCKS_MAX, PART_BYTES_MAX, SkeletonError, range_problem
from .page_store import CutGoneError, PageStore, StoreError
from .read_pool import THREADS_DEFAULT, Budget, ReadPool, Ticket

CHOICES_MAX: Final = 3  # of a cut, when retention drops the one that was chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class PageServiceSettings:
    """The limits of one node's page service."""

    threads: int = THREADS_DEFAULT
    """At least 2. More of them read nothing faster: RocksDB's binding keeps the interpreter's lock
    (measured: one thread 620 MB/s, three 570). They are there so that others have their turn."""

    bytes_under_way_max: int = 64 * 1024 * 1024
    """Eight of the largest requests, or 8192 single blocks, that are read or wait to be sent. One
    peer may have half of it."""

    watchers_max: int = 10_000
    """Each costs a task of a few KB; a compute has one."""

    pins_per_branch_max: int = 1000
    """As many computes as a node has connections."""

    skeleton_cache_bytes_max: int = 32 * 1024 * 1024
    """Compressed: a compute fetches a skeleton in parts, and several often start at once."""

    def __post_init__(self) -> None:
        if self.threads < 2:  # noqa: PLR2004  # one for large reads and one for small ones
            raise ValueError("the page service needs 2 threads, one of them for small reads only")
        if self.bytes_under_way_max < max(BLOCKS_MAX * BLOCK_BYTES, PART_BYTES_MAX):
            raise ValueError("bytes_under_way_max must admit the largest request")

    @property
    def bytes_per_peer_max(self) -> int:
        """What one peer may have under way: never all of it, if more than one request fits."""
        return max(self.bytes_under_way_max // 2, BLOCKS_MAX * BLOCK_BYTES, PART_BYTES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchReport:
    """What the node says about a branch for STATUS, besides its cuts, which are known here."""

    branch: BranchName
    state: str
    lag_bytes: int | None = None
    lag_s: float | None = None
    complaint: str = ""
    size_bytes: int = 0


class CutList:
    """The published cuts of one branch. Pure. Invariant: ascending by lsn and by seq."""

    __slots__ = ("_cuts", "_lsns")

    def __init__(self) -> None:
        self._cuts: list[Cut] = []
        self._lsns: list[Lsn] = []

    def __len__(self) -> int:
        return len(self._cuts)

    def __iter__(self) -> Iterator[Cut]:
        return iter(self._cuts)

    def add(self, cut: Cut) -> None:
        """Take a new cut, which has to be the newest."""
        newest = self.newest
        if newest is not None and not (newest.lsn < cut.lsn and newest.seq < cut.seq):
            raise ValueError(
                f"cut {cut.seq} at {cut.lsn} is not newer than the one at {newest.lsn}"
            )
        self._cuts.append(cut)
        self._lsns.append(cut.lsn)

    def drop(self, seqs: Iterable[CutSeq]) -> None:
        """Forget cuts."""
        gone = set(seqs)
        self._cuts = [cut for cut in self._cuts if cut.seq not in gone]
        self._lsns = [cut.lsn for cut in self._cuts]

    def newest_in(self, first: Lsn, last: Lsn) -> Cut | None:
        """Return the newest cut with first <= lsn <= last; there may be thousands of cuts."""
        index = bisect_right(self._lsns, last) - 1
        return self._cuts[index] if index >= 0 and self._lsns[index] >= first else None

    @property
    def oldest(self) -> Cut | None:
        """The oldest cut that is kept."""
        return self._cuts[0] if self._cuts else None

    @property
    def newest(self) -> Cut | None:
        """The newest cut."""
        return self._cuts[-1] if self._cuts else None


class Pins:
    """Which cuts somebody keeps, and until when. Pure: the time is the caller's."""

    def __init__(self, *, per_branch_max: int) -> None:
        self._per_branch_max = per_branch_max
        self._pins: dict[BranchName, dict[str, tuple[Lsn, float]]] = {}

    def set(
        self, branch: BranchName, holder: str, lsn: Lsn, *, now_s: float, until_s: float
    ) -> None:
        """Keep one cut for `holder`, and no other one any more."""
        held = self.held(branch, now_s=now_s)
        if holder not in held and len(held) >= self._per_branch_max:
            raise BusyError(f"{branch} has {len(held)} pins, which is the limit: end some computes")
        self._pins.setdefault(branch, {})[holder] = (lsn, until_s)

    def remove(self, branch: BranchName, holder: str) -> None:
        """Keep nothing for `holder`."""
        self._pins.get(branch, {}).pop(holder, None)

    def held(self, branch: BranchName, *, now_s: float) -> dict[str, Lsn]:
        """Return who keeps which cut; forget the leases that have ended."""
        pins = self._pins.get(branch, {})
        for holder in [holder for holder, (_, until_s) in pins.items() if until_s <= now_s]:
            del pins[holder]
        if not pins:
            self._pins.pop(branch, None)
        return {holder: lsn for holder, (lsn, _) in pins.items()}


class PageService:
    """The published cuts of one node, their pages, and who keeps them.

    All methods belong to the event loop. Close it before the RPC server, so that long polls end.
    """

    def __init__(
        self,
        store: PageStore,
        settings: PageServiceSettings | None = None,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings or PageServiceSettings()
        self.store = store
        self.pool = ReadPool(store, threads=self._settings.threads, monotonic_s=monotonic_s)
        self.budget = Budget(
            self._settings.bytes_under_way_max, share_bytes_max=self._settings.bytes_per_peer_max
        )
        self._monotonic_s = monotonic_s
        self._cuts: dict[BranchName, CutList] = {}
        self._pins = Pins(per_branch_max=self._settings.pins_per_branch_max)
        self._changed: dict[BranchName, asyncio.Event] = {}
        self._watchers = 0
        self._skeletons: OrderedDict[tuple[BranchName, CutSeq], tuple[bytes, int]] = OrderedDict()
        self._skeleton_lock = asyncio.Lock()  # one at a time: they are the largest thing here
        self._is_closing = False

    async def close(self) -> None:
        """Take nothing more, end the long polls, wait for the threads; the store stays open."""
        self._is_closing = True
        for branch in list(self._changed):
            self._wake(branch)
        await self.pool.close()

    # --- What the node tells ------------------------------------------------------------------

    def load(self, branch: BranchName, cuts: Iterable[Cut]) -> None:
        """Take over what the store has of a branch, at the start of the node."""
        for cut in cuts:
            self.published(branch, cut)

    def published(self, branch: BranchName, cut: Cut) -> None:
        """A cut can be read from now on; call it after `PageStore.publish`."""
        self._cuts.setdefault(branch, CutList()).add(cut)
        self._wake(branch)

    def dropped(self, branch: BranchName, seqs: Sequence[CutSeq]) -> None:
        """Cuts must not be chosen any more; call it before `PageStore.drop`."""
        self._cuts[branch].drop(seqs)
        for seq in seqs:
            self._skeletons.pop((branch, seq), None)

    def removed(self, branch: BranchName) -> None:
        """The branch is no longer this node's; call it before `PageStore.remove_branch`."""
        self._cuts.pop(branch, None)
        for key in [key for key in self._skeletons if key[0] == branch]:
            del self._skeletons[key]
        self._wake(branch)

    def pinned(self, branch: BranchName) -> dict[str, Lsn]:
        """Return who keeps which cut: retention must not drop the cuts at these positions."""
        return self._pins.held(branch, now_s=self._monotonic_s())

    def cuts(self, branch: BranchName) -> CutList:
        """Return the cuts of a branch; none for an unknown one."""
        return self._cuts.get(branch) or CutList()

    # --- What is asked ------------------------------------------------------------------------

    def choose(self, branch: BranchName, first: Lsn, last: Lsn) -> Cut:
        """Return the newest cut in a range, or say why another node has to be asked."""
        if first > last:
            raise BadRequestError(f"no cut lies in {first} .. {last}: the first exceeds the last")
        cuts = self._of(branch)
        cut = cuts.newest_in(first, last)
        if cut is not None:
            return cut
        newest = cuts.newest
        if newest is None or newest.lsn < first:
            known = "none" if newest is None else f"up to {newest.lsn}"
            raise RetryError(f"{branch} has no cut in {first} .. {last} yet here, but {known}")
        raise RetryError(f"{branch} has no cut in {first} .. {last} any more here")

    async def read(
        self,
        branch: BranchName,
        *,
        first: Lsn,
        last: Lsn,
        ranges: Sequence[PageRange],
        taker: Hashable = None,
    ) -> tuple[Cut, list[Pages | StoreError], Ticket]:
        """Return the pages of each range as of the newest cut in [first, last], or why not.

        The ticket is for all that was asked; keep it as long as the pages. `taker` is who asks.
        """
        ticket = self.budget.take(verified_blocks(ranges) * BLOCK_BYTES, taker)
        try:
            for _ in range(CHOICES_MAX):
                cut = self.choose(branch, first, last)
                results = await self.pool.read(branch, cut.seq, ranges)
                if not any(isinstance(result, CutGoneError) for result in results):
                    return cut, results, ticket
        except BaseException:
            ticket.release()
            raise
        ticket.release()
        raise RetryError(f"cuts of {branch} are dropped faster than they can be read: ask again")

    async def skeleton(
        self, branch: BranchName, *, first: Lsn, last: Lsn
    ) -> tuple[Cut, bytes, int]:
        """Return the newest cut in a range, its skeleton and that one's CRC."""
        for _ in range(CHOICES_MAX):
            cut = self.choose(branch, first, last)
            try:
                return cut, *await self._skeleton_of(branch, cut)
            except CutGoneError:
                continue
            except StoreError as error:
                raise RetryError(
                    f"the cut at {cut.lsn} cannot be described here: {error}"
                ) from error
            except SkeletonError as error:
                raise FailedError(str(error)) from error
        raise RetryError(f"cuts of {branch} are dropped faster than they can be read: ask again")

    async def watch(self, branch: BranchName, *, after: Lsn, wait_ms: int) -> Cut | None:
        """Return the newest cut behind `after`; None if there is none within `wait_ms`."""
        newest = self._of(branch).newest
        if wait_ms and (newest is None or newest.lsn <= after):
            newest = await self._next_cut(branch, after, wait_ms)
        return newest if newest is not None and newest.lsn > after else None

    def pin(self, branch: BranchName, holder: str, lsn: Lsn, *, lease_s: int) -> None:
        """Keep the cut at `lsn` for a while; refuse if it is gone. It may still have to come."""
        cuts = self._of(branch)
        newest = cuts.newest
        if cuts.newest_in(lsn, lsn) is None and newest is not None and newest.lsn > lsn:
            raise RetryError(f"{branch} has no cut at {lsn} here that could be kept")
        now_s = self._monotonic_s()
        self._pins.set(branch, holder, lsn, now_s=now_s, until_s=now_s + lease_s)

    def unpin(self, branch: BranchName, holder: str) -> None:
        """Keep nothing for `holder`."""
        self._pins.remove(branch, holder)

    # --- Helpers ------------------------------------------------------------------------------

    def _of(self, branch: BranchName) -> CutList:
        if self._is_closing:
            raise BusyError("the node is shutting down: ask another one")
        cuts = self._cuts.get(branch)
        if cuts is None:
            raise RetryError(f"branch {branch} has no cut on this node: ask another one")
        return cuts

    async def _next_cut(self, branch: BranchName, after: Lsn, wait_ms: int) -> Cut | None:
        if self._watchers >= self._settings.watchers_max:
            raise BusyError(f"{self._watchers} wait for cuts here, which is the limit")
        self._watchers += 1
        try:
            async with asyncio.timeout(wait_ms / 1000):
                while True:
                    await self._changed.setdefault(branch, asyncio.Event()).wait()
                    newest = self._of(branch).newest
                    if newest is not None and newest.lsn > after:
                        return newest
        except TimeoutError:
            return None
        finally:
            self._watchers -= 1

    def _wake(self, branch: BranchName) -> None:
        changed = self._changed.pop(branch, None)
        if changed is not None:
            changed.set()

    async def _skeleton_of(self, branch: BranchName, cut: Cut) -> tuple[bytes, int]:
        key = (branch, cut.seq)
        async with self._skeleton_lock:  # who asks for the same one meanwhile finds it made
            found = self._skeletons.get(key)
            if found is None:
                data = await self.pool.skeleton(branch, cut.seq)
                found = self._skeletons[key] = (data, crc32(data))
            self._skeletons.move_to_end(key)
            kept_bytes = sum(len(data) for data, _ in self._skeletons.values())
            while len(self._skeletons) > 1 and kept_bytes > self._settings.skeleton_cache_bytes_max:
                kept_bytes -= len(self._skeletons.popitem(last=False)[1][0])
        return found


def verified_blocks(ranges: Sequence[PageRange]) -> int:
    """Return how many blocks are asked for; refuse what no data file has, or too much."""
    total = 0
    for wanted in ranges:
        problem = range_problem(wanted)
        if problem:
            raise BadRequestError(problem)
        total += wanted.blocks
    if total > BLOCKS_MAX:
        raise BadRequestError(f"{total} blocks are more than {BLOCKS_MAX}: split the request")
    return total
