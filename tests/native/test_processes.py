"""Many processes over one map: forks, programs that are started, races for a block or a name.

In scope: what a child inherits and what it must not, faults of many at once, names that are created
and removed in competition, tables that are full or large, floods of hints. Out of scope: single
calls (test_calls), failures (test_failures).
"""

import os
import shutil
import zlib

import pytest

from native.harness import Driver, Place, counters, eventually, pages
from native.sources import GatedSource
from sqlnode.harvest import Harvester
from sqlnode.pagefault.block_map import BlockMap, BlockState

FILE = "base/5/16384"
CONTENT = pages(20)
FIRST = f"{zlib.crc32(CONTENT[:8192]):08x}"


def test_sixty_four_processes_that_fault_one_block_cause_one_read(place: Place) -> None:
    place.lazy({FILE: CONTENT}, busy_wait_ms=60_000)
    source = GatedSource(place.source)
    with place.serve(source), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.send("many 64 pread f 0 8192")
        eventually(lambda: counters(place.compute)["waits"] == 63)
        source.open.set()
        assert {driver.receive().data for _ in range(64)} == {FIRST}
        assert driver.receive().result == 64
        assert source.reads == 1


def test_waiters_that_lose_patience_join_the_read_under_way(place: Place) -> None:
    place.lazy({FILE: CONTENT}, busy_wait_ms=1)
    source = GatedSource(place.source)
    with place.serve(source), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.send("many 16 pread f 0 8192")
        eventually(lambda: counters(place.compute)["wait_timeouts"] == 15)
        source.open.set()
        assert {driver.receive().data for _ in range(16)} == {FIRST}
        assert driver.receive().result == 16
        # Two, if an impatient waiter's question overtook the claimer's own.
        assert source.reads <= 2


def test_many_processes_read_all_blocks_right(place: Place) -> None:
    content = pages(600)
    place.lazy({FILE: content})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.send(f"many 12 pread f 0 {len(content)}")
        expected = f"{zlib.crc32(content):08x}"
        assert {driver.receive().data for _ in range(12)} == {expected}
        driver.receive()
    with BlockMap(place.compute.block_map) as block_map:
        slot = block_map.find(FILE)
        assert slot is not None
        assert slot.missing == 0
        assert {block_map.state(slot.number, block) for block in range(600)} == {BlockState(0)}


def test_child_faults_on_a_connection_of_its_own(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good("pread f 0 8192")
        for block in (3, 7):
            driver.send(f"fork pread f {block * 8192} 8192")
            page = CONTENT[block * 8192 : (block + 1) * 8192]
            assert driver.receive().data == f"{zlib.crc32(page):08x}"
            assert driver.receive().result == 1
        driver.good("pread f 98304 8192")


def test_no_descriptor_of_ours_is_inherited_by_programs(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT})
    with preloaded.serve(), as_program(preloaded, "postgres", "{}") as driver:
        driver.good(f"open f {FILE} rw,cloexec")
        driver.good("pread f 0 8192")
        assert driver.run("exec ls /proc/self/fd").data == "0,1,2,3,"  # 3: the listing's own


def as_program(place: Place, name: str, preload: str) -> Driver:
    program = place.root / name
    shutil.copy(place.build.driver, program)
    environment = {
        "LD_PRELOAD": preload.format(place.build.library),
        "SEAWALL_BLOCK_MAP": str(place.compute.block_map),
    }
    return Driver(program, place.compute.data, environment, log=place.root / "driver.log")


@pytest.mark.parametrize(
    ("preload", "left"),
    [
        ("{}", None),
        ("libm.so.6:{}", "libm.so.6:"),
        ("{}:libm.so.6", "libm.so.6"),
        ("{} libm.so.6", "libm.so.6"),
        ("libm.so.6:{}:libdl.so.2", "libm.so.6:libdl.so.2"),
    ],
)
def test_programs_that_postgres_starts_are_clean(
    preloaded: Place, preload: str, left: str | None
) -> None:
    preloaded.lazy({FILE: CONTENT})
    with preloaded.serve(), as_program(preloaded, "postgres", preload) as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.good("pread f 0 8192").data == FIRST
        reply = driver.good("environment LD_PRELOAD")
        assert (reply.result, reply.data) == ((0, "-") if left is None else (1, left))
        assert driver.good("environment SEAWALL_BLOCK_MAP").result == 0
        assert "pagefault" not in driver.run("exec env").data


def test_a_program_in_between_passes_the_library_on(preloaded: Place) -> None:
    preloaded.lazy({})
    with as_program(preloaded, "pg_ctl", "{}") as driver:
        output = driver.run("exec env").data
    assert f"LD_PRELOAD={preloaded.build.library}," in output
    assert f"SEAWALL_BLOCK_MAP={preloaded.compute.block_map}," in output


def test_whoever_wins_the_race_for_a_name_has_a_tracked_file(place: Place) -> None:
    place.lazy({})
    names = [f"base/5/{number}" for number in range(1, 41)]
    with place.driver() as driver:
        for name in names:
            driver.send(f"many 8 win {name}")
            assert sum(driver.receive().result for _ in range(8)) == 1
            assert driver.receive().result == 8
        for name in names:
            driver.good(f"open f {name} ro")
            driver.good("pread f 0 8192")
    with BlockMap(place.compute.block_map) as block_map:
        files = Harvester(block_map, place.compute.data).take().files
    assert {file.path: list(file.changed) for file in files} == {name: [0] for name in names}


def test_competing_creations_and_removals_leave_a_sound_table(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.serve(), place.driver() as driver, place.driver() as prober:
        prober.send("probe 20000 base/5/77")
        driver.send("many 6 churn 400 base/5/77")
        assert prober.receive().result == 0, prober.said()
        made = [driver.receive() for _ in range(6)]
        assert driver.receive().result == 6
        assert all(reply.ok for reply in made)
        assert sum(reply.result for reply in made) > 0
        driver.run("unlink base/5/77")
        driver.good("open f base/5/77 rw,creat,excl")
        driver.good("pwrite f 0 8192 1")
        driver.good(f"open g {FILE} rw")
        assert driver.good("pread g 0 8192").data == FIRST
    with BlockMap(place.compute.block_map) as block_map:
        live = [slot.path for slot in block_map.slots()]
        assert sorted(live) == [FILE, "base/5/77"]
        files = Harvester(block_map, place.compute.data).take().files
    assert [(file.path, list(file.changed)) for file in files] == [("base/5/77", [0])]


def test_slots_of_twenty_thousand_files_are_used_again(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT}, slots_max=10_002)
    with preloaded.serve(), preloaded.driver() as driver:
        assert driver.good("names 100000 20000").result == 10_000
        assert driver.run("open f base/5/20001 rw,creat").ok
        assert driver.run("open g base/5/20003 rw,creat").error == "ENOSPC"
        assert "no room for another file" in driver.said()
        driver.good(f"open f {FILE} rw")
        assert driver.good("pread f 0 8192").data == FIRST
    with BlockMap(preloaded.compute.block_map) as block_map:
        assert block_map.slots_used() == 10_002
        assert len(Harvester(block_map, preloaded.compute.data).take().files) == 10_001


def test_full_table_refuses_new_files_until_one_is_removed(place: Place) -> None:
    place.lazy({FILE: CONTENT}, slots_max=3, tracks_changes=False)
    with place.serve(), place.driver() as driver:
        driver.good("open a base/5/1 rw,creat")
        driver.good("open b base/5/2 rw,creat")
        assert driver.run("open c base/5/3 rw,creat").error == "ENOSPC"
        assert not (place.compute.data / "base/5/3").exists()
        driver.good("unlink base/5/1")
        driver.good("open c base/5/3 rw,creat")


def test_flood_of_hints_ends_and_starves_nobody(preloaded: Place) -> None:
    blocks = 8192
    preloaded.lazy({FILE: CONTENT})
    (preloaded.source / "base/5/2").write_bytes(b"")
    os.truncate(preloaded.source / "base/5/2", blocks * 8192)
    with BlockMap(preloaded.compute.block_map) as block_map:
        block_map.add_file("base/5/2", missing_blocks=blocks)
    (preloaded.compute.data / "base/5/2").write_bytes(b"")
    os.truncate(preloaded.compute.data / "base/5/2", blocks * 8192)
    with preloaded.serve(), preloaded.driver() as driver, preloaded.driver() as other:
        driver.good("open f base/5/2 rw")
        driver.send(f"flood f {blocks} 200000")
        other.good(f"open g {FILE} rw")
        assert other.good("pread g 0 8192").data == FIRST
        assert driver.receive().result == 200_000
        other.good("open g base/5/2 rw")
        assert (
            other.good(f"pread g {(blocks - 1) * 8192} 8192").data
            == f"{zlib.crc32(bytes(8192)):08x}"
        )
