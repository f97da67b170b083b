"""What a storage node answers: one function for each method of `methods.py`.

Who may call what is in one table, `serve`; the RPC server admits only its own cluster. A compute
keeps cuts under its own name only, so that none can let go of another one's.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from fabric.ids import NodeName, Role
from fabric.rpc import Call, Peer, Reply
from fabric.rpc_errors import DeniedError, RetryError
from fabric.rpc_server import RpcServer
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages

from .cut import Cut
from .methods import (
    DESCRIBE_CUT,
    LIST_CUTS,
    PART_BYTES_MAX,
    PIN_CUT,
    READ_PAGES,
    STATUS,
    UNPIN_CUT,
    WATCH_CUTS,
    BranchStatus,
    CutSeen,
    CutsListed,
    CutSummary,
    DescribeCut,
    Done,
    ListCuts,
    NodeStatus,
    Nothing,
    PagesRead,
    PinCut,
    RangeStatus,
    ReadPages,
    SkeletonPart,
    UnpinCut,
    WatchCuts,
)
from .page_service import BranchReport, PageService
from .page_store import DamagedError, NoSuchPageError, StoreError
from .read_pool import ReservedPayload

log = structlog.get_logger()

COMPLAINT_CHARACTERS_MAX: Final = 300  # so that the status of 200 branches fits an answer
READERS: Final = frozenset({Role.COMPUTE, Role.STORAGE, Role.ADMIN, Role.OPERATOR})

Reports = Callable[[], Sequence[BranchReport]]


@dataclass(slots=True)
class PageCounters:
    """What was given out so far."""

    pages: int = 0
    bytes: int = 0
    damaged: int = 0  # ranges


class PageHandlers:
    """The methods of one node. `reports` says what the node knows of its branches."""

    def __init__(
        self,
        service: PageService,
        *,
        node: NodeName,
        reports: Reports,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.counters = PageCounters()
        self._service = service
        self._node = node
        self._reports = reports
        self._unix_s = unix_s

    def serve(self, rpc: RpcServer) -> None:
        """Offer everything on an RPC server."""
        rpc.add(DESCRIBE_CUT, self.describe_cut, roles=READERS)
        rpc.add(READ_PAGES, self.read_pages, roles=READERS)
        rpc.add(WATCH_CUTS, self.watch_cuts, roles=READERS)
        rpc.add(LIST_CUTS, self.list_cuts, roles=READERS)
        rpc.add(PIN_CUT, self.pin_cut, roles=READERS)
        rpc.add(UNPIN_CUT, self.unpin_cut, roles=READERS)
        rpc.add(STATUS, self.status, roles=READERS)

    async def describe_cut(self, call: Call, request: DescribeCut) -> Reply[SkeletonPart]:
        """Return a cut and a part of its skeleton."""
        first, last = request.first, request.last
        cut, skeleton, crc = await self._service.skeleton(request.branch, first=first, last=last)
        part = memoryview(skeleton)[request.offset : request.offset + PART_BYTES_MAX]
        ticket = self._service.budget.take(len(part), taker_of(call.peer))
        return Reply(SkeletonPart(cut, len(skeleton), crc), ReservedPayload([part], ticket))

    async def read_pages(self, call: Call, request: ReadPages) -> Reply[PagesRead]:
        """Return pages; one range that is damaged does not spoil the others."""
        ranges = [PageRange(*wanted) for wanted in request.ranges]
        cut, results, ticket = await self._service.read(
            request.branch,
            first=request.first,
            last=request.last,
            ranges=ranges,
            taker=taker_of(call.peer),
        )
        try:
            statuses, buffers = sorted_out(ranges, results)
        except BaseException:
            ticket.release()
            raise
        for error in results:
            if isinstance(
                error, DamagedError
            ):  # a human must look, though the caller need not wait
                log.error("storage.page_damaged", branch=request.branch, error=str(error))
                self.counters.damaged += 1
        size = sum(map(len, buffers))
        self.counters.pages += size // BLOCK_BYTES
        self.counters.bytes += size
        return Reply(PagesRead(cut.lsn, statuses), ReservedPayload(buffers, ticket))

    async def watch_cuts(self, call: Call, request: WatchCuts) -> Reply[CutSeen]:
        """Return a cut that the caller does not know yet, when there is one."""
        del call
        after, wait_ms = request.after, request.wait_ms
        return Reply(
            CutSeen(await self._service.watch(request.branch, after=after, wait_ms=wait_ms))
        )

    async def list_cuts(self, call: Call, request: ListCuts) -> Reply[CutsListed]:
        """Return the next cuts behind a position."""
        del call
        behind = [cut for cut in self._service.cuts(request.branch) if cut.lsn > request.after]
        listed = tuple(behind[: request.count])
        return Reply(CutsListed(listed, is_all=len(listed) == len(behind)))

    async def pin_cut(self, call: Call, request: PinCut) -> Reply[Done]:
        """Keep a cut for somebody."""
        _verify_holder(call, request.holder)
        self._service.pin(request.branch, request.holder, request.lsn, lease_s=request.lease_s)
        return Reply(Done())

    async def unpin_cut(self, call: Call, request: UnpinCut) -> Reply[Done]:
        """Let a cut go."""
        _verify_holder(call, request.holder)
        self._service.unpin(request.branch, request.holder)
        return Reply(Done())

    async def status(self, call: Call, request: Nothing) -> Reply[NodeStatus]:
        """Return all there is to know."""
        del call, request
        branches = tuple(self._branch_status(report) for report in self._reports())
        return Reply(NodeStatus(self._node, branches))

    def _branch_status(self, report: BranchReport) -> BranchStatus:
        cuts = self._service.cuts(report.branch)
        pins = self._service.pinned(report.branch)
        return BranchStatus(
            branch=report.branch,
            state=report.state,
            cuts=len(cuts),
            oldest=self._summary(cuts.oldest),
            newest=self._summary(cuts.newest),
            lag_bytes=report.lag_bytes,
            lag_s=report.lag_s,
            complaint=report.complaint[:COMPLAINT_CHARACTERS_MAX],
            size_bytes=report.size_bytes,
            pins=len(pins),
            oldest_pin=min(pins.values(), default=None),
        )

    def _summary(self, cut: Cut | None) -> CutSummary | None:
        if cut is None:
            return None
        return CutSummary(cut.seq, cut.lsn, max(0.0, self._unix_s() - cut.taken_at_s))


def sorted_out(
    ranges: Sequence[PageRange], results: Sequence[Pages | StoreError]
) -> tuple[tuple[RangeStatus, ...], list[Pages]]:
    """Return a status for each range, and the pages of those that are OK."""
    statuses: list[RangeStatus] = []
    buffers: list[Pages] = []
    for wanted, result in zip(ranges, results, strict=True):
        if isinstance(result, StoreError):
            statuses.append(_status_of(result))
        else:
            assert len(result) == wanted.blocks * BLOCK_BYTES
            statuses.append(RangeStatus.OK)
            buffers.append(result)
    return tuple(statuses), buffers


def _status_of(error: StoreError) -> RangeStatus:
    """Return what the caller can do about one range; raise if the node cannot answer at all."""
    match error:
        case NoSuchPageError():
            return RangeStatus.GONE
        case DamagedError():
            return RangeStatus.DAMAGED
        case _:
            raise RetryError(f"the page store of this node fails: {error}") from error


def taker_of(peer: Peer) -> Hashable:
    """Return whose share a read is of: a certificate's owner, however many connections it has."""
    return peer.address if peer.identity is None else peer.identity


def _verify_holder(call: Call, holder: str) -> None:
    identity = call.peer.identity
    if identity is not None and identity.role is Role.COMPUTE and identity.node != holder:
        raise DeniedError(f"{identity} may keep cuts as {identity.node} only, not as {holder}")
