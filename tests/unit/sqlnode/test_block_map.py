"""The block map through its binding: files, claims, harvests, refusals, and its format page.

In scope: one process. Out of scope: the library inside a program (tests/native).
"""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sqlnode.pagefault.block_map import (
    FILE_BLOCKS_MAX,
    BlockMap,
    BlockMapError,
    BlockState,
    MapOptions,
    Slot,
    SlotState,
    create_block_map,
    verify_pages,
)

FORMAT_PAGE = Path(__file__).parents[3] / "docs" / "formats" / "block_map.md"
HEADER_BYTES = 1488
COLLIDING = ("base/5/462789", "base/5/679192")  # two paths with one hash


def make_map(path: Path, **options: Any) -> Path:
    chosen: dict[str, Any] = {
        "data_dir": Path("/c/data"),
        "socket_path": Path("/c/agent.sock"),
        "system_identifier": 7,
        "slots_max": 16,
    } | options
    create_block_map(path, MapOptions(**chosen))
    return path


@pytest.fixture
def block_map(tmp_path: Path) -> Iterator[BlockMap]:
    with BlockMap(make_map(tmp_path / "map")) as opened:
        yield opened


def found(block_map: BlockMap, path: str) -> Slot:
    slot = block_map.find(path)
    assert slot is not None
    return slot


def missing_blocks(block_map: BlockMap, number: int, count: int) -> list[int]:
    states = (block_map.state(number, block) for block in range(count))
    return [block for block, state in enumerate(states) if state & BlockState.MISSING]


# Files.


def test_file_is_found_with_its_blocks(block_map: BlockMap) -> None:
    block_map.add_file("base/5/1", missing_blocks=3)
    slot = found(block_map, "base/5/1")
    assert (slot.path, slot.state, slot.missing) == ("base/5/1", SlotState.LIVE, 3)
    assert missing_blocks(block_map, slot.number, 10) == [0, 1, 2]
    assert block_map.find("base/5/2") is None


@pytest.mark.parametrize("count", [0, 87, 88, 89, 4096, 4097, FILE_BLOCKS_MAX])
def test_files_of_every_size_have_exactly_their_blocks_missing(
    block_map: BlockMap, count: int
) -> None:
    block_map.add_file("base/5/9", missing_blocks=1)
    block_map.add_file("base/5/1", missing_blocks=count)
    block_map.add_file("base/5/10", missing_blocks=1)
    slot = found(block_map, "base/5/1")
    assert slot.missing == count
    if count:
        assert block_map.state(slot.number, count - 1) == BlockState.MISSING
    if count < FILE_BLOCKS_MAX:
        assert block_map.state(slot.number, count) == BlockState(0)


def test_file_is_added_once_and_only_as_large_as_a_segment(block_map: BlockMap) -> None:
    block_map.add_file("base/5/1", missing_blocks=3)
    with pytest.raises(BlockMapError, match="cannot take base/5/1: File exists"):
        block_map.add_file("base/5/1", missing_blocks=3)
    with pytest.raises(BlockMapError, match="cannot take base/5/2: File too large"):
        block_map.add_file("base/5/2", missing_blocks=FILE_BLOCKS_MAX + 1)
    with pytest.raises(BlockMapError, match="File name too long"):
        block_map.add_file("base/5/" + "1" * 105, missing_blocks=0)
    block_map.add_file("base/5/" + "1" * 104, missing_blocks=0)


def test_table_takes_as_many_files_as_it_was_made_for(block_map: BlockMap) -> None:
    for number in range(16):
        block_map.add_file(f"base/5/{number}", missing_blocks=number)
    with pytest.raises(BlockMapError, match="No space left on device"):
        block_map.add_file("base/5/16", missing_blocks=0)
    assert [found(block_map, f"base/5/{number}").missing for number in range(16)] == [*range(16)]


def test_paths_with_one_hash_are_told_apart(block_map: BlockMap) -> None:
    block_map.add_file(COLLIDING[0], missing_blocks=1)
    assert block_map.find(COLLIDING[1]) is None
    block_map.add_file(COLLIDING[1], missing_blocks=2)
    assert [found(block_map, path).missing for path in COLLIDING] == [1, 2]


# Faults.


def test_adoption_skips_what_is_here_and_claims_the_run_behind(block_map: BlockMap) -> None:
    block_map.add_file("base/5/1", missing_blocks=10)
    slot = found(block_map, "base/5/1")
    block_map.publish(slot.number, slot.generation, 2, 2)
    assert block_map.adopt(slot.number, 2, 5) == (2, 3)
    assert block_map.adopt(slot.number, 2, 5) == (2, 3)  # again: the claims are the agent's
    assert block_map.adopt(slot.number, 0, 10) == (0, 2)
    assert block_map.adopt(slot.number, 10, 5) == (5, 0)
    assert block_map.state(slot.number, 4) == BlockState.MISSING | BlockState.BUSY
    assert block_map.next_missing(slot.number, 0, 128) == (7, 3)


def test_publishing_and_releasing_count_exactly(block_map: BlockMap) -> None:
    block_map.add_file("base/5/1", missing_blocks=100)
    slot = found(block_map, "base/5/1")
    block_map.adopt(slot.number, 80, 20)
    block_map.publish(slot.number, slot.generation, 80, 10)
    block_map.publish(slot.number, slot.generation, 80, 10)
    block_map.release(slot.number, slot.generation, 90, 10)
    assert found(block_map, "base/5/1").missing == 90
    assert block_map.state(slot.number, 95) == BlockState.MISSING


def test_pages_of_an_earlier_life_are_not_published(block_map: BlockMap) -> None:
    block_map.add_file("base/5/1", missing_blocks=4)
    slot = found(block_map, "base/5/1")
    block_map.publish(slot.number, slot.generation - 2, 0, 4)
    block_map.publish(slot.number, slot.generation + 1, 0, 4)
    assert found(block_map, "base/5/1").missing == 4


def test_new_agent_lets_go_of_every_claim(block_map: BlockMap) -> None:
    for name in ("base/5/1", "base/5/2"):
        block_map.add_file(name, missing_blocks=200)
        block_map.adopt(found(block_map, name).number, 50, 100)
    assert block_map.release_all() == 200
    assert block_map.next_missing(0, 0, 500) == (0, 200)


def test_new_agent_finds_a_block_that_was_about_to_be_dropped(tmp_path: Path) -> None:
    path = make_map(tmp_path / "map", tracks_changes=False)
    claim = BlockState.MISSING | BlockState.BUSY | BlockState.DROPPING
    with BlockMap(path) as block_map:
        block_map.add_file("base/5/1", missing_blocks=3)
        slots_at = block_map._header.slots_at
        with path.open("r+b") as file:
            file.seek(slots_at + 160)
            file.write(bytes((claim | BlockState.DIRTY, BlockState.MISSING | BlockState.BUSY)))
        assert block_map.release_all() == 2
        states = [block_map.state(0, block) for block in range(3)]
        assert states == [BlockState.DIRTY, BlockState.MISSING, BlockState.MISSING]
        assert found(block_map, "base/5/1").missing == 2


def test_slots_that_were_never_used_have_no_generation_to_guess(block_map: BlockMap) -> None:
    block_map.add_file("base/5/1", missing_blocks=1)
    assert block_map.generation(0) % 2 == 0
    assert {block_map.generation(number) for number in (1, 15, 16, 1 << 31)} == {1}


# Harvest.


def test_block_kept_dirty_is_taken_again(block_map: BlockMap) -> None:
    block_map.add_file("base/5/1", missing_blocks=0)
    block_map.keep_dirty(0, 3)
    assert block_map.next_changed(0) == 0
    assert block_map.take(0) == [3]
    block_map.keep_dirty(0, 3)
    block_map.commit(0)
    assert block_map.take(0) == [3]
    block_map.commit(0)
    assert block_map.next_changed(0) is None


@given(st.lists(st.sampled_from(["write", "take", "commit", "undo"]), max_size=30), st.data())
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_change_is_harvested_once_and_none_is_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("map", numbered=True) / "map"
    dirty: set[int] = set()
    taken: set[int] = set()
    with BlockMap(make_map(place)) as block_map:
        block_map.add_file("base/5/1", missing_blocks=0)
        for step in steps:
            if step == "write":
                block = data.draw(st.sampled_from([0, 1, 87, 88, 4095, 4096, 131071]))
                block_map.keep_dirty(0, block)
                dirty.add(block)
            elif step == "take" and not taken:
                assert set(block_map.take(0)) == dirty
                taken, dirty = dirty, set()
            elif step == "commit":
                block_map.commit(0)
                taken = set()
            elif step == "undo":
                block_map.undo(0)
                dirty, taken = dirty | taken, set()
        slot = found(block_map, "base/5/1")
        assert (slot.dirty, slot.taken) == (len(dirty), len(taken))
    place.unlink()


# Refusals.


@given(st.integers(0, HEADER_BYTES * 8 - 1))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_flipped_bit_of_the_header_is_noticed(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "map"
    if not path.exists():
        make_map(path)
    with path.open("r+b") as file:
        flip(file, bit)
        with pytest.raises(BlockMapError, match=r"^block map [^\n]+; rebuild the data directory$"):
            BlockMap(path)
        flip(file, bit)
    BlockMap(path).close()


def flip(file: Any, bit: int) -> None:
    file.seek(bit // 8)
    byte = file.read(1)[0]
    file.seek(bit // 8)
    file.write(bytes([byte ^ 1 << bit % 8]))
    file.flush()


def test_state_that_no_slot_can_have_is_damage(tmp_path: Path) -> None:
    path = make_map(tmp_path / "map")
    with BlockMap(path) as block_map:
        block_map.add_file("base/5/1", missing_blocks=0)
        with path.open("r+b") as file:
            file.seek(4 * 4096 + 32)
            file.write(b"\7")
        with pytest.raises(BlockMapError, match=r"is damaged \(slot 0: state 7\); rebuild"):
            block_map.slot(0)


def test_map_is_never_made_over_another(tmp_path: Path) -> None:
    path = make_map(tmp_path / "map")
    with pytest.raises(BlockMapError, match="cannot be made: File exists"):
        make_map(path)


def test_socket_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BlockMapError, match="use a run directory with a shorter name"):
        make_map(tmp_path / "map", socket_path=Path("/" + "x" * 106))
    make_map(tmp_path / "map", socket_path=Path("/" + "x" * 105))


def test_directory_name_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BlockMapError, match="cannot be made: Invalid argument"):
        make_map(tmp_path / "map", data_dir=Path("/" + "x" * 1023))


# Checksums.


def test_pages_of_zeros_are_new_and_others_must_have_their_checksum() -> None:
    assert verify_pages(bytes(3 * 8192), first_block=0) is None
    almost = bytearray(8192)
    almost[8191] = 1
    assert verify_pages(bytes(8192) + almost, first_block=0) == 1


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_pages_are_checked_in_every_form(form: Any) -> None:
    assert verify_pages(form(bytes([1]) * 8192), first_block=0) == 0
    assert verify_pages(form(bytes(8192)), first_block=0) is None


# The format page.


def test_worked_example_of_the_format_page_is_what_the_library_writes(tmp_path: Path) -> None:
    path = make_map(tmp_path / "map", slots_max=2, tracks_changes=True)
    with BlockMap(path) as block_map:
        block_map.add_file("base/5/1", missing_blocks=3)
        block_map.adopt(0, 1, 1)
        block_map.keep_dirty(0, 3)
    content = path.read_bytes()
    lines = re.findall(r"^([0-9a-f]{8}  .+)$", FORMAT_PAGE.read_text(), flags=re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        offset, _, rest = line.partition("  ")
        expected = bytes.fromhex(rest.partition("  ")[0])
        assert content[int(offset, 16) :][: len(expected)].hex(" ") == expected.hex(" "), offset
    (crc,) = struct.unpack_from("<I", content, HEADER_BYTES - 4)
    assert crc == zlib.crc32(content[: HEADER_BYTES - 4])
