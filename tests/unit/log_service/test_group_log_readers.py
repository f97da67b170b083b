"""Readers in threads see the log as it was or as it is, whatever the writer does meanwhile.

In scope: appends, cuts, trims, resets and recycled segments under readers that never pause.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from unit.log_service.log_world import make_log, next_record, run_of, write

from log_service.disk_errors import LogGoneError
from log_service.disk_files import OpenFile
from log_service.group_log import GroupLog
from log_service.log_segments import SegmentTable
from log_service.log_state import LogStart
from log_service.record import Record
from log_service.segment import SegmentHeader
from log_service.segment_file import Cut, write_cut


class Reader(threading.Thread):
    """Reads all that is there until it is told to stop; `error` is what it should not have met."""

    def __init__(self, log: GroupLog, known: dict[tuple[int, int], Record]) -> None:
        super().__init__(daemon=True)
        self._log = log
        self._known = known
        self._is_stopped = threading.Event()
        self.entries = self.gone = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Read from the first entry to the last, again and again."""
        try:
            while not self._is_stopped.is_set():
                self._read_once()
        except BaseException as error:  # noqa: BLE001  # the test looks at it
            self.error = error

    def stop(self) -> None:
        """End it."""
        self._is_stopped.set()
        self.join()

    def _read_once(self) -> None:
        try:
            records = self._log.read(self._log.first_index, 1 << 60, 200_000)
            tli, lsn = records[0].tli, records[0].lsn
            pieces, _ = self._log.read_wal(tli, lsn, 1_000)
        except LogGoneError:
            self.gone += 1
            return
        for record in records:
            assert record == self._known[record.index, record.term]
        assert all(len(piece) for piece in pieces)
        self.entries += len(records)


def test_readers_meet_right_entries_or_none(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    known: dict[tuple[int, int], Record] = {}
    records: list[Record] = []
    readers = [Reader(log, known) for _ in range(2)]

    def append(new: list[Record]) -> None:
        known.update({(record.index, record.term): record for record in new})
        write(log, new, at_once=4)

    start = run_of(5)
    append(start)
    records += start
    for reader in readers:
        reader.start()
    try:
        for term in range(2, 26):
            kept = records[: len(records) - term % 4]
            new = run_of(9, after=kept, term=term, size_bytes=40_000)
            append(new)
            records = kept + new
            trimmed = records[-8]
            log.trim(LogStart(index=trimmed.index, term=trimmed.term))
    finally:
        for reader in readers:
            reader.stop()
    assert [reader.error for reader in readers] == [None, None]
    assert all(reader.entries for reader in readers)


def fill(log: GroupLog) -> None:
    """Write over the segments that were given back."""
    before, wal_end = (log.last_index, log.last_term), log.wal_end
    for _ in range(14):
        record = next_record(before, wal_end, term=9, size_bytes=50_000)
        write(log, [record])
        before, wal_end = (record.index, record.term), log.wal_end


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log.reset(LogStart(index=30, term=9)),
        lambda log: log.trim(LogStart(index=14, term=1)),
        lambda log: log.append(run_of(3, term=2, size_bytes=90)),
    ],
    ids=["reset", "trim", "cut"],
)
def test_place_that_was_recycled_before_it_was_read_is_gone(
    tmp_path: Path, change: Callable[[GroupLog], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: between finding the place and reading it."""
    log = make_log(tmp_path / "log")
    write(log, run_of(14, size_bytes=50_000))
    find = SegmentTable.place_of_index

    def interrupted(table: SegmentTable, index: int) -> object:
        place = find(table, index)
        monkeypatch.undo()
        change(log)
        fill(log)
        return place

    monkeypatch.setattr(SegmentTable, "place_of_index", interrupted)
    with pytest.raises(LogGoneError, match="meanwhile"):
        log.read(1, 14, 1 << 30)


def test_place_that_is_just_being_cut_is_gone(tmp_path: Path) -> None:
    """The drain that straddles the cut has its old header still."""
    log = make_log(tmp_path / "log")
    log.append(run_of(4))
    met: list[BaseException] = []

    def read_first(file: OpenFile, header: SegmentHeader, cut: Cut) -> None:
        with pytest.raises(LogGoneError, match="meanwhile") as gone:
            log.read(1, 3, 1 << 20)
        met.append(gone.value)
        write_cut(file, header, cut)

    with mock.patch("log_service.group_log.write_cut", read_first):
        log.append(run_of(1, after=run_of(3), term=2))
    assert len(met) == 1
    assert log.read(1, 3, 1 << 20) == run_of(3)
