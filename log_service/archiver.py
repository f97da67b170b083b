"""The archive task of a leader: committed WAL goes to the object store, then old WAL may go.

One task for as long as this node leads a branch. It asks the plan (archive_plan.py) what is due,
uploads in a thread, and proposes to trim what is archived, older than anybody needs, and beyond
what is kept at hand. Every node trims its own log when it has applied a TRIM (`Trimmer`).
"""

import asyncio
from typing import Final

import structlog

from fabric.lsn import Lsn, Tli
from object_store.interface import ObjectStore, ObjectStoreError
from raft.errors import RaftError

from .archive import ArchiveConflictError, archived_upto, upload
from .archive_plan import ArchiveLayout, ArchiveState, plan_archive
from .branch import FenceError
from .disk_errors import LogError
from .disk_writer import DiskWriter
from .group import Group
from .record_bodies import Trim
from .replication_source import WalRemovedError
from .wal_source import GroupWal

log = structlog.get_logger()

LOOK_AGAIN_MS: Final = 1_000
RETRY_MS: Final = 2_000


class Archiver:
    """Archives one branch while this node leads it."""

    def __init__(
        self,
        group: Group,
        wal: GroupWal,
        layout: ArchiveLayout,
        *,
        store: ObjectStore,
        threads: DiskWriter,
    ) -> None:
        self._group = group
        self._wal = wal
        self._layout = layout
        self._store = store
        self._threads = threads
        self._state: ArchiveState | None = None
        self.complaint = ""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(_verify_ended)

    @property
    def archived(self) -> Lsn | None:
        """Up to where all is archived; None: nobody has looked yet."""
        return None if self._state is None else self._state.upto

    def close(self) -> None:
        """Stop after the upload that is under way."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            pause_ms = LOOK_AGAIN_MS
            try:
                await self._archive()
                await self._trim()
            except (ObjectStoreError, ArchiveConflictError, LogError, WalRemovedError) as error:
                self._complain(str(error))
                pause_ms = RETRY_MS
            except (FenceError, RaftError) as error:
                log.info("trimming is put off", group=self._group.name, reason=str(error))
            await asyncio.sleep(pause_ms / 1000)

    async def _archive(self) -> None:
        """Archive what is due."""
        branch = self._group.committed
        if self._state is None:
            history, start = branch.history, branch.start
            committed = branch.end
            state = await self._threads.run(
                lambda: archived_upto(
                    self._store, self._layout, history, start=start, committed=committed
                )
            )
            self._state = state
        items = plan_archive(
            self._layout,
            self._state,
            history=branch.history,
            history_files=branch.history_files or {},
            committed=branch.end,
        )
        for item in items:
            await self._threads.run(lambda item=item: upload(self._store, item, self._read))  # type: ignore[misc]  # mypy does not infer a lambda with a default
            self._state = item.then
            self.complaint = ""

    def _read(self, tli: Tli, lsn: Lsn, bytes_max: int) -> bytes:
        return b"".join(self._wal.read_blocking(tli, lsn, bytes_max))

    async def _trim(self) -> None:
        """Propose to trim whole segments of WAL, if that is worth an entry."""
        branch = self._group.committed
        assert self._state is not None
        kept_from = max(0, int(branch.end) - self._group.settings.keep_bytes)
        limit = min([self._state.upto, Lsn(kept_from), *(branch.pins or {}).values()])
        limit = limit.segment_start(self._layout.segment_bytes)
        if limit - branch.start >= self._group.settings.segment_bytes:
            await self._group.propose(Trim(limit))

    def _complain(self, reason: str) -> None:
        if reason != self.complaint:
            self.complaint = reason
            log.error("archive fails", group=self._group.name, reason=reason)


class Trimmer:
    """Trims this node's log when the branch says that it may."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._done = group.committed.start
        self._task: asyncio.Task[None] | None = None
        group.on_commit.add(self._committed)

    def close(self) -> None:
        """Stop after the trim that is under way."""
        self._group.on_commit.discard(self._committed)

    def _committed(self) -> None:
        start = self._group.committed.start
        if start > self._done and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._trim(start))
            self._task.add_done_callback(self._trimmed)

    async def _trim(self, start: Lsn) -> None:
        group = self._group
        owner = group.committed.history.owner_of(start)
        index = group.disk.index_of_wal(owner, int(start))
        if index is not None:
            await group.trim(index - 1)
        self._done = start

    def _trimmed(self, task: "asyncio.Task[None]") -> None:
        self._task = None
        _verify_ended(task)


def _verify_ended(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("archive task failed", exc_info=task.exception())
