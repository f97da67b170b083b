"""Which blocks are worth fetching for the next primary."""

import asyncio
import random
from pathlib import Path

import pytest

from log_service.record_bodies import NOTE_BYTES_MAX
from sqlnode.compute.prewarm import Run, blocks_max, chosen, packed, unpacked, used_runs
from sqlnode.pagefault.block_map import BlockMap, MapOptions, create_block_map


def test_files_of_which_little_was_read_come_first() -> None:
    table = [Run("base/5/20", 0, 50), Run("base/5/20", 70, 50)]
    catalog = [Run("base/5/1259", 0, 3)]
    index = [Run("base/5/21", 0, 1), Run("base/5/21", 7, 1)]
    assert chosen([table, catalog, index], 1_000) == [*index, *catalog, *table]
    assert chosen([table, catalog, index], 60) == [
        *index,
        *catalog,
        table[0],
        Run("base/5/20", 70, 5),
    ]
    assert chosen([table], 0) == []


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
    runs = [Run("base/5/1", -1, 1), Run("base/5/1", 0, 0), Run("base/5/1", 0, 1 << 30)]
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

        async def runs() -> list[list[Run]]:
            return [found async for found in used_runs(block_map)]

        assert asyncio.run(runs()) == []
