"""A group's committed WAL, as the replication server, storage and the archive read it.

Bytes are found in three places: in memory, in the log on disk, in the archive. A position belongs
to the timeline that the branch's history says; what is behind a fork is never served.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fabric.frames import Buffer
from fabric.ids import SystemIdentifier
from fabric.lsn import Lsn, Tli
from object_store.interface import ObjectStore, ObjectStoreError

from .archive import ArchiveReader
from .archive_plan import ArchiveLayout
from .disk_errors import LogGoneError
from .disk_writer import DiskWriter
from .group import Group
from .replication_source import WalRemovedError

READ_BYTES_MAX: Final = 1024 * 1024


class GroupWal:
    """The `WalSource` of a group; it has one once its genesis is committed."""

    def __init__(
        self,
        group: Group,
        *,
        threads: DiskWriter,
        store: ObjectStore | None,
        layout: Callable[[], ArchiveLayout],
    ) -> None:
        self._group = group
        self._threads = threads
        self._store = store
        self._layout = layout

    @property
    def system_identifier(self) -> SystemIdentifier:
        """The cluster's own number."""
        return self._group.committed.system_identifier

    @property
    def segment_bytes(self) -> int:
        """The size of a WAL segment file."""
        genesis = self._group.committed.genesis
        assert genesis is not None
        return genesis.segment_bytes

    @property
    def server_version(self) -> str:
        """What the servers of the branch call their version."""
        genesis = self._group.committed.genesis
        assert genesis is not None
        return genesis.server_version

    @property
    def tli(self) -> Tli:
        """The newest timeline."""
        return self._group.committed.tli

    @property
    def committed(self) -> Lsn:
        """The end of committed WAL."""
        return self._group.committed.end

    @property
    def history_files(self) -> Mapping[Tli, bytes]:
        """The history files of all timelines but the first."""
        return self._group.committed.history_files or {}

    def fork_of(self, tli: Tli) -> tuple[Tli, Lsn] | None:
        """Return what followed a timeline, and from where."""
        return self._group.committed.history.fork_of(tli)

    def start(self, tli: Tli) -> Lsn:
        """Return the oldest position that can be read; it is the same for every timeline."""
        del tli
        committed = self._group.committed
        assert committed.genesis is not None
        return committed.start if self._store is None else committed.genesis.start

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` whenever more was committed."""
        self._group.on_commit.add(wake)
        return lambda: self._group.on_commit.discard(wake)

    def read_now(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer] | None:
        """Return WAL from memory; None if it is not there."""
        owner, limit = self._owner(tli, lsn)
        return self._group.recent.wal(owner, lsn, min(bytes_max, limit - lsn))

    async def read(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer]:
        """Return WAL from wherever it is; at least a byte."""
        recent = self.read_now(tli, lsn, bytes_max)
        if recent is not None:
            return recent
        return await self._threads.run(lambda: self.read_blocking(tli, lsn, bytes_max))

    def read_blocking(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer]:
        """Return WAL from the disk or the archive; to be called in a thread."""
        owner, limit = self._owner(tli, lsn)
        wanted_bytes = min(bytes_max, limit - lsn, READ_BYTES_MAX)
        try:
            pieces, _ = self._group.disk.read_wal(owner, int(lsn), wanted_bytes)
        except LogGoneError:
            pieces = []
        if pieces:
            return pieces
        if self._store is None:
            raise WalRemovedError(f"WAL at {lsn} was trimmed: start from a newer cut")
        history = self._group.committed.history
        try:
            reader = ArchiveReader(self._store, self._layout(), history)
            return [reader.read(owner, lsn, wanted_bytes)]
        except ObjectStoreError as error:
            raise WalRemovedError(f"WAL at {lsn} is not here, and not archived: {error}") from error

    def _owner(self, tli: Tli, lsn: Lsn) -> tuple[Tli, Lsn]:
        """Return the timeline that has a byte, and where its part ends for us."""
        committed = self._group.committed
        assert committed.genesis is not None
        # What the first timeline here has of its ancestors came as its own.
        owner = max(committed.history.owner_of(lsn), committed.genesis.tli)
        fork = committed.history.fork_of(owner)
        limit = committed.end if fork is None else fork[1]
        if owner > tli or lsn >= limit:
            raise WalRemovedError(f"there is no committed byte {lsn} on timeline {tli:d}")
        return owner, limit
