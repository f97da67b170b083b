"""The client of storage nodes: asks one node after the other until one can answer.

    async with StorageClient(addresses, rng=rng, tls=tls) as client:
        cut, description = await client.describe(branch)
        pages = await client.read(branch, first=cut.lsn, last=replayed, ranges=ranges)

A broker gets its pages through `storage_pages.StoragePages`.

Every storage node of a branch has the same cuts sooner or later, so each is as good as another. The
one that answered last is asked first; a node that is unreachable, busy, silent, has no cut in the
range or fails is passed over, and a range that is damaged there is read from the others. What a
node answers is believed only if it lies in the range that was asked for.

Calls are tried until their time is up. Each of them is harmless to repeat.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar
from zlib import crc32

from fabric.addresses import parse_address
from fabric.backoff import full_jitter_ms
from fabric.frames import byte_count
from fabric.ids import BranchName
from fabric.lsn import Lsn
from fabric.rpc import Answer, Method, Q, R, ReceivedPayload
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import (
    CallError,
    DeadlineError,
    FailedError,
    RetryError,
    RpcError,
    UnknownMethodError,
)
from fabric.tls import ClientTls
from sqlnode.page_source import (
    CutDescription,
    DamagedPageError,
    PageRange,
    SourceError,
    SourceUnreachableError,
)
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages

from .cut import Cut
from .methods import (
    DESCRIBE_CUT,
    LSN_FIRST,
    LSN_LAST,
    PIN_CUT,
    READ_PAGES,
    STATUS,
    UNPIN_CUT,
    WAIT_MS_MAX,
    WATCH_CUTS,
    DescribeCut,
    NodeStatus,
    Nothing,
    PagesRead,
    PinCut,
    RangeStatus,
    ReadPages,
    SkeletonError,
    UnpinCut,
    WatchCuts,
    WireRange,
    decode_skeleton,
)

TIMEOUT_MS_DEFAULT: Final = 10_000
ATTEMPT_MS: Final = 2_000  # for one node while there is another
# The largest answer with pages takes 50 ms, and somebody waits for them. A node whose machine has
# just gone does not refuse, it says nothing. So nobody gets long at first, and then twice as long.
READ_ATTEMPT_MS: Final = 250
DESCRIBE_MS_DEFAULT: Final = 60_000
PAUSE_BASE_MS: Final = 20
PAUSE_CAP_MS: Final = 500

T = TypeVar("T")


class StorageClient:
    """Calls to the storage nodes of one cluster. `addresses`: the preferred one first."""

    def __init__(
        self, addresses: Iterable[str], *, rng: random.Random, tls: ClientTls | None = None
    ) -> None:
        self._addresses = tuple(dict.fromkeys(addresses))
        if not self._addresses:
            raise ValueError("a storage client needs the address of a storage node")
        self._rng = rng
        self._tls = tls
        self._clients: dict[str, RpcClient] = {}
        self._good: dict[BranchName, str] = {}  # who answered last

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        while self._clients:
            await self._clients.popitem()[1].close()

    # --- Cuts ---------------------------------------------------------------------------------

    async def describe(
        self,
        branch: BranchName,
        *,
        first: Lsn = LSN_FIRST,
        last: Lsn = LSN_LAST,
        timeout_ms: int = DESCRIBE_MS_DEFAULT,
    ) -> tuple[Cut, CutDescription]:
        """Return the newest cut in a range, as the first node that has one says, and its files."""

        async def attempt(address: str, timeout_ms: int) -> tuple[Cut, CutDescription]:
            request = DescribeCut(branch, first, last)
            return await self._describe_at(address, request, self._deadline(timeout_ms))

        # A skeleton may come in many parts, so one node gets half of the time.
        _, found = await self._from_any(
            branch, attempt, deadline=self._deadline(timeout_ms), attempt_ms=timeout_ms // 2 + 1
        )
        return found

    async def _describe_at(
        self, address: str, request: DescribeCut, deadline: float
    ) -> tuple[Cut, CutDescription]:
        """Put the parts of one node's skeleton together."""
        answer = await self._call(address, DESCRIBE_CUT, request, deadline=deadline)
        whole = answer.response
        _verify_inside(whole.cut.lsn, request.first, request.last)
        skeleton = bytearray(answer.payload)
        while 0 < len(skeleton) < whole.bytes_total and answer.payload:
            rest = DescribeCut(request.branch, whole.cut.lsn, whole.cut.lsn, len(skeleton))
            answer = await self._call(address, DESCRIBE_CUT, rest, deadline=deadline)
            skeleton += answer.payload
        if len(skeleton) != whole.bytes_total or crc32(skeleton) != whole.crc32:
            raise RetryError("the parts of the skeleton do not belong together")
        try:
            return whole.cut, await asyncio.to_thread(decode_skeleton, bytes(skeleton))
        except SkeletonError as error:
            raise FailedError(str(error)) from error

    async def watch(
        self, branch: BranchName, *, after: Lsn, wait_ms: int, timeout_ms: int = TIMEOUT_MS_DEFAULT
    ) -> Cut | None:
        """Return a cut behind `after`, as soon as a node has one; None after `wait_ms`."""
        wait_until = self._deadline(min(wait_ms, WAIT_MS_MAX))

        async def attempt(address: str, timeout_ms: int) -> Cut | None:
            request = WatchCuts(branch, after, max(0, self._left_ms(wait_until)))
            answer = await self._call(
                address, WATCH_CUTS, request, deadline=self._deadline(timeout_ms)
            )
            return answer.response.cut

        deadline = self._deadline(wait_ms + timeout_ms)
        attempt_ms = wait_ms + ATTEMPT_MS
        _, cut = await self._from_any(branch, attempt, deadline=deadline, attempt_ms=attempt_ms)
        return cut

    async def pin(self, branch: BranchName, holder: str, lsn: Lsn, *, lease_s: int) -> int:
        """Keep a cut on every node that can; return on how many. Renew well within the lease.

        A node that cannot be reached gets its pin with the next renewal. Raises RetryError if no
        node keeps the cut.
        """
        outcomes = await self._ask_all(PIN_CUT, PinCut(branch, holder, lsn, lease_s))
        failures = {at: error for at, error in outcomes.items() if isinstance(error, RpcError)}
        if len(failures) == len(outcomes):
            raise RetryError(f"no storage node keeps {branch} at {lsn} ({_listed(failures)})")
        return len(outcomes) - len(failures)

    async def unpin(self, branch: BranchName, holder: str) -> None:
        """Let a cut go on every node that hears it; on the others the lease ends."""
        await self._ask_all(UNPIN_CUT, UnpinCut(branch, holder))

    async def status(self, address: str, *, timeout_ms: int = TIMEOUT_MS_DEFAULT) -> NodeStatus:
        """Return all that one node knows."""
        deadline = self._deadline(timeout_ms)
        return (await self._call(address, STATUS, Nothing(), deadline=deadline)).response

    # --- Pages --------------------------------------------------------------------------------

    async def read(
        self,
        branch: BranchName,
        *,
        first: Lsn,
        last: Lsn,
        ranges: Sequence[PageRange],
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> list[Pages | SourceError]:
        """Return the pages of each range as of cuts in [first, last], or why not; never raises.

        The ranges must fit one request (see `storage_pages.batches_of`).
        """
        deadline = self._deadline(timeout_ms)
        outcomes: list[Pages | SourceError | None] = [None] * len(ranges)
        pending = list(range(len(ranges)))
        unasked = list(self._addresses)

        async def attempt(address: str, timeout_ms: int) -> Answer[PagesRead]:
            wire = tuple(WireRange(*ranges[index]) for index in pending)
            request = ReadPages(branch, first, last, wire)
            attempt_deadline = self._deadline(timeout_ms)
            answer = await self._call(address, READ_PAGES, request, deadline=attempt_deadline)
            _verify_pages(request, answer)
            return answer

        # Invariant: of whoever has answered, every pending range was damaged.
        failure = ""
        while pending and unasked:
            try:
                address, answer = await self._from_any(
                    branch, attempt, deadline=deadline, attempt_ms=READ_ATTEMPT_MS, nodes=unasked
                )
            except RpcError as error:
                failure = str(error)
                break
            unasked.remove(address)
            pending = _take(answer, branch, ranges, outcomes, pending)
        has_answered = len(unasked) < len(self._addresses)
        return [
            _missing(branch, wanted, failure, is_damaged=has_answered) if pages is None else pages
            for wanted, pages in zip(ranges, outcomes, strict=True)
        ]

    # --- Calls --------------------------------------------------------------------------------

    async def _from_any(
        self,
        branch: BranchName,
        attempt: Callable[[str, int], Awaitable[T]],
        *,
        deadline: float,
        attempt_ms: int = ATTEMPT_MS,
        nodes: Sequence[str] | None = None,
    ) -> tuple[str, T]:
        """Try node after node until one succeeds; raise DeadlineError with everybody's reason.

        CallError is raised at once: no other node would think otherwise.
        """
        nodes = self._addresses if nodes is None else nodes
        reasons: dict[str, RpcError] = {}
        patience_ms = attempt_ms
        for failures in itertools.count(1):
            for address in self._in_order(branch, nodes):
                left_ms = self._left_ms(deadline)
                if left_ms <= 0:
                    raise DeadlineError(f"no storage node answered in time ({_listed(reasons)})")
                timeout_ms = left_ms if len(self._addresses) == 1 else min(left_ms, patience_ms)
                try:
                    result = await attempt(address, timeout_ms)
                except RpcError as error:
                    if isinstance(error, CallError) and not isinstance(error, UnknownMethodError):
                        raise
                    reasons[address] = error
                else:
                    self._good[branch] = address
                    return address, result
            await self._pause(deadline, failures)
            patience_ms = max(patience_ms, min(2 * patience_ms, ATTEMPT_MS))
        raise AssertionError("counting has no end")

    def _in_order(self, branch: BranchName, nodes: Sequence[str]) -> list[str]:
        """Whoever answered last, then the others as they were given."""
        good = self._good.get(branch)
        return sorted(nodes, key=lambda address: address != good)  # stable

    async def _ask_all(self, method: Method[Q, R], request: Q) -> dict[str, Answer[R] | RpcError]:
        async def ask(address: str) -> Answer[R] | RpcError:
            try:
                deadline = self._deadline(ATTEMPT_MS)
                return await self._call(address, method, request, deadline=deadline)
            except RpcError as error:
                return error

        outcomes = await asyncio.gather(*map(ask, self._addresses))
        return dict(zip(self._addresses, outcomes, strict=True))

    async def _call(
        self, address: str, method: Method[Q, R], request: Q, *, deadline: float
    ) -> Answer[R]:
        client = self._clients.get(address)
        if client is None:
            client = RpcClient(parse_address(address), rng=self._rng, tls=self._tls)
            self._clients[address] = client
            await client.__aenter__()
        return await client.call(method, request, timeout_ms=max(1, self._left_ms(deadline)))

    def _deadline(self, timeout_ms: int) -> float:
        return asyncio.get_running_loop().time() + timeout_ms / 1000

    def _left_ms(self, deadline: float) -> int:
        return int((deadline - asyncio.get_running_loop().time()) * 1000)

    async def _pause(self, deadline: float, failures: int) -> None:
        wait_ms = full_jitter_ms(
            self._rng, failures=failures, base_ms=PAUSE_BASE_MS, cap_ms=PAUSE_CAP_MS
        )
        await asyncio.sleep(max(0.0, min(wait_ms, self._left_ms(deadline))) / 1000)


# --- Answers: pure --------------------------------------------------------------------------------


def _verify_inside(lsn: Lsn, first: Lsn, last: Lsn) -> None:
    """Never believe a node that gives another cut: a newer one would be the future."""
    if not first <= lsn <= last:
        raise FailedError(f"it answered with a cut at {lsn}, outside of {first} .. {last}")


def _verify_pages(request: ReadPages, answer: Answer[PagesRead]) -> None:
    _verify_inside(answer.response.lsn, request.first, request.last)
    statuses = answer.response.statuses
    if len(statuses) != len(request.ranges):
        raise FailedError(f"it answered {len(statuses)} ranges instead of {len(request.ranges)}")
    pages = zip(request.ranges, statuses, strict=True)
    size = sum(wanted.blocks for wanted, status in pages if status is RangeStatus.OK) * BLOCK_BYTES
    if byte_count(answer.payload) != size:
        raise FailedError(f"it answered {byte_count(answer.payload)} bytes instead of {size}")


def _take(
    answer: Answer[PagesRead],
    branch: BranchName,
    ranges: Sequence[PageRange],
    outcomes: list[Pages | SourceError | None],
    pending: Sequence[int],
) -> list[int]:
    """Put an answer's pages in their places; return what is damaged and has to come elsewhere."""
    damaged = []
    start = 0
    for index, status in zip(pending, answer.response.statuses, strict=True):
        match status:
            case RangeStatus.OK:
                end = start + ranges[index].blocks * BLOCK_BYTES
                outcomes[index] = _part(answer.payload, start, end)
                start = end
            case RangeStatus.GONE:
                outcomes[index] = SourceError(
                    f"{_named(branch, ranges[index])} is not in the cut at {answer.response.lsn}; "
                    "was the file dropped or truncated meanwhile?"
                )
            case RangeStatus.DAMAGED:
                damaged.append(index)
    return damaged


def _part(payload: ReceivedPayload, start: int, end: int) -> Pages:
    return payload if end - start == len(payload) else payload[start:end]


def _missing(
    branch: BranchName, wanted: PageRange, failure: str, *, is_damaged: bool
) -> SourceError:
    name = _named(branch, wanted)
    if not is_damaged:
        reason = failure or "there is no storage node"
        return SourceUnreachableError(f"{name} cannot be had: {reason}")
    if failure:
        return DamagedPageError(f"{name} is damaged, and no other node gives it: {failure}")
    return DamagedPageError(f"{name} is damaged on every storage node; look at their disks")


def _named(branch: BranchName, wanted: PageRange) -> str:
    last = wanted.first + wanted.blocks - 1
    blocks = f"block {last}" if wanted.blocks == 1 else f"blocks {wanted.first} to {last}"
    return f"{wanted.path} {blocks} of {branch}"


def _listed(reasons: dict[str, RpcError]) -> str:
    return "; ".join(f"{address}: {error}" for address, error in reasons.items())
