"""Which blocks are worth fetching for the next primary."""

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from log_service.record_bodies import NOTE_BYTES_MAX
from sqlnode.compute.prewarm import Run, blocks_max, packed, unpacked, used_runs
from sqlnode.pagefault.block_map import BlockMap, MapOptions, create_block_map


class Reads:
    """A map's answers, for files of which some blocks were read."""

    def __init__(self, files: dict[str, list[tuple[int, int]]]) -> None:
        self._files = list(files.items())

    def slots_used(self) -> int:
        """How many files there are."""
        return len(self._files)

    def slot(self, number: int) -> SimpleNamespace:
        """One of them."""
        return SimpleNamespace(path=self._files[number][0], is_live=True)

    def next_used(self, number: int, start: int, count_max: int) -> tuple[int, int] | None:
        """The next run, as the map gives it."""
        for first, count in self._files[number][1]:
            if first + count > start:
                return max(first, start), min(count - max(0, start - first), count_max)
        return None


def test_files_of_which_little_was_read_come_first() -> None:
    table = [(0, 50), (70, 50)]
    reads = Reads({"base/5/20": table, "base/5/1259": [(0, 3)], "base/5/21": [(0, 1), (7, 1)]})
    small = [Run("base/5/21", 0, 1), Run("base/5/21", 7, 1), Run("base/5/1259", 0, 3)]
    rest = [Run("base/5/20", 0, 50), Run("base/5/20", 70, 50)]

    def found(blocks_max: int) -> list[Run]:
        return asyncio.run(used_runs(cast("BlockMap", reads), blocks_max))

    assert found(1_000) == [*small, *rest]
    assert found(60) == [*small, rest[0], Run("base/5/20", 70, 5)]
    assert found(4) == [*small[:2], Run("base/5/1259", 0, 2)]
    assert found(0) == []


def test_list_comes_back_as_it_was() -> None:
    runs = [Run("base/5/1259", 0, 3), Run("base/5/1259", 9, 1), Run("global/1262", 0, 1)]
    assert unpacked(packed(runs)) == runs
    assert unpacked(packed([])) == []


def test_long_list_loses_its_end_and_fits() -> None:
    rng = random.Random(5)
    runs = [Run(f"base/5/{rng.getrandbits(31)}", rng.getrandbits(16), 1) for _ in range(30_000)]
    note = packed(runs)
    assert NOTE_BYTES_MAX // 3 < len(note) <= NOTE_BYTES_MAX
    found = unpacked(note)
    assert set(found) <= set(runs)


@pytest.mark.parametrize("note", [b"", b"nonsense", packed([Run("base/5/1", 0, 1)])[:12]])
def test_damaged_list_is_refused(note: bytes) -> None:
    with pytest.raises(ValueError, match="no list of blocks"):
        unpacked(note)


def test_runs_that_no_file_can_have_are_left_out() -> None:
    wrong = [(-1, 1), (0, 0), (0, 1 << 30), (131_072, 1), (1 << 40, 1)]
    runs = [Run("base/5/1", *run) for run in wrong]
    assert unpacked(packed(runs)) == []


def test_list_is_small_beside_a_small_cache() -> None:
    assert blocks_max(64 * 1024 * 1024) == 16 * 1024 * 1024 // 8192
    assert blocks_max(10**12) == 128 * 1024 * 1024 // 8192


def test_map_without_reads_gives_no_list(tmp_path: Path) -> None:
    path = tmp_path / "map"
    create_block_map(
        path, MapOptions(data_dir=tmp_path, socket_path=tmp_path / "s", system_identifier=7)
    )
    with BlockMap(path) as block_map:
        block_map.add_file("base/5/1", missing_blocks=100)
        assert asyncio.run(used_runs(block_map, 1_000)) == []
