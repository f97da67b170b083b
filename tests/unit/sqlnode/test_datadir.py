"""Building the data directory of a cut: sparse, private, complete, or refused with a sentence.

In scope: directories made from descriptions that are written here. Out of scope: postgres on top of
them (tests/integration).
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from unit.sqlnode.test_control_file import SYSTEM_IDENTIFIER, control_bytes

from sqlnode.control_file import ControlFileError
from sqlnode.datadir import (
    ComputeDir,
    DataDirectoryError,
    DirectoryLock,
    Expectations,
    adopt_data_directory,
    build_data_directory,
    open_block_map,
)
from sqlnode.page_source import CutDescription, DataFile, SourceError
from sqlnode.pagefault.block_map import BlockMapError
from sqlnode.servers import PgVersion

VERSION_18 = Expectations(server_version=PgVersion(18, 4))


def cut_of(
    *files: DataFile, small: Mapping[str, bytes] | None = None, directories: tuple[str, ...] = ()
) -> CutDescription:
    contents = {"PG_VERSION": b"18\n", "global/pg_control": control_bytes(), **(small or {})}
    return CutDescription(files=files, small_files=contents, directories=directories)


@pytest.fixture
def compute(tmp_path: Path) -> ComputeDir:
    return ComputeDir(tmp_path)


def test_directory_is_sparse_and_its_map_says_what_is_missing(compute: ComputeDir) -> None:
    cut = cut_of(DataFile("base/5/1", 1000), DataFile("global/2", 0), directories=("base/5",))
    control = build_data_directory(cut, compute, VERSION_18)
    assert control.system_identifier == SYSTEM_IDENTIFIER
    status = (compute.data / "base/5/1").stat()
    assert (status.st_size, status.st_blocks) == (1000 * 8192, 0)
    assert (compute.data / "PG_VERSION").read_bytes() == b"18\n"
    assert (compute.data / "pg_wal/archive_status").is_dir()
    with open_block_map(compute) as block_map:
        assert block_map.system_identifier == SYSTEM_IDENTIFIER
        assert [(slot.path, slot.missing) for slot in block_map.slots()] == [
            ("base/5/1", 1000),
            ("global/2", 0),
        ]


def test_everything_belongs_to_its_user_alone(compute: ComputeDir) -> None:
    build_data_directory(cut_of(DataFile("global/1", 3)), compute, VERSION_18)
    for folder, _, names in os.walk(compute.data):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        for name in names:
            assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600
    assert stat.S_IMODE(compute.block_map.stat().st_mode) == 0o600


@pytest.mark.parametrize("leftover", ["data", "block_map"])
def test_leftovers_are_refused_and_not_touched(compute: ComputeDir, leftover: str) -> None:
    (compute.root / leftover).mkdir()
    with pytest.raises(DataDirectoryError, match=f"{leftover} exists already; delete it"):
        build_data_directory(cut_of(), compute, VERSION_18)
    assert os.listdir(compute.root) == [leftover]


@pytest.mark.parametrize(
    ("expected", "sentence"),
    [
        (Expectations(server_version=PgVersion(17, 1)), "17"),
        (Expectations(server_version=PgVersion(18, 4), system_identifier=5), "identifier"),
    ],
)
def test_cut_of_another_cluster_or_version_is_refused(
    compute: ComputeDir, expected: Expectations, sentence: str
) -> None:
    with pytest.raises(ControlFileError, match=sentence):
        build_data_directory(cut_of(), compute, expected)
    assert not compute.data.exists()


def test_cut_without_a_control_file_is_refused(compute: ComputeDir) -> None:
    cut = CutDescription(files=[], small_files={}, directories=[])
    with pytest.raises(SourceError, match="has no global/pg_control"):
        build_data_directory(cut, compute, VERSION_18)


@pytest.mark.parametrize(
    ("cut", "sentence"),
    [
        (cut_of(DataFile("../1", 1)), r"lists \.\./1, which is no data file"),
        (cut_of(DataFile("base/5/t3_1", 1)), "which is no data file"),
        (cut_of(DataFile("global/1", 131073)), "gives global/1 131073 blocks"),
        (cut_of(DataFile("global/1", -1)), "gives global/1 -1 blocks"),
        (cut_of(small={"../evil": b""}), "which is outside the data directory"),
        (cut_of(small={"/evil": b""}), "which is outside the data directory"),
        (cut_of(directories=("base/../../evil",)), "which is outside the data directory"),
    ],
)
def test_cut_that_lies_is_refused_and_leaves_no_map(
    compute: ComputeDir, cut: CutDescription, sentence: str
) -> None:
    with pytest.raises(SourceError, match=sentence):
        build_data_directory(cut, compute, VERSION_18)
    assert not compute.block_map.exists()
    assert not (compute.root.parent / "evil").exists()


def test_file_listed_twice_is_refused(compute: ComputeDir) -> None:
    cut = cut_of(DataFile("global/1", 1), DataFile("global/1", 2))
    with pytest.raises(BlockMapError, match="cannot take global/1: File exists"):
        build_data_directory(cut, compute, VERSION_18)


def test_missing_folder_is_a_sentence(compute: ComputeDir) -> None:
    with pytest.raises(DataDirectoryError, match=r"base/77/1 cannot be made \(No such file"):
        build_data_directory(cut_of(DataFile("base/77/1", 1)), compute, VERSION_18)


def test_complete_directory_is_adopted_with_nothing_missing(compute: ComputeDir) -> None:
    cut = cut_of(DataFile("global/1", 100))
    adopt_data_directory(cut, compute, VERSION_18)
    with open_block_map(compute) as block_map:
        (slot,) = block_map.slots()
    assert (slot.path, slot.missing, slot.is_new) == ("global/1", 0, False)


def test_directory_has_one_agent_at_a_time(compute: ComputeDir) -> None:
    lock = DirectoryLock(compute)
    with pytest.raises(DataDirectoryError, match=f"another agent \\(process {os.getpid()}\\)"):
        DirectoryLock(compute)
    lock.release()
    DirectoryLock(compute).release()
