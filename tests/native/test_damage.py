"""Full disks and damaged maps: an errno and a sentence, never a crash, a hang or a SIGBUS.

In scope: the disk of the data directory full, the disk of the map full, maps that are damaged, cut,
of another version or of another directory, as seen by postgres's processes and by the agent. Out of
scope: bits that flip in the state of a block unnoticed; only the header has a checksum.
"""

import ctypes
import os
import random
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native.harness import ROOT, DriverError, Place, pages
from sqlnode.datadir import ComputeDir, open_block_map
from sqlnode.harvest import Harvester
from sqlnode.pagefault.block_map import BLOCK_BYTES, BlockMap, BlockMapError

FILE = "base/5/16384"
CONTENT = pages(20)
FIRST = f"{zlib.crc32(CONTENT[:8192]):08x}"
SLOTS_AT = 4 * 4096  # of a map with 1024 slots at most: header, table, counters, buckets
MOUNT = shutil.which("mount") or "mount"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")


def in_private_namespace(work: Callable[[], None]) -> None:
    """Run in a thread with mounts of its own, which vanish with it whatever happens."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            unshare_mounts()
            work()
        except BaseException as failure:  # noqa: BLE001  # handed over to the test's thread
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def unshare_mounts() -> None:
    clone_newns = 0x00020000
    if ctypes.CDLL(None, use_errno=True).unshare(clone_newns):
        pytest.skip("no namespaces of mounts here")
    subprocess.run([MOUNT, "--make-rprivate", "/"], check=True)


def mount_small(path: Path, size_kib: int) -> None:
    path.mkdir(exist_ok=True)
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", path], check=True)


def fill_up(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    continue
            except OSError:
                continue
    return filler


@needs_root
def test_full_disk_fails_the_read_until_there_is_room(place: Place) -> None:
    def work() -> None:
        mount_small(place.compute.root, 1024)
        place.lazy({FILE: CONTENT}, slots_max=16)
        filler = fill_up(place.compute.root)
        with place.serve(), place.driver() as driver:
            driver.good(f"open f {FILE} rw")
            assert driver.run("pread f 0 8192").error == "ENOSPC"
            assert "no space for a fetched page" in driver.said()
            filler.unlink()
            assert driver.good("pread f 0 8192").data == FIRST

    in_private_namespace(work)


@needs_root
def test_map_that_cannot_grow_fails_the_write_and_not_the_process(place: Place) -> None:
    def work() -> None:
        mount_small(place.compute.root, 512)
        place.compute.data.mkdir()
        mount_small(place.compute.data, 4096)
        place.lazy({FILE: CONTENT}, slots_max=32)
        with place.serve(), place.driver() as driver:
            filler = fill_up(place.compute.root)
            driver.good(f"open f {FILE} rw")
            assert driver.run(f"pwrite f {100 * BLOCK_BYTES} 8192 1").error == "ENOSPC"
            assert "the block map cannot grow" in driver.said()
            for number in range(15):  # the rest of the page that has the first slot
                driver.good(f"open new base/5/{number + 1} rw,creat")
            assert driver.run("open new base/5/99 rw,creat").error == "ENOSPC"
            filler.unlink()
            driver.good(f"pwrite f {100 * BLOCK_BYTES} 8192 1")
            driver.good("open new base/5/99 rw,creat")
        with BlockMap(place.compute.block_map) as block_map:
            files = Harvester(block_map, place.compute.data).take().files
        assert {file.path: list(file.changed) for file in files}[FILE] == [100]

    in_private_namespace(work)


@needs_root
def test_no_map_is_made_on_a_full_disk(place: Place) -> None:
    def work() -> None:
        mount_small(place.compute.root, 64)
        (place.compute.data / "base/5").mkdir(parents=True)
        fill_up(place.compute.root)
        with pytest.raises(BlockMapError, match="cannot be made: No space left on device"):
            place.lazy({FILE: CONTENT}, slots_max=16)
        assert not place.compute.block_map.exists()

    in_private_namespace(work)


def spoil(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def cut(path: Path) -> None:
    os.truncate(path, os.path.getsize(path) - 4096)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: spoil(path, 0, b"X"), "is damaged; rebuild"),
        (lambda path: spoil(path, 100, b"X"), "is damaged; rebuild"),
        (lambda path: spoil(path, 8, b"\3"), "has version 3 and this library knows 2 only"),
        (cut, "is damaged; rebuild"),
        (cut_to_nothing, "is damaged; rebuild"),
        (Path.unlink, "No such file or directory; rebuild"),
    ],
    ids=["magic", "header", "version", "cut", "stub", "absent"],
)
def test_postgres_does_not_start_over_a_map_that_it_cannot_read(
    place: Place, damage: Callable[[Path], None], sentence: str
) -> None:
    place.lazy({FILE: CONTENT})
    damage(place.compute.block_map)
    with (
        place.driver() as driver,
        pytest.raises(DriverError, match=r"died with 1: seawall: block map [^\n]+\n$") as caught,
    ):
        driver.run(f"open f {FILE} rw")
    assert sentence in str(caught.value)
    with pytest.raises(BlockMapError, match=r"^block map [^\n]+$") as refused:
        BlockMap(place.compute.block_map)
    assert sentence in str(refused.value)


def test_unknown_bits_in_a_blocks_state_are_damage(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    spoil(place.compute.block_map, SLOTS_AT + 160 + 3, b"\x81")
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.good("pread f 0 8192").data == FIRST
        assert driver.run("pread f 24576 8192").error == "EIO"
        assert "the block map is damaged; rebuild the data directory" in driver.said()


def test_claim_of_a_block_that_nobody_misses_holds_up_no_truncation(place: Place) -> None:
    place.lazy({FILE: CONTENT}, busy_wait_ms=5)
    with place.serve(), place.driver() as driver:
        spoil(place.compute.block_map, SLOTS_AT + 160 + 9, b"\x02")
        driver.good(f"open f {FILE} rw")
        driver.good("ftruncate f 16384")


def test_agent_refuses_the_map_of_another_directory(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    moved = ComputeDir(place.root / "moved")
    place.compute.root.rename(moved.root)
    with pytest.raises(BlockMapError, match=f"was made for {place.compute.data}; rebuild"):
        open_block_map(moved)


def test_moved_data_directory_is_refused_and_not_read_as_zeros(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT})
    copy = preloaded.root / "copy"
    shutil.copytree(preloaded.compute.data, copy / "data")
    with preloaded.driver(cwd=copy / "data") as driver:
        assert driver.run(f"open f {FILE} rw").error == "EIO"
        assert "of another directory" in driver.said()


SCRIPT = """
import sys
from pathlib import Path
from sqlnode.datadir import ComputeDir
from sqlnode.harvest import Harvester
from sqlnode.pagefault.block_map import BlockMap, BlockMapError
compute = ComputeDir(Path(sys.argv[1]))
try:
    with BlockMap(compute.block_map) as block_map:
        block_map.release_all()
        for slot in block_map.slots():
            block_map.next_missing(slot.number, 0, 128)
        harvester = Harvester(block_map, compute.data)
        harvester.take()
        harvester.undo()
except BlockMapError as error:
    print(error)
"""


def flips(chance: random.Random) -> Iterator[tuple[int, bytes]]:
    """Some bytes behind the header: of the table, the buckets and the first slots."""
    for _ in range(chance.choice((1, 1, 4))):
        region = chance.choice((4096, 3 * 4096, SLOTS_AT, SLOTS_AT, SLOTS_AT + 256, SLOTS_AT + 512))
        value = chance.choice((chance.randbytes(1), chance.randbytes(4), b"\xff" * 4, bytes(4)))
        yield region + chance.randrange(60 if region >= SLOTS_AT else 16), value


@pytest.mark.parametrize("seed", range(int(os.environ.get("SEAWALL_STORIES", "12"))))
def test_damaged_table_is_no_reason_to_crash_or_hang(preloaded: Place, seed: int) -> None:
    preloaded.lazy(
        {FILE: CONTENT, "base/5/2": CONTENT}, slots_max=16, link_wait_ms=5, busy_wait_ms=5
    )
    for offset, value in flips(random.Random(seed)):
        spoil(preloaded.compute.block_map, offset, value)
    script = [sys.executable, "-c", SCRIPT, str(preloaded.compute.root)]
    agent = subprocess.run(
        script, check=False, timeout=60, capture_output=True, text=True, cwd=ROOT
    )
    assert agent.returncode == 0, agent.stderr
    with preloaded.driver() as driver:
        for path in (FILE, "base/5/2", "base/5/3"):
            driver.run(f"open f {path} rw,creat")
            driver.run("pread f 0 163840")
            driver.run("pwrite f 8192 8192 1")
            driver.run("ftruncate f 8192")
            driver.run(f"unlink {path}")
