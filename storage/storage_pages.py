"""Storage nodes as a page source: where the broker of a compute reads from.

    read(ranges) ──► batches, each one request ──► StorageClient.read, side by side ──► joined again

A request carries [S, X]: S is the cut that the data directory was built from, X how far the compute
has replayed or written. A node answers from any of its cuts in between, because a block that is not
on the compute's disk has not been touched since S. Never from a newer one.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fabric.ids import BranchName
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from sqlnode.page_source import CutDescription, PageRange, SourceError
from sqlnode.pagefault.block_map import Pages

from .client import TIMEOUT_MS_DEFAULT, StorageClient
from .methods import BLOCKS_MAX, RANGES_MAX, range_problem

BATCHES_AT_ONCE: Final = 4  # of one read: half of what a node has under way for all
BATCH_HEADER_BYTES_MAX: Final = 96 * 1024  # of the 128 KiB that a request may have
RANGE_OVERHEAD_BYTES: Final = 16  # numbers and framing


class StoragePages:
    """Implements `PageSource` for a compute's broker: pages of one branch.

    `cut_lsn` is S, the cut that the data directory was built from; `position` gives X, how far the
    compute has replayed or written. What it has not touched since S is the same in every cut from S
    to X. A compute that has just started replays from before S, and takes pages of S itself.
    """

    def __init__(
        self,
        client: StorageClient,
        branch: BranchName,
        cut_lsn: Lsn,
        *,
        position: Callable[[], Lsn],
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> None:
        self._client = client
        self._branch = branch
        self._cut_lsn = cut_lsn
        self._position = position
        self._timeout_ms = timeout_ms

    @property
    def cut_lsn(self) -> Lsn:
        """S: no older page is taken."""
        return self._cut_lsn

    def moved_to(self, cut_lsn: Lsn) -> None:
        """Take no older pages from now on: what the compute drops may have been written since."""
        if cut_lsn < self._cut_lsn:
            raise ValueError(f"pages cannot go back from {self._cut_lsn} to {cut_lsn}")
        self._cut_lsn = cut_lsn

    async def describe(self) -> CutDescription:
        """Return the files of the cut at S. Raises `SourceError`."""
        at = self._cut_lsn
        try:
            described = self._client.describe(
                self._branch, first=at, last=at, timeout_ms=self._timeout_ms
            )
            return (await described)[1]
        except RpcError as error:
            raise SourceError(
                f"{self._branch} at {at} cannot be described: {error}; take another cut"
            ) from error

    async def read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        """Return the pages of each range, or why not: one call, or several side by side."""
        first = self._cut_lsn
        last = max(first, self._position())
        if len(ranges) == 1 and ranges[0].blocks <= BLOCKS_MAX and not range_problem(ranges[0]):
            # Nearly always, and a query waits: without what only several batches need.
            return await self._client.read(
                self._branch, first=first, last=last, ranges=ranges, timeout_ms=self._timeout_ms
            )
        turns = asyncio.Semaphore(BATCHES_AT_ONCE)

        async def read_batch(batch: list[Piece]) -> list[Pages | SourceError]:
            wanted = [piece.wanted for piece in batch]
            async with turns:
                return await self._client.read(
                    self._branch, first=first, last=last, ranges=wanted, timeout_ms=self._timeout_ms
                )

        problems = [range_problem(wanted) for wanted in ranges]
        batches = batches_of(
            [r for r, problem in zip(ranges, problems, strict=True) if not problem]
        )
        answers = await asyncio.gather(*map(read_batch, batches))
        found = iter(joined(batches, answers))
        return [SourceError(problem) if problem else next(found) for problem in problems]

    async def close(self) -> None:
        """Nothing: the client is its owner's."""


# --- Batches: pure --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """A range, or a part of one that is larger than a request."""

    index: int  # of the range
    wanted: PageRange


def batches_of(ranges: Sequence[PageRange]) -> list[list[Piece]]:
    """Divide ranges, in order, so that each batch fits one request."""
    batches: list[list[Piece]] = []
    blocks_left = header_bytes_left = 0
    for piece in _pieces(ranges):
        blocks = piece.wanted.blocks
        header_bytes = len(piece.wanted.path) + RANGE_OVERHEAD_BYTES
        is_full = blocks > blocks_left or header_bytes > header_bytes_left
        if is_full or len(batches[-1]) == RANGES_MAX:
            batches.append([])
            blocks_left, header_bytes_left = BLOCKS_MAX, BATCH_HEADER_BYTES_MAX
        batches[-1].append(piece)
        blocks_left -= blocks
        header_bytes_left -= header_bytes
    return batches


def _pieces(ranges: Sequence[PageRange]) -> Iterator[Piece]:
    for index, (path, first, blocks) in enumerate(ranges):
        for start in range(first, first + blocks, BLOCKS_MAX):
            yield Piece(index, PageRange(path, start, min(BLOCKS_MAX, first + blocks - start)))


def joined(
    batches: Sequence[Sequence[Piece]], answers: Sequence[Sequence[Pages | SourceError]]
) -> list[Pages | SourceError]:
    """Return the outcome of each range from those of its pieces: all of the pages, or an error."""
    found: list[list[Pages | SourceError]] = []
    for batch, answer in zip(batches, answers, strict=True):
        for piece, outcome in zip(batch, answer, strict=True):
            if piece.index == len(found):
                found.append([])
            found[piece.index].append(outcome)
    return [_joined_range(outcomes) for outcomes in found]


def _joined_range(outcomes: Sequence[Pages | SourceError]) -> Pages | SourceError:
    if len(outcomes) == 1:
        return outcomes[0]
    parts: list[Pages] = []
    for outcome in outcomes:
        if isinstance(outcome, SourceError):
            return outcome
        parts.append(outcome)
    return b"".join(parts)
