"""Damage to what was durable is found, at the latest when it is read; nothing wrong is returned.

In scope: flipped bits and lost ends of files at rest, disks that are full, that fail to sync, that
refuse to read. Out of scope: crashes (test_group_log_crashes.py).
"""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from unit.log_service.log_world import (
    MEMBER,
    SMALL,
    everything,
    make_log,
    next_record,
    run_of,
    segment_paths,
    write,
)

from log_service import disk_files
from log_service.disk_errors import (
    CorruptLogError,
    DiskFullError,
    DiskReadError,
    FatalDiskError,
    LogError,
)
from log_service.disk_settings import DiskSettings
from log_service.group_log import GroupLog
from log_service.log_state import LogStart
from log_service.record import Record
from log_service.segment import FOOTER_BYTES, HEADER_BYTES
from log_service.verify import verify

MOUNT = shutil.which("mount") or "mount"
UMOUNT = shutil.which("umount") or "umount"
MORE = DiskSettings(segment_bytes=4 << 20)


def make_example(directory: Path) -> list[Record]:
    """A closed log of three segments, the last of them half full."""
    records = run_of(13, size_bytes=45_000)
    records += run_of(5, after=records, term=2, size_bytes=300)
    log = make_log(directory)
    log.save_hard_state(2, MEMBER)
    write(log, records)
    log.close()
    return records


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def used_bytes(path: Path) -> int:
    """Up to the last byte of a drain."""
    data = path.read_bytes()
    return len(data[:-FOOTER_BYTES].rstrip(b"\0"))


def test_flipped_bit_is_never_taken_for_data(tmp_path: Path) -> None:
    """Opening fails, or reading fails, or the bit was in no entry; a seed decides which bits."""
    records = make_example(tmp_path / "sound")
    rng = random.Random(5)
    opened = refused = 0
    for number in range(150):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "sound", directory)
        path = rng.choice(segment_paths(directory))
        flip(path, rng.randrange(used_bytes(path)), rng.randrange(8))
        try:
            log = GroupLog.open(directory, SMALL)
        except CorruptLogError as error:
            assert "a new replica take its place" in str(error)  # noqa: PT017  # may not fail
            refused += 1
        else:
            try:
                assert everything(log) == records
                opened += 1
            except CorruptLogError:
                refused += 1
            log.close()
        shutil.rmtree(directory)
    assert refused > 100
    assert opened > 1  # in padding, which means nothing


def test_every_damaged_byte_of_the_last_segment_is_found_at_start(tmp_path: Path) -> None:
    make_example(tmp_path / "log")
    path = segment_paths(tmp_path / "log")[-1]
    for offset in range(HEADER_BYTES, used_bytes(path) - 300, 4001):
        flip(path, offset)
        with pytest.raises(CorruptLogError, match="although entries up to 18 were durable"):
            GroupLog.open(tmp_path / "log", SMALL)
        flip(path, offset)
    GroupLog.open(tmp_path / "log", SMALL).close()


def test_last_drain_is_vouched_for_by_close_and_by_confirm_end(tmp_path: Path) -> None:
    for name, is_confirmed in (("confirmed", True), ("not", False)):
        log = make_log(tmp_path / name)
        write(log, run_of(3))
        if is_confirmed:
            log.confirm_end()
        del log
        path = segment_paths(tmp_path / name)[-1]
        flip(path, used_bytes(path) - 1)
        if is_confirmed:
            with pytest.raises(CorruptLogError):
                GroupLog.open(tmp_path / name, SMALL)
        else:
            opened = GroupLog.open(tmp_path / name, SMALL)
            assert (opened.last_index, opened.recovery.torn_bytes) == (2, 256)


def test_damage_before_a_later_drain_is_no_torn_tail(tmp_path: Path) -> None:
    """The later drain says what had been synced before it."""
    log = make_log(tmp_path / "log")
    write(log, run_of(3))
    del log
    path = segment_paths(tmp_path / "log")[0]
    flip(path, HEADER_BYTES + 256 + 100)
    with pytest.raises(CorruptLogError, match=r"entry 2 is damaged .* up to 2 were durable"):
        GroupLog.open(tmp_path / "log", SMALL)


def test_drains_that_were_never_synced_are_a_torn_tail(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    write(log, run_of(2))
    for record in run_of(5)[2:]:
        log.append([record])
    del log
    path = segment_paths(tmp_path / "log")[0]
    flip(path, HEADER_BYTES + 3 * 256 + 100)  # in the second of three
    opened = GroupLog.open(tmp_path / "log", SMALL)
    assert (opened.last_index, opened.recovery.torn_bytes) == (3, 512)
    # What is left behind the end never comes back, though it would follow again.
    write(opened, run_of(4)[3:])
    del opened
    assert GroupLog.open(tmp_path / "log", SMALL).last_index == 4


def test_footer_is_not_needed(tmp_path: Path) -> None:
    """A damaged footer costs a scan; the next start finds a new one."""
    records = make_example(tmp_path / "log")
    path = segment_paths(tmp_path / "log")[0]
    flip(path, path.stat().st_size - FOOTER_BYTES)
    log = GroupLog.open(tmp_path / "log", SMALL)
    scanned_bytes = log.recovery.scanned_bytes
    assert scanned_bytes > SMALL.segment_bytes // 2
    assert everything(log) == records
    log.close()
    again = GroupLog.open(tmp_path / "log", SMALL)
    assert again.recovery.scanned_bytes < scanned_bytes - SMALL.segment_bytes // 2


@pytest.mark.parametrize(
    ("number", "message"),
    [(0, "are missing"), (1, "the next one follows"), (-1, "although entries up to 18")],
)
def test_missing_segment_is_found(tmp_path: Path, number: int, message: str) -> None:
    make_example(tmp_path / "log")
    segment_paths(tmp_path / "log")[number].unlink()
    with pytest.raises(CorruptLogError, match=message):
        GroupLog.open(tmp_path / "log", SMALL)
    assert not verify(tmp_path / "log").is_sound


@pytest.mark.parametrize("number", [0, -1])
def test_file_that_lost_its_end_is_found(tmp_path: Path, number: int) -> None:
    make_example(tmp_path / "log")
    path = segment_paths(tmp_path / "log")[number]
    for size_bytes in (path.stat().st_size - 4096, HEADER_BYTES, 100, 0):
        os.truncate(path, size_bytes)
        with pytest.raises(CorruptLogError, match=r"full length|header of the segment"):
            GroupLog.open(tmp_path / "log", SMALL)


def test_segment_of_another_member_is_refused(tmp_path: Path) -> None:
    make_example(tmp_path / "log")
    other = GroupLog.create(tmp_path / "other", SMALL, member=5, snapshot=LogStart(index=0, term=0))
    write(other, run_of(2))
    shutil.copy(segment_paths(tmp_path / "other")[0], segment_paths(tmp_path / "log")[0])
    with pytest.raises(CorruptLogError, match="another member"):
        GroupLog.open(tmp_path / "log", SMALL)


def test_one_copy_of_the_state_is_enough_two_damaged_ones_are_not(tmp_path: Path) -> None:
    make_example(tmp_path / "log")
    for offset in (20, 4096 + 20):
        flip(tmp_path / "log" / "state", offset)
        log = GroupLog.open(tmp_path / "log", SMALL)
        assert log.hard_state == (2, MEMBER)
        log.close()
    flip(tmp_path / "log" / "state", 20)
    flip(tmp_path / "log" / "state", 4096 + 20)
    with pytest.raises(CorruptLogError, match="both copies"):
        GroupLog.open(tmp_path / "log", SMALL)


def test_damaged_start_is_found(tmp_path: Path) -> None:
    make_example(tmp_path / "log")
    for offset in range(0, 60, 7):
        flip(tmp_path / "log" / "start", offset)
        with pytest.raises(CorruptLogError, match="start of the log is damaged"):
            GroupLog.open(tmp_path / "log", SMALL)
        flip(tmp_path / "log" / "start", offset)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run([UMOUNT, "-l", path], check=True)


def fill(log: GroupLog) -> list[Record]:
    """Append until the disk is full; return what was appended."""
    records: list[Record] = []
    try:
        while True:
            more = run_of(4, after=records, size_bytes=60_000)
            write(log, more, at_once=4)
            records += more
    except DiskFullError as error:
        assert "free some space" in str(error)  # noqa: PT017  # the loop has no other end
    return records


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_leaves_the_log_as_it_was_and_a_trim_makes_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1200k") as disk:
        log = make_log(disk / "log")
        records = fill(log)
        more = run_of(4, after=records, size_bytes=60_000)
        assert everything(log) == records
        assert not log.prepare_spare()
        log.save_hard_state(7, MEMBER)  # an election needs no room
        with pytest.raises(DiskFullError):
            log.append(more)
        log.trim(LogStart(index=len(records) - 2, term=1, state=b"trimmed"))
        write(log, more, at_once=4)
        assert everything(log) == (records + more)[len(records) - 2 :]
        log.close()
        again = GroupLog.open(disk / "log", SMALL)
        assert everything(again) == (records + more)[len(records) - 2 :]
        assert again.hard_state == (7, MEMBER)
        again.close()


class FailingOs:
    """The module `os` with one call that fails."""

    def __init__(self, name: str, number: int) -> None:
        self._name = name
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return self._fail if name == self._name else getattr(os, name)

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise OSError(self._number, os.strerror(self._number))


def failing(name: str, number: int = errno.EIO) -> Any:
    return mock.patch.object(disk_files, "os", FailingOs(name, number))


def test_failed_sync_is_final(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    log.append(run_of(2))
    with failing("fdatasync"), pytest.raises(FatalDiskError, match="the process must end"):
        log.sync()
    for attempt in (
        log.sync,
        lambda: log.append(run_of(3)[2:]),
        lambda: log.save_hard_state(9, 9),
        lambda: log.trim(LogStart(index=1, term=1)),
        lambda: log.reset(LogStart(index=9, term=9)),
    ):
        with pytest.raises(FatalDiskError, match="cannot be written any more"):
            attempt()
    assert log.synced_index == 0
    log.close()


def test_failed_write_is_final_but_a_full_disk_is_not(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log", MORE)
    write(log, run_of(2))
    with failing("pwritev", errno.ENOSPC), pytest.raises(DiskFullError):
        log.append(run_of(3)[2:])
    write(log, run_of(3)[2:])
    with failing("pwritev"), pytest.raises(FatalDiskError):
        log.append(run_of(4)[3:])
    with pytest.raises(FatalDiskError, match="cannot be written any more"):
        log.append(run_of(4)[3:])


def test_entries_of_a_failed_append_never_come_back(tmp_path: Path) -> None:
    """The disk is full in the middle of an append, after its first part was written."""
    log = make_log(tmp_path / "log")
    records = run_of(8, size_bytes=60_000)
    write(log, records[:2])
    for _ in range(3):
        log.prepare_spare()
    with (
        mock.patch("log_service.group_log.create_segment", side_effect=DiskFullError("full")),
        pytest.raises(DiskFullError),
    ):
        log.append(records[2:])
    assert log.last_index == 2
    other = next_record((2, 1), log.wal_end, term=9, size_bytes=10)
    log.append([other])
    log.close()
    assert everything(GroupLog.open(tmp_path / "log", SMALL)) == [*records[:2], other]


def test_disk_that_refuses_to_read_is_a_clear_error(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    write(log, run_of(2))
    with failing("pread"), pytest.raises(DiskReadError, match="cannot be read at offset 4096"):
        log.read(1, 2, 1000)
    log.close()
    with failing("pread"), pytest.raises(LogError, match="check the disk"):
        GroupLog.open(tmp_path / "log", SMALL)
