"""Single calls under the library do what they do without it, and the block map sees them.

In scope: one call at a time, against contents that are known. Out of scope: mixtures of calls
(test_differential), sources and brokers that fail (test_failures), many processes (test_processes).
"""

import os
import zlib
from pathlib import Path

import pytest

from native.harness import BrokerThread, Driver, Place, counters, make_lazy, pages, pattern
from sqlnode.harvest import Harvester
from sqlnode.pagefault.block_map import BLOCK_BYTES, FILE_BLOCKS_MAX, BlockMap, BlockState

FILE = "base/5/16384"
CONTENT = pages(20)


def crc(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


def changed_blocks(place: Place) -> dict[str, list[int]]:
    with BlockMap(place.compute.block_map) as block_map:
        harvester = Harvester(block_map, place.compute.data)
        harvest = harvester.take()
        harvester.undo()
    return {file.path: list(file.changed) for file in harvest.files}


def block_state(place: Place, path: str, block: int) -> BlockState:
    with BlockMap(place.compute.block_map) as block_map:
        slot = block_map.find(path)
        assert slot is not None
        return block_map.state(slot.number, block)


@pytest.mark.parametrize(
    "path", [FILE, "./" + FILE, "././" + FILE, "{data}/" + FILE, "{data}//" + FILE]
)
def test_file_is_found_under_every_spelling(place: Place, path: str) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {path.format(data=place.compute.data)} ro")
        assert driver.good("pread f 24576 8192").data == crc(CONTENT[24576:32768])


@pytest.mark.parametrize("call", ["open", "openat"])
def test_every_way_to_open_follows(preloaded: Place, call: str) -> None:
    preloaded.lazy({FILE: CONTENT})
    with preloaded.serve(), preloaded.driver() as driver:
        driver.good(f"{call} f {FILE} rw")
        assert driver.good("read f 8192").data == crc(CONTENT[:8192])


def test_fortified_open_and_reads_follow(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open_2 f {FILE} rw")
        assert driver.good("read_chk f 8192").data == crc(CONTENT[:8192])
        assert driver.good("pread_chk f 81920 8192").data == crc(CONTENT[81920:90112])


def test_last_block_of_a_full_segment_faults_and_is_written(place: Place) -> None:
    last = FILE_BLOCKS_MAX - 1
    place.source.joinpath("base/5").mkdir(parents=True)
    with place.source.joinpath(FILE).open("wb") as segment:
        segment.truncate(FILE_BLOCKS_MAX * BLOCK_BYTES)
        segment.seek(last * BLOCK_BYTES)
        segment.write(CONTENT[:8192])
    make_lazy(place.compute, {FILE: FILE_BLOCKS_MAX})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.good(f"pread f {last * BLOCK_BYTES} 16384").data == crc(CONTENT[:8192])
        driver.good(f"pwrite f {last * BLOCK_BYTES + 100} 200 1")
        assert driver.run(f"pwrite f {FILE_BLOCKS_MAX * BLOCK_BYTES} 1 1").error == "EFBIG"
    assert changed_blocks(place) == {FILE: [last]}


def test_partial_write_over_a_missing_block_keeps_the_rest(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good("pwrite f 8292 50 9")
        expected = CONTENT[8192:8292] + pattern(50, 9) + CONTENT[8342:16384]
        assert driver.good("pread f 8192 8192").data == crc(expected)
    assert changed_blocks(place) == {FILE: [1]}


def test_whole_write_over_a_missing_block_is_not_overwritten_by_the_fetch(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good("posix_fadvise f 0 163840")
        driver.good("pwrite f 40960 8192 3")
        assert driver.good("pread f 0 163840").data == crc(
            CONTENT[:40960] + pattern(8192, 3) + CONTENT[49152:]
        )
    assert changed_blocks(place) == {FILE: [5]}


def test_partial_block_at_the_end_is_harvested_when_it_is_whole(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good(f"pwrite f {len(CONTENT)} 100 3")
        with BlockMap(place.compute.block_map) as block_map:
            harvester = Harvester(block_map, place.compute.data)
            (file,) = harvester.take().files
            harvester.commit()
        assert (file.blocks, list(file.changed)) == (20, [])
        driver.good(f"ftruncate f {21 * BLOCK_BYTES}")
    assert changed_blocks(place) == {FILE: [20]}


def test_truncation_inside_a_missing_block_keeps_what_is_before(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good("ftruncate f 8292")
        driver.good("ftruncate f 163840")
        assert driver.good("pread f 0 163840").data == crc(CONTENT[:8292] + bytes(163840 - 8292))


@pytest.mark.parametrize("grow", ["ftruncate f 163840", "posix_fallocate f 0 163840", "truncate"])
def test_truncated_and_grown_again_is_zeros_and_no_stale_rows(place: Place, grow: str) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good("posix_fadvise f 0 163840")
        driver.good("ftruncate f 16384")
        driver.good(f"truncate {FILE} 163840" if grow == "truncate" else grow)
        assert driver.good("pread f 0 163840").data == crc(CONTENT[:16384] + bytes(147456))
    with BlockMap(place.compute.block_map) as block_map:
        (file,) = Harvester(block_map, place.compute.data).take().files
    assert (file.blocks, file.keep_blocks, list(file.changed)) == (20, 2, [])


@pytest.mark.parametrize("remove", ["unlink", "unlinkat", "remove"])
def test_file_made_again_under_its_name_has_no_old_blocks(place: Place, remove: str) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open old {FILE} rw")
        driver.good("posix_fadvise old 0 163840")
        driver.good(f"{remove} {FILE}")
        assert driver.run(f"open f {FILE} rw").error == "ENOENT"
        driver.good(f"open f {FILE} rw,creat,excl")
        driver.good("ftruncate f 163840")
        assert driver.good("pread f 0 163840").data == crc(bytes(163840))
        driver.good("close f")
        assert (place.compute.data / FILE).read_bytes() == bytes(163840)
    with BlockMap(place.compute.block_map) as block_map:
        (file,) = Harvester(block_map, place.compute.data).take().files
    assert (file.blocks, file.keep_blocks, list(file.changed)) == (20, 0, [])


def test_removed_file_whose_blocks_were_not_all_here_is_gone_and_no_zeros(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good(f"unlink {FILE}")
        assert driver.run("pread f 0 8192").error == "ENOENT"
        assert driver.run("pwrite f 0 8192 1").error == "ENOENT"


def test_removed_file_that_was_all_here_is_still_read(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good(f"pread f 0 {len(CONTENT)}")
        driver.good("pread f 0 8192")
        driver.good(f"unlink {FILE}")
        assert driver.good("pread f 8192 8192").data == crc(CONTENT[8192:16384])


def test_removal_is_reported_although_the_name_was_used_in_between(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"unlink {FILE}")
        driver.good(f"open f {FILE} rw,creat")
        driver.good("pwrite f 0 8192 1")
        driver.good("close f")
        driver.good(f"unlink {FILE}")
    with BlockMap(place.compute.block_map) as block_map:
        harvest = Harvester(block_map, place.compute.data).take()
    assert (list(harvest.removed), list(harvest.files)) == ([FILE], [])


def test_open_with_truncation_forgets_the_blocks(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw,creat,trunc")
        assert driver.good("size f").result == 0
        driver.good("ftruncate f 8192")
        assert driver.good("pread f 0 8192").data == crc(bytes(8192))


def test_exclusive_creation_of_an_existing_file_is_refused(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        assert driver.run(f"open f {FILE} rw,creat,excl").error == "EEXIST"
        driver.good(f"open f {FILE} rw")
        assert driver.good("pread f 0 8192").data == crc(CONTENT[:8192])


def test_file_that_the_map_does_not_know_is_refused_with_a_sentence(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    (place.compute.data / "base/5/999").write_bytes(CONTENT)
    with place.driver() as driver:
        assert driver.run("open f base/5/999 rw").error == "EIO"
        assert "base/5/999" in driver.said()
        assert "not in the block map" in driver.said()


def test_empty_file_that_the_map_does_not_know_is_a_new_one(place: Place) -> None:
    place.lazy({})
    (place.compute.data / "base/5/999").touch()
    with place.driver() as driver:
        driver.good("open f base/5/999 rw")
        driver.good("pwrite f 0 8192 1")
    assert changed_blocks(place) == {"base/5/999": [0]}


@pytest.mark.parametrize("call", ["rename", "link"])
@pytest.mark.parametrize("names", [(FILE, "base/5/7"), (FILE, "other"), ("other", FILE)])
def test_data_files_are_not_renamed_or_linked(
    preloaded: Place, call: str, names: tuple[str, str]
) -> None:
    preloaded.lazy({FILE: CONTENT})
    (preloaded.compute.data / "other").touch()
    with preloaded.driver() as driver:
        assert driver.run(f"{call} {names[0]} {names[1]}").error == "EPERM"
        assert "data files cannot be" in driver.said()
    assert counters(preloaded.compute)[f"unexpected_{call}"] == 1


def test_other_files_are_renamed_and_linked(preloaded: Place) -> None:
    preloaded.lazy({})
    (preloaded.compute.data / "one").touch()
    with preloaded.driver() as driver:
        driver.good("link one two")
        driver.good("rename two three")
        driver.good("symlink three four")
    assert (preloaded.compute.data / "four").exists()


def test_tablespace_outside_is_refused(preloaded: Place, tmp_path: Path) -> None:
    preloaded.lazy({})
    with preloaded.driver() as driver:
        assert driver.run(f"symlink {tmp_path} pg_tblspc/16400").error == "EPERM"
        assert "allow_in_place_tablespaces" in driver.said()
    assert counters(preloaded.compute)["refused_tablespaces"] == 1


def test_appending_is_refused_because_the_map_could_not_follow(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.driver() as driver:
        assert driver.run(f"open f {FILE} rw,append").error == "EOPNOTSUPP"
        assert "append" in driver.said()


def test_stdio_reads_everything_and_writes_nothing(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        assert driver.good(f"fopen {FILE} r").data == crc(CONTENT)
        assert driver.run(f"fopen {FILE} w").error == "EOPNOTSUPP"
        assert driver.run(f"fopen {FILE} r+").error == "EOPNOTSUPP"
        assert driver.run("fopen base/5/12345 r").error == "ENOENT"
    assert counters(place.compute)["unexpected_fopen"] == 4


def test_private_mapping_sees_the_pages_and_a_shared_one_is_refused(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.good("mmap f 8192 16384 private").data == crc(CONTENT[8192:24576])
        assert driver.run("mmap f 0 8192 shared").error == "EOPNOTSUPP"
    assert counters(place.compute)["unexpected_mmap"] == 2


def test_copies_of_a_descriptor_fault_too(place: Place) -> None:
    place.lazy({FILE: CONTENT, "base/5/2": CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good("open g base/5/2 rw")
        driver.good("dup copy f")
        driver.good("close f")
        assert driver.good("pread copy 8192 8192").data == crc(CONTENT[8192:16384])
        driver.good("dup2 g copy")
        driver.good("pwrite g 24576 8192 1")
    assert changed_blocks(place) == {FILE: [3]}
    assert counters(place.compute)["unexpected_dup"] == 2


@pytest.mark.parametrize("flags", [0, 2])  # 2: CLOSE_RANGE_UNSHARE, which closes as well
def test_closed_range_of_descriptors_is_forgotten(place: Place, flags: int) -> None:
    place.lazy({FILE: CONTENT})
    (place.compute.data / "PG_VERSION").write_bytes(bytes(8192))
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good(f"close_range f {flags}")
        driver.good("open v PG_VERSION rw")
        driver.good("pwrite v 0 8192 1")
    assert changed_blocks(place) == {}


def test_number_of_a_descriptor_closed_behind_the_library_may_be_used_again(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    (place.compute.data / "PG_VERSION").write_bytes(bytes(8192))
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good("reuse f PG_VERSION rw")
        driver.good("pwrite f 0 8192 1")
    assert changed_blocks(place) == {}


def test_punching_holes_is_refused(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.run("fallocate f 3 0 8192").error == "EOPNOTSUPP"


def test_bad_arguments_fail_as_they_do_without_the_library(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.run("pread f -8192 8192").error == "EINVAL"
        assert driver.run("pwrite f -8192 8192 1").error == "EINVAL"
        assert driver.run("ftruncate f -1").error == "EINVAL"
        assert driver.run("posix_fallocate f -1 10").error == "EINVAL"
        assert driver.run("pread none 0 8192").error == "EBADF"
        assert driver.run(f"open g {FILE} ro,directory").error == "ENOTDIR"
        assert driver.good(f"pread f {1 << 40} 8192").result == 0
        assert driver.good("pread f 0 0").result == 0


def test_directories_and_foreign_files_pass_through(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    for name in ("base/5/t3_16384", "base/5/PG_VERSION", "base/pgsql_tmp"):
        (place.compute.data / name).write_bytes(CONTENT)
    with place.driver() as driver:
        driver.good("open d base/5 ro,directory")
        for name in ("base/5/t3_16384", "base/5/PG_VERSION", "base/pgsql_tmp"):
            driver.good(f"open f {name} rw")
            assert driver.good("pread f 0 8192").data == crc(CONTENT[:8192])
            driver.good("pwrite f 0 8192 1")
    assert changed_blocks(place) == {}


def test_writes_between_take_and_commit_belong_to_the_next_harvest(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver, BlockMap(place.compute.block_map) as block_map:
        harvester = Harvester(block_map, place.compute.data)
        driver.good(f"open f {FILE} rw")
        driver.good("pwrite f 0 16384 1")
        assert [list(file.changed) for file in harvester.take().files] == [[0, 1]]
        driver.good("pwrite f 8192 16384 2")
        harvester.commit()
        assert [list(file.changed) for file in harvester.take().files] == [[1, 2]]
        driver.good("pwrite f 24576 8192 3")
        harvester.undo()
        assert [list(file.changed) for file in harvester.take().files] == [[1, 2, 3]]
        harvester.commit()
        assert list(harvester.take().files) == []


def scan(driver: Driver, blocks: int) -> None:
    for block in range(blocks):
        driver.good(f"pread f {block * BLOCK_BYTES} 8192")


def test_sequential_scan_widens_to_a_mebibyte(preloaded: Place) -> None:
    preloaded.lazy({FILE: pages(1024)})
    with preloaded.serve() as served, preloaded.driver() as driver:
        driver.good(f"open f {FILE} ro")
        scan(driver, 1024)
        assert counts(served) <= 24
    statistics = counters(preloaded.compute)
    assert statistics["fault_blocks"] + statistics["prefetch_blocks"] == 1024


def counts(served: BrokerThread) -> int:
    return served.broker.counters.reads


def test_scattered_reads_fetch_what_they_need(preloaded: Place) -> None:
    preloaded.lazy({FILE: pages(1024)})
    with preloaded.serve(), preloaded.driver() as driver:
        driver.good(f"open f {FILE} ro")
        for block in range(0, 1000, 100):
            driver.good(f"pread f {block * BLOCK_BYTES} 8192")
    assert counters(preloaded.compute)["fault_blocks"] == 10
    assert block_state(preloaded, FILE, 101) == BlockState.MISSING
    assert os.stat(preloaded.compute.data / FILE).st_blocks * 512 <= 10 * BLOCK_BYTES + 4096
