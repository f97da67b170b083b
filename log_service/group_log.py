"""The log of one group on disk: append, sync, cut, trim, read; synchronous, no asyncio.

One writer thread calls `save_hard_state`, `append`, `sync`, `trim`, `reset` and `prepare_spare`;
any thread may call `read`, `read_wal` and the properties at the same time. An append is one
pwritev into blocks that were written before, and a sync is one fdatasync: no metadata changes on
the way of a commit.

Order of things, so that a crash at any point leaves a log that recovery understands:

- append: a segment is sealed and durable before the next one exists; a spare gets its header
  durably before it gets its name.
- cut (an append at or before the last entry): first `state` says "entries from here on count only
  if they are of the new generation", which is the cut; then segments go and drains are shortened.
- trim: the new start is durable before the first segment goes.
- reset: the new start carries the new generation, which is the reset.

Deliberately not here: which entries are committed, what is in them, when to sync.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from .disk_errors import CorruptLogError, DiskFullError, FatalDiskError, LogError
from .disk_files import LogDirectory, OpenFile
from .disk_settings import DiskSettings
from .log_reading import read_entries, read_wal
from .log_recovery import RecoveryReport, Segment, recover
from .log_segments import SegmentTable
from .log_state import (
    STATE_NAME,
    LogStart,
    LogState,
    SavedStart,
    StateFile,
    read_start,
    save_start,
)
from .record import Record
from .segment import SegmentHeader
from .segment_file import (
    BadDrainError,
    Cut,
    create_segment,
    find_cut,
    seal,
    write_cut,
    write_drains,
)
from .segment_index import (
    SegmentIndex,
    WalPosition,
    broken_link,
    count_that_fits,
    empty_room_bytes,
)
from .segment_spares import Spares


class GroupLog:
    """An open log. Made by `create` or `open`; the directory is locked until `close`."""

    def __init__(
        self,
        directory: LogDirectory,
        settings: DiskSettings,
        state_file: StateFile,
        saved_start: SavedStart,
    ) -> None:
        recovered = recover(directory, state_file.saved, saved_start)
        state_file.save(recovered.state)
        self.recovery: RecoveryReport = recovered.report
        self._directory = directory
        self._settings = settings
        self._state_file = state_file
        self._saved_start = saved_start
        self._spares = Spares(directory, settings)
        self._table = SegmentTable(
            directory,
            recovered.segments,
            start_index=saved_start.start.index,
            open_segments_max=settings.open_segments_max,
        )
        self._active: OpenFile | None = None  # the last segment, open to be written
        self.synced_index = self.last_index  # the last entry that is known to be durable
        self._failure: str | None = None

    @classmethod
    def create(
        cls, directory: Path, settings: DiskSettings, *, member: int, snapshot: LogStart
    ) -> Self:
        """Make an empty log that starts after `snapshot`; the directory may exist, not a log."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        LogDirectory(directory.parent, is_locked=False).sync()
        locked = LogDirectory(directory)
        if STATE_NAME in locked.names():
            raise LogError(f"{directory} already holds a log: open it, or choose another directory")
        saved_start = SavedStart(start=snapshot, member=member, generation=1)
        save_start(locked, saved_start)
        # The last file: without it there is no log here, and `create` may begin again.
        StateFile.create(locked, LogState(member=member).after_reset(saved_start))
        return cls(locked, settings, StateFile(locked), saved_start)

    @classmethod
    def open(cls, directory: Path, settings: DiskSettings) -> Self:
        """Open a log and recover it; CorruptLogError if something durable is damaged or gone."""
        locked = LogDirectory(directory)
        if STATE_NAME not in locked.names():
            raise LogError(f"{directory} holds no log: create one, or restore the directory")
        return cls(locked, settings, StateFile(locked), read_start(locked))

    # --- What it is ---------------------------------------------------------------------------

    @property
    def member(self) -> int:
        """Return whose log this is."""
        return self._state_file.saved.member

    @property
    def hard_state(self) -> tuple[int, int]:
        """Return (term, vote)."""
        return self._state_file.saved.term, self._state_file.saved.vote

    @property
    def start(self) -> LogStart:
        """Return what the log starts from."""
        return self._saved_start.start

    @property
    def first_index(self) -> int:
        """Return the index of the first entry, there or to come."""
        return self.start.index + 1

    @property
    def last_index(self) -> int:
        """Return the index of the last entry, or of the start."""
        return self._table.last_index

    @property
    def last_term(self) -> int:
        """Return the term of the last entry, or of the start."""
        last = self._table.last
        return self.start.term if last is None else last.index.last_term

    @property
    def terms(self) -> tuple[tuple[int, int], ...]:
        """Return (first index, term) of each run of one term."""
        return self._table.terms()

    @property
    def special(self) -> list[Record]:
        """Read every record that is neither WAL nor NOOP, in order."""
        return [self.read(index, index, 1)[0] for index in self._table.special_indexes()]

    @property
    def wal_end(self) -> WalPosition:
        """Return (tli, lsn) behind the last WAL of the log; (0, 0) if it does not know any."""
        last = self._table.last
        return (0, 0) if last is None else last.index.wal_end

    # --- For readers: any thread --------------------------------------------------------------

    def read(self, first: int, last: int, bytes_max: int) -> list[Record]:
        """Return entries from `first` on, at least one, at most up to `last` and `bytes_max`.

        LogGoneError if `first` is not, or while reading no longer, in the log.
        """
        return read_entries(self._table, first, last, bytes_max)

    def read_wal(self, tli: int, lsn: int, bytes_max: int) -> tuple[list[memoryview], int]:
        """Return WAL of one timeline from exactly `lsn`, and the last entry it came from.

        The first piece may begin, the last may end inside a record. ([], 0) if it is not there.
        """
        return read_wal(self._table, tli, lsn, bytes_max)

    def index_of_wal(self, tli: int, lsn: int) -> int | None:
        """Return the entry that holds the WAL byte at `lsn`."""
        pieces, index = read_wal(self._table, tli, lsn, 1)
        return index if pieces else None

    def wal_before(self, index: int) -> WalPosition | None:
        """Return how far WAL was before an entry, or a mark (64 KiB) earlier; None: not here.

        From memory alone: for whoever must not wait for a disk.
        """
        return self._table.wal_before(index)

    # --- For the writer: one thread -----------------------------------------------------------

    def save_hard_state(self, term: int, vote: int) -> None:
        """Make term and vote durable."""
        saved = self._state_file.saved
        if term < saved.term or (term == saved.term and saved.vote not in (0, vote)):
            raise ValueError(f"(term, vote) must not go from {self.hard_state} to {(term, vote)}")
        with self._writing():
            state = replace(saved, term=term, vote=vote, durable_index=self.synced_index)
            self._state_file.save(state)

    def append(self, records: Sequence[Record]) -> None:
        """Write records; an entry that is there is replaced, with all behind it. Not yet durable.

        DiskFullError: nothing was appended (a cut that was due may have been made); try again.
        """
        if not records:
            return
        first_index = records[0].index
        is_next = self._check_links(records)
        if self._failure is not None:
            raise self._unusable()
        try:
            if not is_next:
                self._cut(first_index)
            in_last, parts = self._divided(records)
            if parts:  # seldom: a commit needs no spare
                self._spares.require(len(parts))
            try:
                if in_last:
                    self._write(in_last)
                for part in parts:
                    self._roll()
                    self._write(part)
            except DiskFullError:
                self._cut(first_index)  # also what was written and is not in the index
                raise
        except FatalDiskError as error:  # by hand, see `_writing`
            self._failure = str(error)
            raise

    def sync(self) -> None:
        """Make everything appended durable; FatalDiskError if the disk cannot: end the process."""
        last = self._table.last
        last_index = self.start.index if last is None else last.index.last_index
        if self._failure is not None:
            raise self._unusable()
        if self.synced_index < last_index and self._active is not None:
            try:
                self._active.sync_data()
            except FatalDiskError as error:  # by hand, see `_writing`
                self._failure = str(error)
                raise
        self.synced_index = last_index

    def confirm_end(self) -> None:
        """Note that what was synced is durable, so that damage to the last drain will show.

        Earlier ones are vouched for by the drains behind them. Costs two syncs: for a quiet moment.
        """
        saved = self._state_file.saved
        if saved.durable_index < self.synced_index:
            with self._writing():
                self._state_file.save(replace(saved, durable_index=self.synced_index))

    @property
    def has_spare(self) -> bool:
        """Whether the next segment is ready."""
        return self._spares.has_ready

    @property
    def has_unfinished_spare(self) -> bool:
        """Whether the next segment is half made; not if the disk was full."""
        return self._spares.has_unfinished

    def prepare_spare(self) -> bool:
        """Do a bit of work (1 MiB) on the next segment; return whether it is ready.

        To be called when there is nothing else to do; any thread may.
        """
        return self._spares.prepare()

    def trim(self, start: LogStart) -> None:
        """Let the log start later: whole segments before `start` are given back."""
        if not self.start.index <= start.index <= self.last_index:
            raise ValueError(f"the log ends at {self.last_index}, it cannot start at {start.index}")
        if start.term != self._term_at(start.index):
            raise ValueError(f"entry {start.index} is not of term {start.term}")
        last = self._table.last
        self.sync()
        with self._writing():
            self._save_start(replace(self._saved_start, start=start))
            names = self._table.remove(
                lambda s: s is not last and s.index.last_index <= start.index,
                start_index=start.index,
            )
            self._give_back(names)

    def reset(self, start: LogStart) -> None:
        """Throw everything away and begin after `start`."""
        generation = self._state_file.saved.generation + 1
        with self._writing():
            self._save_start(SavedStart(start=start, member=self.member, generation=generation))
            self._state_file.save(self._state_file.saved.after_reset(self._saved_start))
            names = self._table.remove(lambda _: True, start_index=start.index)
            self._active = None
            self.synced_index = start.index
            self._give_back(names)

    def close(self) -> None:
        """Confirm the end, let go of all files and unlock; a second time it does nothing."""
        if self._failure is None:
            self.confirm_end()
        self._table.close()
        self._active = None
        self._failure = "it is closed"
        self._directory.unlock()

    # --- Steps of the writer ------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """After a write or sync has failed nothing may be written any more.

        `append` and `sync` say the same by hand: a commit needs both, and this context manager
        costs 6 calls.
        """
        if self._failure is not None:
            raise self._unusable()
        try:
            yield
        except FatalDiskError as error:
            self._failure = str(error)
            raise

    def _unusable(self) -> FatalDiskError:
        return FatalDiskError(f"the log cannot be written any more: {self._failure}")

    def _save_start(self, saved: SavedStart) -> None:
        save_start(self._directory, saved)
        self._saved_start = saved

    def _term_at(self, index: int) -> int:
        return self.start.term if index == self.start.index else self._table.term_at(index)

    def _check_links(self, records: Sequence[Record]) -> bool:
        """Refuse entries that do not continue the log: a mistake of ours, caught before a write.

        Return whether they follow the last one; else some have to be cut first.
        """
        before, start_index = records[0].index - 1, self._saved_start.start.index
        last = self._table.last
        last_index = start_index if last is None else last.index.last_index
        if not start_index <= before <= last_index:
            raise ValueError(
                f"entry {before + 1} cannot be appended to {self.first_index} .. {last_index}"
            )
        is_next = before == last_index
        if is_next and last is not None:
            term, wal_end = last.index.last_term, last.index.wal_end
        else:
            term, wal_end = self._term_at(before), (0, 0)
        broken = broken_link(records, index=before, term=term, wal_end=wal_end)
        if broken is not None:
            raise ValueError(broken)
        return is_next

    def _divided(
        self, records: Sequence[Record]
    ) -> tuple[Sequence[Record], list[Sequence[Record]]]:
        """Split records into those for the last segment and those for each new one."""
        last, at = self._table.last, 0
        if last is not None and not last.is_sealed:
            index = last.index
            at = count_that_fits(records, room_bytes=index.room_bytes, term=index.last_term)
        if at == len(records):  # nearly always
            return records, []
        in_last, parts = records[:at], []
        room_bytes = empty_room_bytes(self._settings.segment_bytes)
        while at < len(records):
            rest = records[at:]
            count = count_that_fits(rest, room_bytes=room_bytes, term=rest[0].prev_term)
            assert count, "an empty segment holds the largest record"
            parts.append(rest[:count])
            at += count
        return in_last, parts

    def _write(self, records: Sequence[Record]) -> None:
        last = self._table.last
        assert last is not None, "there is a segment with room"
        if self._active is None:
            self._active = self._table.open_for_writing(last)
        drains = write_drains(
            self._active,
            last.index,
            records,
            generation=self._state_file.saved.generation,
            durable_index=self.synced_index,
        )
        self._table.note(last, drains)

    def _roll(self) -> None:
        """Seal the last segment, durably, and begin a new one behind it."""
        last, generation = self._table.last, self._state_file.saved.generation
        if last is not None and not last.is_sealed:
            file = self._active or self._table.open_for_writing(last)
            seal(file, last.index, generation=generation)
            last.is_sealed = True
            self.synced_index = last.index.last_index
        tli, lsn = self.wal_end
        header = SegmentHeader(
            member=self.member,
            first_index=self.last_index + 1,
            prev_term=self.last_term,
            generation=generation,
            tli=tli,
            lsn=lsn,
            segment_bytes=self._settings.segment_bytes,
        )
        create_segment(self._directory, self._spares.take(), header)
        segment = Segment(SegmentIndex(header), is_sealed=False)
        self._active = self._table.add(segment)

    def _cut(self, at_index: int) -> None:
        """Remove entries from `at_index` on, durably, and whatever lies behind the last."""
        self.sync()
        found = self._find_cut(at_index)
        saved = self._state_file.saved
        generation = saved.generation + 1
        self._state_file.save(
            replace(saved, generation=generation, cut_index=at_index, durable_index=at_index - 1)
        )
        self.synced_index = at_index - 1
        names = self._table.remove(lambda s: s.index.first_index >= at_index)
        if found is not None:
            segment, file, cut = found
            self._table.cut(segment, at_index, cut)
            write_cut(file, segment.index.header, cut)
            self._table.cut_is_on_disk()
        self._active = None
        self._give_back(names)

    def _find_cut(self, at_index: int) -> tuple[Segment, OpenFile, Cut] | None:
        """Find where the segment around `at_index` will end; None if the cut is at an end."""
        if at_index > self.last_index:
            return None
        segment = self._table.segment_of(at_index)
        if segment.index.first_index == at_index:
            return None
        file = self._table.open_for_writing(segment)
        try:
            return segment, file, find_cut(file, segment.index, at_index)
        except BadDrainError as error:
            raise CorruptLogError.at(file.path, error.offset, str(error)) from error

    def _give_back(self, names: Sequence[str]) -> None:
        for name in names:
            self._spares.give(name)
        self._directory.sync()
