"""The log as the Raft core looks at it: from memory, or fetched from disk while the core waits."""

from collections.abc import Callable, Sequence

import structlog

from raft.types import Entry, Snapshot

from .branch import decode_branch
from .disk_errors import LogGoneError
from .disk_writer import DiskWriter
from .group_log import GroupLog
from .log_contents import LogContents
from .raft_codec import config_of, entry_of
from .record import Record

log = structlog.get_logger()


class CoreView:
    """The core's `LogView`. One piece of what is only on disk is fetched at a time."""

    def __init__(
        self,
        name: str,
        disk: GroupLog,
        contents: LogContents,
        *,
        writer: DiskWriter,
        available: Callable[[], None],
    ) -> None:
        self._name = name
        self._disk = disk
        self._contents = contents
        self._writer = writer
        self._available = available
        self._is_loading = False
        self._is_stale = False  # what is being fetched was cut meanwhile
        self._loaded: Sequence[Record] = ()

    def entries(self, first: int, last: int, bytes_max: int) -> Sequence[Entry]:
        """Return entries that are in memory; none, and fetch them, if they are only on disk."""
        records = self._contents.recent.records(first, last, bytes_max)
        if records is None:
            records = self._loaded
            if not records or not records[0].index <= first <= records[-1].index:
                self._load(first, last, bytes_max)
                return ()
            records = records[first - records[0].index :]
        entries: list[Entry] = []
        for record in records:
            bytes_max -= record.size_bytes
            if record.index > last or (bytes_max < 0 and entries):
                break
            entries.append(entry_of(record))
        return entries

    def snapshot(self) -> Snapshot | None:
        """Return what our log starts from."""
        start = self._disk.start
        config = config_of(decode_branch(start.state).members)
        return Snapshot(start.index, start.term, config, start.state)

    def forget(self) -> None:
        """Entries were cut: what was fetched, or is being fetched, may not be the log any more."""
        self._loaded = ()
        self._is_stale = self._is_loading

    def _load(self, first: int, last: int, bytes_max: int) -> None:
        if not self._is_loading:
            self._is_loading = True
            self._writer.submit(lambda: self._disk.read(first, last, bytes_max), self._done)

    def _done(self, records: Sequence[Record] | None, error: BaseException | None) -> None:
        self._is_loading = False
        is_stale, self._is_stale = self._is_stale, False
        if error is not None:
            # The core asks again with its next heartbeat; at once would be a loop without a pause.
            if not isinstance(error, LogGoneError):
                log.error("log cannot be read", group=self._name, reason=str(error))
            return
        self._loaded = () if is_stale else records or ()
        self._available()
