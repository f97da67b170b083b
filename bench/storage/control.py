"""Ask storage nodes, from code that blocks; and make a plain directory of a cut.

with storage_control(nodes, branch="main") as control:
    founded, first_wal = control.found("storage-1")
    control.materialise("storage-1", directory)     # every page of its newest cut
    control.wait_for_cut("storage-1", lsn)
"""

import contextlib
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from bench.loop_thread import LoopThread, loop_thread
from fabric.addresses import parse_address
from fabric.ids import BranchName
from fabric.lsn import Lsn
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import RpcError
from sqlnode.page_source import CutDescription, PageRange, SourceError
from sqlnode.pagefault.block_map import BLOCK_BYTES
from storage.client import StorageClient
from storage.cut import Cut
from storage.methods import BranchStatus
from storage.node_methods import (
    ADOPT_BRANCH,
    FORGET_BRANCH,
    FOUND_CLUSTER,
    AdoptBranch,
    ForgetBranch,
    FoundCluster,
    Founded,
)
from storage.storage_pages import StoragePages

from .nodes import StorageProcess

T = TypeVar("T")

POLL_S: Final = 0.01
WATCH_MS: Final = 2_000  # one long poll; a node that is killed meanwhile ends it
DEADLINE_S: Final = 60.0
CALL_TIMEOUT_MS: Final = 60_000  # initdb, when there is no template yet
RANGE_BLOCKS: Final = 128


class StorageControlError(Exception):
    """A node did not do in time what it should; the text says what it says."""


class StorageControl:
    """Calls to storage nodes, each by itself."""

    def __init__(
        self, nodes: Mapping[str, StorageProcess], branch: str, thread: LoopThread
    ) -> None:
        self._nodes = nodes
        self.branch = BranchName(branch)
        self._thread = thread

    # Orders.

    def found(self, node: str) -> tuple[Founded, bytes]:
        """Make a new cluster; what its log has to know, and its first WAL."""

        async def call(client: RpcClient) -> tuple[Founded, bytes]:
            answer = await client.call(
                FOUND_CLUSTER, FoundCluster(self.branch), timeout_ms=CALL_TIMEOUT_MS
            )
            return answer.response, bytes(answer.payload)

        return self._thread.run(self._with_rpc(node, call))

    def adopt(self, node: str, *, sources: Sequence[str]) -> None:
        """Have a node keep the branch, with a first cut from other nodes."""
        addresses = tuple(self._nodes[source].spec.rpc_address for source in sources)

        async def call(client: RpcClient) -> None:
            await client.call(ADOPT_BRANCH, AdoptBranch(self.branch, addresses))

        self._thread.run(self._with_rpc(node, call))

    def forget(self, node: str) -> None:
        """Have a node delete the branch."""

        async def call(client: RpcClient) -> None:
            await client.call(FORGET_BRANCH, ForgetBranch(self.branch), timeout_ms=CALL_TIMEOUT_MS)

        self._thread.run(self._with_rpc(node, call))

    # Questions.

    def status(self, node: str) -> BranchStatus | None:
        """What a node says of the branch; None if it does not answer or does not have it."""

        async def ask(client: StorageClient) -> BranchStatus | None:
            found = await client.status(self._nodes[node].spec.rpc_address)
            return next((one for one in found.branches if one.branch == self.branch), None)

        try:
            return self._thread.run(self._with_client(node, ask))
        except RpcError:
            return None

    def newest(self, node: str) -> Lsn:
        """The position of a node's newest cut; 0 if it has none."""
        status = self.status(node)
        return Lsn(0) if status is None or status.newest is None else status.newest.lsn

    def wait_for_cut(self, node: str, lsn: Lsn, *, deadline_s: float = DEADLINE_S) -> Lsn:
        """Until a node has a cut at a position or behind it; where that is."""
        end_s = time.monotonic() + deadline_s
        while (newest := self.newest(node)) < lsn:
            if time.monotonic() > end_s:
                raise StorageControlError(
                    f"{node} has no cut at {lsn} within {deadline_s:g} s: {self.status(node)}"
                )
            time.sleep(POLL_S)
        return newest

    def watch_for_cut(self, node: str, lsn: Lsn, *, deadline_s: float) -> Lsn:
        """As `wait_for_cut`, by one connection that the node answers when it has a cut.

        For measuring: looking again and again would be work for the node.
        """
        end_s = time.monotonic() + deadline_s

        async def watch(client: StorageClient) -> Lsn:
            newest = Lsn(0)
            while newest < lsn and time.monotonic() < end_s:
                with contextlib.suppress(RpcError):
                    cut = await client.watch(self.branch, after=newest, wait_ms=WATCH_MS)
                    newest = newest if cut is None else cut.lsn
            return newest

        newest = self._thread.run(self._with_client(node, watch))
        if newest < lsn:
            raise StorageControlError(
                f"{node} has no cut at {lsn} within {deadline_s:g} s: {self.status(node)}"
            )
        return newest

    def describe(self, node: str, at: Lsn | None = None) -> tuple[Cut, CutDescription]:
        """A cut of a node, the newest by default."""
        limits = {} if at is None else {"first": at, "last": at}

        async def ask(client: StorageClient) -> tuple[Cut, CutDescription]:
            return await client.describe(self.branch, **limits)

        return self._thread.run(self._with_client(node, ask))

    def materialise(self, node: str, directory: Path, at: Lsn | None = None) -> Cut:
        """Write a whole cut of a node into a directory: what a data directory would have."""

        async def copy(client: StorageClient) -> Cut:
            return await write_cut(client, self.branch, directory, at)

        return self._thread.run(self._with_client(node, copy))

    async def _with_client(self, node: str, what: Callable[[StorageClient], Awaitable[T]]) -> T:
        address = self._nodes[node].spec.rpc_address
        async with StorageClient([address], rng=_rng()) as client:
            return await what(client)

    async def _with_rpc(self, node: str, what: Callable[[RpcClient], Awaitable[T]]) -> T:
        address = parse_address(self._nodes[node].spec.rpc_address)
        async with RpcClient(address, rng=_rng()) as client:
            return await what(client)


async def write_cut(
    client: StorageClient, branch: BranchName, directory: Path, at: Lsn | None = None
) -> Cut:
    """Write every page of a cut, the newest by default, and its small files into a directory."""
    limits = {} if at is None else {"first": at, "last": at}
    cut, description = await client.describe(branch, **limits)
    pages = StoragePages(client, branch, cut.lsn, position=lambda: cut.lsn)
    make_directories(directory, description)
    for file in description.files:
        await _copy_file(pages, directory / file.path, file.path, file.blocks)
    return cut


def make_directories(directory: Path, description: CutDescription) -> None:
    """Make what a cut has besides its data files."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in description.directories:
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, content in description.small_files.items():
        (directory / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / path).write_bytes(content)


async def _copy_file(pages: StoragePages, target: Path, path: str, blocks: int) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for first in range(0, blocks, RANGE_BLOCKS):
            wanted = PageRange(path, first, min(RANGE_BLOCKS, blocks - first))
            (found,) = await pages.read([wanted])
            if isinstance(found, SourceError):
                raise found
            os.pwrite(descriptor, found, first * BLOCK_BYTES)
    finally:
        os.close(descriptor)


def _rng() -> random.Random:
    return random.Random(secrets.randbits(32))  # noqa: S311  # spreads reconnections


@contextlib.contextmanager
def storage_control(
    nodes: Mapping[str, StorageProcess], *, branch: str
) -> Iterator[StorageControl]:
    """Calls from a thread that ends."""
    with loop_thread("storage control") as thread:
        yield StorageControl(nodes, branch, thread)
