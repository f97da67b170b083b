"""What a log on disk does for its owner while nothing fails.

In scope: append, read, cut, trim, reset, hard state, WAL by position, spares, the system calls of
an append. Out of scope: crashes, damage and full disks, which have their own files.
"""

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from unit.log_service.log_world import (
    EMPTY,
    MEMBER,
    SMALL,
    everything,
    make_log,
    next_record,
    run_of,
    segment_paths,
    wal_end_of,
    write,
)

from log_service import disk_files
from log_service.disk_errors import LogError, LogGoneError
from log_service.disk_settings import DiskSettings
from log_service.group_log import GroupLog
from log_service.log_state import LogStart
from log_service.record import Kind, Record
from log_service.segment import HEADER_BYTES


def wal_of(records: list[Record], tli: int) -> bytes:
    return b"".join(r.body for r in records if r.kind == Kind.WAL and r.tli == tli)


def test_new_log_is_empty_and_begins_after_its_snapshot(tmp_path: Path) -> None:
    start = LogStart(index=41, term=3, state=b"s")
    log = make_log(tmp_path / "log", snapshot=start)
    assert (log.member, log.hard_state, log.start) == (MEMBER, (0, 0), start)
    assert (log.first_index, log.last_index, log.last_term, log.terms) == (42, 41, 3, ())


def test_what_was_appended_is_there_after_a_restart(tmp_path: Path) -> None:
    records = run_of(40, size_bytes=20_000)
    log = make_log(tmp_path / "log")
    write(log, records, at_once=7)
    log.save_hard_state(5, MEMBER)
    log.close()
    again = GroupLog.open(tmp_path / "log", SMALL)
    assert everything(again) == records
    assert (again.hard_state, again.start, again.member) == ((5, MEMBER), EMPTY, MEMBER)
    assert again.wal_end == wal_end_of(records)
    assert again.recovery.torn_bytes == 0
    assert again.recovery.segments == len(segment_paths(tmp_path / "log"))


def test_read_stops_before_the_limit_but_gives_at_least_one(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    records = run_of(10, size_bytes=952)  # 1000 with the header
    write(log, records)
    assert log.read(3, 10, 2_999) == records[2:4]
    assert log.read(3, 10, 3_000) == records[2:5]
    assert log.read(3, 10, 1) == records[2:3]
    assert log.read(3, 4, 10_000) == records[2:4]


@pytest.mark.parametrize("index", [0, 5, 11, 2**60])
def test_entries_that_are_not_there_are_gone(tmp_path: Path, index: int) -> None:
    log = make_log(tmp_path / "log")
    write(log, run_of(10))
    log.trim(LogStart(index=5, term=1))
    with pytest.raises(LogGoneError, match=r"6 \.\. 10|ends before"):
        log.read(index, index, 1000)


def test_append_at_an_entry_that_is_there_replaces_it_and_all_behind(tmp_path: Path) -> None:
    records = run_of(30, size_bytes=50_000)
    log = make_log(tmp_path / "log")
    write(log, records, at_once=4)
    new = run_of(2, after=records[:9], term=2)
    write(log, new, at_once=2)
    assert everything(log) == records[:9] + new
    assert log.terms == ((1, 1), (10, 2))
    log.close()
    assert everything(GroupLog.open(tmp_path / "log", SMALL)) == records[:9] + new


@pytest.mark.parametrize("before", [(11, 2), (10, 1), (10, 3), (4, 1), (0, 1)])
def test_entries_that_do_not_follow_are_refused(tmp_path: Path, before: tuple[int, int]) -> None:
    log = make_log(tmp_path / "log")
    write(log, run_of(10, term=2))
    with pytest.raises(ValueError, match="entry"):
        log.append([next_record(before, (0, 0), term=3, kind=Kind.NOOP)])
    assert log.last_index == 10


def test_wal_that_does_not_follow_is_refused(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    write(log, run_of(1))
    tli, lsn = log.wal_end
    for position in ((tli, lsn + 1), (tli, lsn - 1), (tli + 0, 0)):
        with pytest.raises(ValueError, match="the WAL before it ends"):
            log.append([next_record((1, 1), position, term=1)])
    log.append([next_record((1, 1), (tli + 1, lsn - 8), term=1)])


def test_terms_name_each_run_across_segments(tmp_path: Path) -> None:
    records: list[Record] = []
    for term in (1, 1, 2, 5, 5, 6):
        records += run_of(3, after=records, term=term, size_bytes=60_000)
    log = make_log(tmp_path / "log")
    write(log, records)
    runs = ((1, 1), (7, 2), (10, 5), (16, 6))
    assert log.terms == runs
    log.close()
    again = GroupLog.open(tmp_path / "log", SMALL)
    assert again.terms == runs
    again.trim(LogStart(index=11, term=5))
    assert list(again.terms) == [(12, 5), (16, 6)]


def test_special_records_are_found_again(tmp_path: Path) -> None:
    records: list[Record] = []
    for kind in (Kind.NOOP, Kind.CONFIG, Kind.WAL, Kind.EPOCH, Kind.WAL, Kind.TIMELINE) * 4:
        before = (records[-1].index, 1) if records else (0, 0)
        end = wal_end_of(records)
        records.append(next_record(before, end, term=1, size_bytes=30_000, kind=kind))
    log = make_log(tmp_path / "log")
    write(log, records)
    wanted = [r for r in records if r.kind not in (Kind.WAL, Kind.NOOP)]
    assert log.special == wanted
    log.close()
    again = GroupLog.open(tmp_path / "log", SMALL)
    assert again.special == wanted
    again.trim(LogStart(index=13, term=1))
    assert again.special == [r for r in wanted if r.index > 13]


def timelines(log: GroupLog) -> list[Record]:
    """Three timelines; the second one begins below the end of the first."""
    records: list[Record] = []
    for number in range(45):
        before = (records[-1].index, 1) if records else (0, 0)
        record = next_record(
            before,
            wal_end_of(records),
            term=1,
            size_bytes=(0, 7, 900, 40_000)[number % 4],
            kind=Kind.NOOP if number % 5 == 4 else Kind.WAL,
            new_timeline=number in (20, 33),
        )
        records.append(record)
    write(log, records, at_once=2)
    return records


@pytest.mark.parametrize("bytes_max", [1_000, 65_536, 1 << 30])
def test_wal_is_read_by_position_through_segments_of_its_timeline(
    tmp_path: Path, bytes_max: int
) -> None:
    log = make_log(tmp_path / "log")
    records = timelines(log)
    assert len(segment_paths(tmp_path / "log")) > 1
    for tli in (1, 2, 3):
        first = next(r for r in records if r.tli == tli)
        wal, lsn = b"", first.lsn
        while pieces := log.read_wal(tli, lsn, bytes_max)[0]:
            assert sum(map(len, pieces)) <= bytes_max
            wal += b"".join(pieces)
            lsn = first.lsn + len(wal)
        assert wal == wal_of(records, tli)


def test_wal_may_begin_inside_a_record_and_names_the_entry(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    for record in timelines(log):
        if record.kind == Kind.WAL and record.body:
            middle = len(record.body) // 2
            wanted = len(record.body) - middle
            pieces, index = log.read_wal(record.tli, record.lsn + middle, wanted)
            assert (b"".join(pieces), index) == (record.body[middle:], record.index)
            assert log.index_of_wal(record.tli, record.lsn) == record.index


def test_wal_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    records = timelines(log)
    there: list[Record] = []
    for tli in (1, 2, 3):
        there = [r for r in records if r.tli == tli]
        for lsn in (there[0].lsn - 1, there[-1].lsn + len(there[-1].body), 1 << 60, 0):
            assert log.read_wal(tli, lsn, 1000) == ([], 0)
            assert log.index_of_wal(tli, lsn) is None
    assert log.read_wal(9, there[0].lsn, 1000) == ([], 0)


def test_trimmed_wal_is_nothing(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    records = timelines(log)
    log.trim(LogStart(index=30, term=1))
    for record in records:
        if record.kind == Kind.WAL and record.body:
            index = log.index_of_wal(record.tli, record.lsn)
            assert index == (record.index if record.index > 30 else None)


def test_trim_gives_whole_segments_back_and_the_next_ones_use_them(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    records = run_of(40, size_bytes=50_000)
    write(log, records)
    inodes = {path.stat().st_ino for path in segment_paths(tmp_path / "log")}
    log.trim(LogStart(index=30, term=1, state=b"later"))
    assert len(segment_paths(tmp_path / "log")) == 2
    assert len(list((tmp_path / "log").glob("*.spare"))) == SMALL.spares_max
    more = run_of(9, after=records, size_bytes=50_000)
    write(log, more)
    assert everything(log) == (records + more)[30:]
    assert {path.stat().st_ino for path in segment_paths(tmp_path / "log")} <= inodes
    log.close()
    again = GroupLog.open(tmp_path / "log", SMALL)
    assert everything(again) == (records + more)[30:]
    assert again.start == LogStart(index=30, term=1, state=b"later")


def test_trim_takes_only_a_start_that_is_in_the_log(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    write(log, run_of(5))
    log.trim(LogStart(index=2, term=1))
    for start in (LogStart(index=1, term=1), LogStart(index=6, term=1), LogStart(index=4, term=9)):
        with pytest.raises(ValueError, match=r"start|term"):
            log.trim(start)


def test_reset_begins_anew_below_or_above_the_end(tmp_path: Path) -> None:
    for index in (3, 700):
        directory = tmp_path / str(index)
        log = make_log(directory)
        write(log, run_of(20, size_bytes=50_000))
        start = LogStart(index=index, term=7, state=b"given")
        log.reset(start)
        assert (log.start, log.first_index, log.last_index) == (start, index + 1, index)
        entry = next_record((index, 7), (3, 0x500), term=7)
        write(log, [entry])
        log.close()
        again = GroupLog.open(directory, SMALL)
        assert (again.start, everything(again), again.hard_state) == (start, [entry], (0, 0))


def test_vote_cannot_be_changed_within_its_term(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    log.save_hard_state(4, 0)
    log.save_hard_state(4, 11)
    log.save_hard_state(4, 11)
    for term, vote in ((4, 12), (4, 0), (3, 11)):
        with pytest.raises(ValueError, match="must not go"):
            log.save_hard_state(term, vote)
    log.save_hard_state(5, 12)


def test_directory_belongs_to_one_process(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    with pytest.raises(LogError, match="in use by another process"):
        GroupLog.open(tmp_path / "log", SMALL)
    log.close()
    GroupLog.open(tmp_path / "log", SMALL).close()


def test_log_is_not_made_over_another_nor_opened_where_none_is(tmp_path: Path) -> None:
    make_log(tmp_path / "log").close()
    with pytest.raises(LogError, match="already holds a log"):
        make_log(tmp_path / "log")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        with pytest.raises(LogError, match=r"holds no log|cannot be opened"):
            GroupLog.open(tmp_path / name, SMALL)


def test_closed_log_gives_and_takes_nothing(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    write(log, run_of(2))
    log.close()
    log.close()
    with pytest.raises(LogGoneError):
        log.read(1, 2, 1000)
    with pytest.raises(LogError, match="closed"):
        log.append(run_of(3)[2:])


class CountedOs:
    """The module `os`, counting the calls that change or sync something."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if not callable(found) or name in ("fsencode", "fspath"):
            return found

        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append(name)
            return found(*arguments, **keywords)

        return counted


def test_append_and_sync_are_two_system_calls(tmp_path: Path) -> None:
    """However many records a drain has, as long as the segment has room."""
    log = make_log(tmp_path / "log", DiskSettings(segment_bytes=16 << 20))
    write(log, run_of(1))
    records = run_of(1001)
    counted = CountedOs()
    with mock.patch.object(disk_files, "os", counted):
        for start, end in ((1, 2), (2, 10), (10, 500)):
            log.append(records[start:end])
            log.sync()
        log.sync()
    assert counted.calls == ["pwritev", "fdatasync"] * 3


def test_segment_that_is_prepared_ahead_is_not_waited_for(tmp_path: Path) -> None:
    settings = DiskSettings(segment_bytes=4 << 20)
    log = make_log(tmp_path / "log", settings)
    steps = 1
    while not log.prepare_spare():
        steps += 1
    assert steps == 4
    counted = CountedOs()
    with mock.patch.object(disk_files, "os", counted):
        log.append(run_of(1))
    # The header and the records; a spare would take four writes of 1 MiB more.
    assert counted.calls.count("pwritev") == 2


def test_append_may_be_larger_than_a_segment(tmp_path: Path) -> None:
    records = run_of(30, size_bytes=40_000)
    log = make_log(tmp_path / "log")
    log.append(records)
    log.sync()
    assert everything(log) == records
    for path in segment_paths(tmp_path / "log"):
        assert path.stat().st_size == SMALL.segment_bytes
    assert SMALL.segment_bytes > HEADER_BYTES


def test_entries_may_be_of_many_small_pieces(tmp_path: Path) -> None:
    """More of them than the kernel takes in one call."""
    records = run_of(1500, size_bytes=3)
    log = make_log(tmp_path / "log")
    log.append(records)
    log.sync()
    assert everything(log) == records


def test_descriptors_of_old_segments_are_given_up(tmp_path: Path) -> None:
    settings = DiskSettings(segment_bytes=SMALL.segment_bytes, open_segments_max=2)
    log = make_log(tmp_path / "log", settings)
    write(log, run_of(40, size_bytes=60_000))
    before = len(list(Path("/proc/self/fd").iterdir()))
    everything(log)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"segment_bytes": 4096},
        {"segment_bytes": 1 << 40},
        {"segment_bytes": (1 << 20) + 1},
        {"spares_max": 0},
        {"open_segments_max": 0},
    ],
)
def test_settings_have_limits(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        DiskSettings(**wrong)
