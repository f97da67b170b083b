"""`verify` reads a whole log, changes nothing, and tells all damage without raising.

In scope: sound logs in every state that a crash or an operation leaves, each kind of damage. The
crash tests also verify what each crash has left.
"""

import shutil
from pathlib import Path

import pytest
from unit.log_service.log_world import SMALL, make_log, run_of, segment_paths, wal_end_of, write

from log_service.group_log import GroupLog
from log_service.log_state import LogStart
from log_service.segment import FOOTER_BYTES, HEADER_BYTES
from log_service.verify import verify

RECORDS = run_of(16, size_bytes=50_000)


def make_example(directory: Path) -> None:
    log = make_log(directory)
    write(log, RECORDS, at_once=2)
    log.close()


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff\x00\xff")


def test_sound_log_has_no_findings_and_is_not_changed(tmp_path: Path) -> None:
    make_example(tmp_path / "log")
    before = content(tmp_path / "log")
    report = verify(tmp_path / "log")
    assert report.is_sound
    assert not report.notes
    assert (report.segments, report.drains, report.records) == (4, 10, 16)
    assert (report.first_index, report.last_index) == (1, 16)
    assert report.wal == ((1, RECORDS[0].lsn, wal_end_of(RECORDS)[1]),)
    assert content(tmp_path / "log") == before


def test_log_may_be_open_and_its_copy_is_as_sound(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    write(log, RECORDS)
    log.append(run_of(3, after=RECORDS, term=2))
    assert verify(tmp_path / "log").last_index == 19
    shutil.copytree(tmp_path / "log", tmp_path / "copy")
    assert verify(tmp_path / "copy").is_sound


def test_log_is_sound_when_empty_cut_trimmed_or_reset(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    assert (verify(tmp_path / "log").findings, verify(tmp_path / "log").records) == ((), 0)
    write(log, RECORDS)
    write(log, run_of(2, after=RECORDS[:7], term=2))
    assert verify(tmp_path / "log").records == 9
    log.trim(LogStart(index=6, term=1))
    assert verify(tmp_path / "log").findings == ()
    log.reset(LogStart(index=99, term=5))
    assert (verify(tmp_path / "log").findings, verify(tmp_path / "log").last_index) == ((), 0)
    log.close()


def test_torn_tail_is_a_note(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    write(log, run_of(2))
    log.append(run_of(3)[2:])
    del log
    damage(segment_paths(tmp_path / "log")[0], HEADER_BYTES + 2 * 256 + 100)
    report = verify(tmp_path / "log")
    assert report.is_sound
    assert len(report.notes) == 1
    assert "a torn tail of 256 bytes" in report.notes[0]


def test_damage_in_a_full_segment_is_found_where_a_start_trusts_the_footer(tmp_path: Path) -> None:
    make_example(tmp_path / "log")
    path = segment_paths(tmp_path / "log")[1]
    damage(path, 100_000)
    GroupLog.open(tmp_path / "log", SMALL).close()
    report = verify(tmp_path / "log")
    assert len(report.findings) == 1
    assert str(path) in report.findings[0]
    assert report.segments == 3  # the others were read all the same


def test_footer_that_does_not_describe_its_segment_is_found(tmp_path: Path) -> None:
    make_example(tmp_path / "log")
    path = segment_paths(tmp_path / "log")[0]
    damage(path, path.stat().st_size - FOOTER_BYTES + 50)
    assert "the footer does not describe" in verify(tmp_path / "log").findings[0]


@pytest.mark.parametrize(
    ("name", "offset", "finding"),
    [
        ("start", 30, "start of the log is damaged"),
        ("0000000000000001.seg", 3, "header of the segment is damaged"),
    ],
)
def test_damage_to_other_parts_is_found(
    tmp_path: Path, name: str, offset: int, finding: str
) -> None:
    make_example(tmp_path / "log")
    damage(tmp_path / "log" / name, offset)
    assert finding in verify(tmp_path / "log").findings[0]


def test_missing_parts_are_found(tmp_path: Path) -> None:
    assert not verify(tmp_path / "absent").is_sound
    make_example(tmp_path / "log")
    for path in sorted((tmp_path / "log").iterdir(), reverse=True):
        path.unlink()
        assert not verify(tmp_path / "log").is_sound
