"""What is known of a log besides its bytes, while the disk is still behind."""

from pathlib import Path

from unit.log_service.group_world import GENESIS, START, info_of
from unit.log_service.log_world import make_log, run_of, write

from fabric.ids import Epoch
from fabric.lsn import Lsn
from log_service.branch import Branch, encode_branch
from log_service.log_contents import LogContents
from log_service.log_state import LogStart
from log_service.raft_codec import config_of
from log_service.record import make_record
from log_service.record_bodies import EpochBody, encode_body, kind_of
from raft.types import Snapshot


def _state(end: Lsn) -> Branch:
    branch = Branch(members=(info_of(1), info_of(2)))
    for body in (GENESIS, EpochBody(Epoch(1))):
        branch.apply(
            make_record(index=1, term=1, prev_term=0, kind=kind_of(body), body=encode_body(body))
        )
    branch.end = end
    return branch


def test_a_restored_log_is_told_from_the_old_one_that_the_disk_still_has(tmp_path: Path) -> None:
    disk = make_log(tmp_path / "log", snapshot=LogStart(index=0, term=0))
    write(disk, run_of(10))
    contents = LogContents(disk, recent_bytes_max=1000)
    restored = _state(Lsn(START + 77_000))
    config = config_of(restored.members)
    contents.restart(Snapshot(6, 2, config, encode_branch(restored)))
    assert contents.base_index == 6
    assert contents.wal_end_at(6) == (1, START + 77_000)
    body = encode_body(EpochBody(Epoch(2)))
    kind = kind_of(EpochBody(Epoch(2)))
    contents.append(make_record(index=7, term=2, prev_term=2, kind=kind, body=body))
    assert contents.branch_at(7).epoch == 2
    contents.cut(7)
    assert contents.recent.wal_end == (1, START + 77_000)
    assert encode_branch(contents.branch_at(6)) == encode_branch(restored)
    assert contents.members.keys() == {1, 2}
    disk.close()


def test_a_trim_counts_before_the_disk_has_made_it(tmp_path: Path) -> None:
    disk = make_log(tmp_path / "log", snapshot=LogStart(index=0, term=0))
    write(disk, run_of(10))
    contents = LogContents(disk, recent_bytes_max=1000)
    base = _state(Lsn(START + 400))
    contents.trimmed(4, base)
    assert contents.wal_end_at(4) == (1, START + 400)
    assert contents.wal_end_at(5) == (1, START + 500)
    assert contents.branch_at(10).end == START + 1000
    disk.close()
