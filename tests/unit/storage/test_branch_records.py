"""The records of branches: what was saved is found again, and damage is told in a sentence.

In scope: files. Out of scope: what a node makes of them, see integration/test_storage_nodes.py.
"""

from pathlib import Path

import pytest

from fabric.ids import BranchName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from log_service.record_bodies import Genesis
from storage.branch_records import BranchRecord, BranchRecordError, BranchRecords

MAIN = BranchName("main")
ADOPTED = BranchRecord(branch=MAIN, sources=("tcp://10.0.0.1:7201", "tcp://10.0.0.2:7201"))
FOUNDED = BranchRecord(
    branch=BranchName("founded"),
    genesis=Genesis(
        system_identifier=SystemIdentifier(7_712_643_352_795_919_893),
        tli=Tli(1),
        start=Lsn(0x200_0000),
        segment_bytes=16 << 20,
        server_version="18.4",
    ),
    first_wal=bytes(range(256)) * 32,
)


@pytest.fixture
def records(tmp_path: Path) -> BranchRecords:
    return BranchRecords(tmp_path / "branches")


def test_what_was_saved_is_found_by_another_process(records: BranchRecords, tmp_path: Path) -> None:
    records.save(ADOPTED)
    records.save(FOUNDED)
    again = BranchRecords(tmp_path / "branches")
    assert list(again.all()) == [FOUNDED, ADOPTED]
    assert again.find(MAIN) == ADOPTED
    assert again.find(BranchName("other")) is None


def test_later_record_takes_the_place_of_the_earlier(records: BranchRecords) -> None:
    records.save(ADOPTED)
    later = BranchRecord(branch=MAIN)
    records.save(later)
    assert list(records.all()) == [later]


def test_removed_record_is_gone_and_may_be_removed_again(records: BranchRecords) -> None:
    records.save(ADOPTED)
    records.remove(MAIN)
    records.remove(MAIN)
    assert list(records.all()) == []


def test_write_that_was_interrupted_leaves_the_earlier_record(
    records: BranchRecords, tmp_path: Path
) -> None:
    records.save(ADOPTED)
    (tmp_path / "branches" / "main.new").write_bytes(b'{"branch": "ma')
    assert list(records.all()) == [ADOPTED]


@pytest.mark.parametrize("content", [b"", b"{", b'{"branch": "A B"}', b'{"branch": 1}'])
def test_damaged_record_is_told_with_what_to_do(
    records: BranchRecords, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "branches" / "main.json").write_bytes(content)
    with pytest.raises(BranchRecordError, match=r"main\.json is damaged .* adopt the branch again"):
        list(records.all())


def test_record_under_another_branchs_name_is_refused(
    records: BranchRecords, tmp_path: Path
) -> None:
    records.save(ADOPTED)
    (tmp_path / "branches" / "main.json").rename(tmp_path / "branches" / "other.json")
    with pytest.raises(BranchRecordError, match="is that of branch main"):
        list(records.all())


def test_directory_that_cannot_be_written_is_told(records: BranchRecords, tmp_path: Path) -> None:
    (tmp_path / "branches").rmdir()
    with pytest.raises(BranchRecordError, match="cannot be written: No such file or directory"):
        records.save(ADOPTED)
