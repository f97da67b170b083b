"""Which WAL files a recovery gets, and that they are copies.

In scope: the choice by name and the copying. Out of scope: recovery itself (tests/integration).
"""

import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fabric.lsn import Lsn, Tli, wal_file_name
from sqlnode.wal_files import copy_wal, segments_from

SEGMENT = 16 << 20


def names_of(numbers: list[int], tli: int = 1) -> list[str]:
    return [wal_file_name(Tli(tli), Lsn(number * SEGMENT), SEGMENT) for number in numbers]


def test_segments_from_the_redo_pointer_on_are_needed_and_all_histories() -> None:
    names = [*names_of([1, 2, 3, 4]), *names_of([3, 5], tli=2), "00000002.history"]
    others = ["archive_status", "000000010000000000000003.partial", "summaries", "x"]
    wanted = segments_from([*names, *others], Lsn(3 * SEGMENT + 77), segment_bytes=SEGMENT)
    assert wanted == sorted([*names_of([3, 4]), *names_of([3, 5], tli=2), "00000002.history"])


@given(st.lists(st.integers(1, 3000), unique=True), st.integers(1, 3000), st.integers(0, SEGMENT))
def test_nothing_older_is_copied_and_nothing_newer_left(
    numbers: list[int], redo: int, offset: int
) -> None:
    position = Lsn(min(redo * SEGMENT + offset, (redo + 1) * SEGMENT - 1))
    wanted = segments_from(names_of(numbers), position, segment_bytes=SEGMENT)
    assert wanted == sorted(names_of([number for number in numbers if number >= redo]))


def test_segments_are_copied_and_private(tmp_path: Path) -> None:
    source, data = tmp_path / "wal", tmp_path / "data"
    source.mkdir()
    (data / "pg_wal").mkdir(parents=True)
    (name,) = names_of([2])
    (source / name).write_bytes(b"wal" * 100_000)
    (source / names_of([1])[0]).write_bytes(b"old")
    assert copy_wal(source, data, Lsn(2 * SEGMENT), segment_bytes=SEGMENT) == 1
    copy = data / "pg_wal" / name
    assert copy.read_bytes() == b"wal" * 100_000
    assert copy.stat().st_nlink == 1
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
