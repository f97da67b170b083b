"""Harvests and images without postgres: what is listed, what an image makes of it.

In scope: what programs did to files and map, set up by hand. Out of scope: exactness under random
calls (tests/native/test_differential.py) and under postgres (tests/integration).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlnode.harvest import ChangedFile, Harvest, Harvester
from sqlnode.image import Image
from sqlnode.page_source import SourceError
from sqlnode.pagefault.block_map import BlockMap, MapOptions, create_block_map

BLOCK = 8192


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for directory in ("base/5", "global"):
        (tmp_path / "data" / directory).mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def block_map(data: Path, tmp_path: Path) -> Iterator[BlockMap]:
    options = MapOptions(data_dir=data, socket_path=Path("/s"), system_identifier=1, slots_max=64)
    create_block_map(tmp_path / "map", options)
    with BlockMap(tmp_path / "map") as opened:
        yield opened


def harvest_of(*files: ChangedFile, removed: tuple[str, ...] = ()) -> Harvest:
    return Harvest(files=files, removed=removed, small_files={}, directories=["base/5"])


def write(data: Path, block_map: BlockMap, path: str, content: bytes, *blocks: int) -> None:
    (data / path).write_bytes(content)
    slot = block_map.find(path)
    assert slot is not None
    for block in blocks:
        block_map.keep_dirty(slot.number, block)


def test_only_what_changed_is_listed(data: Path, block_map: BlockMap) -> None:
    for path in ("base/5/1", "base/5/2"):
        block_map.add_file(path, missing_blocks=0)
    write(data, block_map, "base/5/2", bytes(5 * BLOCK), 1, 4)
    (data / "global/pg_control").write_bytes(b"control")
    harvest = Harvester(block_map, data).take()
    assert harvest.files == [
        ChangedFile(path="base/5/2", blocks=5, keep_blocks=None, changed=[1, 4])
    ]
    assert harvest.changed_blocks == 2
    assert harvest.small_files == {"global/pg_control": b"control"}
    assert list(harvest.directories) == ["base/5"]


def test_two_harvests_at_once_are_a_bug(data: Path, block_map: BlockMap) -> None:
    block_map.add_file("base/5/1", missing_blocks=0)
    write(data, block_map, "base/5/1", bytes(BLOCK), 0)
    harvester = Harvester(block_map, data)
    harvester.take()
    with pytest.raises(AssertionError, match="commit or undo the last harvest first"):
        harvester.take()


def test_blocks_behind_the_end_are_not_listed(data: Path, block_map: BlockMap) -> None:
    block_map.add_file("base/5/1", missing_blocks=0)
    write(data, block_map, "base/5/1", bytes(2 * BLOCK), 1, 2, 7)
    (file,) = Harvester(block_map, data).take().files
    assert list(file.changed) == [1]


def test_file_that_is_not_there_yet_stays_for_the_next_harvest(
    data: Path, block_map: BlockMap
) -> None:
    block_map.add_file("base/5/1", missing_blocks=0)
    block_map.keep_dirty(0, 0)
    harvester = Harvester(block_map, data)
    assert harvester.take().files == []
    harvester.commit()
    (data / "base/5/1").write_bytes(bytes(BLOCK))
    assert [list(file.changed) for file in harvester.take().files] == [[0]]


def test_harvest_that_fails_takes_nothing(data: Path, block_map: BlockMap, tmp_path: Path) -> None:
    block_map.add_file("base/5/1", missing_blocks=0)
    write(data, block_map, "base/5/1", bytes(BLOCK), 0)
    (data / "pg_tblspc").mkdir()
    (data / "pg_tblspc/1").symlink_to(tmp_path)
    harvester = Harvester(block_map, data)
    with pytest.raises(SourceError, match="tablespace outside"):
        harvester.take()
    (data / "pg_tblspc/1").unlink()
    assert [list(file.changed) for file in harvester.take().files] == [[0]]


def test_image_follows_changes_lengths_and_removals(data: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    (image / "base/5").mkdir(parents=True)
    (image / "base/5/1").write_bytes(b"old " * 4096)
    (image / "base/5/2").write_bytes(b"gone")
    (data / "base/5/1").write_bytes(b"new " * 2048 + b"NEW " * 4096)
    change = ChangedFile(path="base/5/1", blocks=3, keep_blocks=None, changed=[2])
    Image(image).apply(harvest_of(change, removed=("base/5/2", "base/5/3")), data)
    assert (image / "base/5/1").read_bytes() == b"old " * 4096 + b"NEW " * 2048
    assert not (image / "base/5/2").exists()


@pytest.mark.parametrize(("keep", "kept"), [(0, 0), (1, 1), (None, 2), (9, 2)])
def test_void_blocks_of_an_image_become_zeros(
    data: Path, tmp_path: Path, keep: int | None, kept: int
) -> None:
    image = tmp_path / "image"
    (image / "base/5").mkdir(parents=True)
    (image / "base/5/1").write_bytes(b"x" * 2 * BLOCK)
    (data / "base/5/1").write_bytes(bytes(4 * BLOCK))
    change = ChangedFile(path="base/5/1", blocks=4, keep_blocks=keep, changed=[])
    Image(image).apply(harvest_of(change), data)
    expected = b"x" * kept * BLOCK + bytes((4 - kept) * BLOCK)
    assert (image / "base/5/1").read_bytes() == expected


def test_image_drops_databases_and_small_files_that_are_gone(data: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    for path in ("base/5/PG_VERSION", "base/9/PG_VERSION", "pg_twophase/000002F1"):
        (image / path).parent.mkdir(parents=True, exist_ok=True)
        (image / path).write_bytes(b"18\n")
    harvest = Harvest(
        files=[],
        removed=[],
        small_files={"base/5/PG_VERSION": b"18\n", "global/pg_control": b"control"},
        directories=["base/5"],
    )
    Image(image).apply(harvest, data)
    assert not (image / "base/9").exists()
    assert not (image / "pg_twophase/000002F1").exists()
    assert (image / "global/pg_control").read_bytes() == b"control"
