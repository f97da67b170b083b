"""The same calls, on faulting blocks and on a plain copy, cannot be told apart; harvests are exact.

In scope: results, errnos and contents of random stories (stories.py); an image that follows by
harvests alone, some undone, with the broker killed in between; and proof that the comparison sees a
library that forgets something. Out of scope: several processes at once (test_processes).

A failing seed is in the test's name; SEAWALL_STORIES=N runs N seeds.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import pytest

from native.harness import (
    PAGEFAULT_DIR,
    Build,
    Driver,
    Place,
    broker_process,
    compile_library,
    pages,
)
from native.stories import PATHS, BrokerDies, Call, Story, TakeHarvest
from sqlnode.harvest import Harvest, Harvester
from sqlnode.image import Image
from sqlnode.pagefault.block_map import BLOCK_BYTES, BlockMap

SEEDS = range(int(os.environ.get("SEAWALL_STORIES", "5")))
SIZES = (300, 260, 100, 290, 3, 0, 32)  # of PATHS, in blocks


class DifferenceError(AssertionError):
    """The two sides are not the same."""


@dataclass(slots=True)
class Stage:
    """Where a story is played."""

    place: Place
    lazy: Driver
    plain: Driver
    brokers: contextlib.ExitStack
    told: list[str]

    @property
    def plain_dir(self) -> Path:
        """The copy that no library looks after."""
        return self.place.root / "plain"

    @property
    def image_dir(self) -> Path:
        """Follows the lazy directory by harvests."""
        return self.place.root / "image"

    def play(self, story: Story) -> None:
        """Raises at the first difference."""
        for event in story:
            match event:
                case Call(line):
                    self._call(line)
                case TakeHarvest(commit):
                    self._harvest(commit=commit)
                case BrokerDies():
                    self.restart_broker()
                case _:
                    assert_never(event)

    def restart_broker(self) -> None:
        """Killed, if there is one, and started again."""
        self.brokers.close()
        self.told.append("(broker)")
        self.brokers.enter_context(
            broker_process(
                self.place.compute, self.place.source, log=self.place.root / "broker.log"
            )
        )

    def _call(self, line: str) -> None:
        self.told.append(line)
        self.lazy.send(line)
        self.plain.send(line)
        for _ in range(2 if line.startswith("fork ") else 1):
            lazy, plain = self.lazy.receive(), self.plain.receive()
            if lazy != plain:
                raise DifferenceError(f"{line}: {lazy}, plain {plain}; {self.lazy.said()}")

    def _harvest(self, *, commit: bool) -> None:
        data = self.place.compute.data
        self.told.append(f"(harvest {commit=})")
        with BlockMap(self.place.compute.block_map) as block_map:
            harvester = Harvester(block_map, data)
            harvest = harvester.take()
            if not commit:
                harvester.undo()
                return
            Image(self.image_dir).apply(harvest, data)
            harvester.commit()
        for path in PATHS:
            self._compare(path)

    def _compare(self, path: str) -> None:
        """Whole blocks: PostgreSQL ignores a torn one at the end, and so does a harvest."""
        expected, image = whole_blocks(self.plain_dir / path), whole_blocks(self.image_dir / path)
        if expected != image:
            raise DifferenceError(f"the image of {path} differs: {difference(expected, image)}")


def difference(expected: bytes | None, image: bytes | None) -> str:
    if expected is None or image is None:
        return "it should not exist" if expected is None else "it is missing"
    size = max(len(expected), len(image))
    blocks = range(0, size, BLOCK_BYTES)
    wrong = [at for at in blocks if expected[at : at + BLOCK_BYTES] != image[at : at + BLOCK_BYTES]]
    return f"blocks {[at // BLOCK_BYTES for at in wrong]}; {len(expected)} bytes, not {len(image)}"


def whole_blocks(path: Path) -> bytes | None:
    if not path.exists():
        return None
    content = path.read_bytes()
    return content[: len(content) // BLOCK_BYTES * BLOCK_BYTES]


@contextlib.contextmanager
def stage(place: Place) -> Iterator[Stage]:
    files = {path: pages(size, seed=size) for path, size in zip(PATHS, SIZES, strict=True)}
    place.lazy(files)
    for copy in ("plain", "image"):
        shutil.copytree(place.source, place.root / copy)
    plain_driver = place.build.driver.with_name("driver")
    plain = Driver(plain_driver, place.root / "plain", {}, log=place.root / "plain.log")
    with contextlib.ExitStack() as brokers, plain, place.driver() as lazy:
        found = Stage(place, lazy, plain, brokers, [])
        found.restart_broker()
        yield found


def play(place: Place, seed: int) -> None:
    with stage(place) as found:
        try:
            found.play(Story(seed))
        except AssertionError as error:
            story = "\n".join(found.told[-25:])
            raise type(error)(f"seed {seed}: {error}; the story so far:\n{story}") from error


@pytest.mark.parametrize("seed", SEEDS)
def test_lazy_directory_is_like_a_plain_one(place: Place, seed: int) -> None:
    play(place, seed)


# Each takes one thing away from the library: (file, what is there, what is there instead).
FORGETFUL = {
    "pwrite is not tracked": (
        "calls_io.c",
        "WRITE(file, offset, bytes, real_pwrite(fd, buffer, bytes, offset), HERE);",
        "return real_pwrite(fd, buffer, bytes, offset);",
    ),
    "a read does not fault": (
        "calls_io.c",
        "if (!may_read(file, offset, bytes)) \\",
        "if (bytes > 100000000 && !may_read(file, offset, bytes)) \\",
    ),
    "a truncation leaves stale blocks": (
        "pagefault.c",
        "\tmap_lower(&fault_map, file->slot, blocks);",
        "\t(void)blocks;",
    ),
    "a removal is not noted": ("calls_files.c", "\tif (known)\n", "\tif (known && result)\n"),
}


@pytest.mark.parametrize("fault", FORGETFUL)
def test_comparison_notices_a_library_that_forgets(
    builds: dict[str, Build], tmp_path: Path, fault: str
) -> None:
    build = builds["preloaded"]
    forgetful = Build(fault, build.driver, forgetful_library(tmp_path, *FORGETFUL[fault]))
    with pytest.raises(AssertionError, match=r"^seed "):
        play_many(forgetful, tmp_path)


def play_many(build: Build, where: Path) -> None:
    for seed in range(12):
        place = Place(build, where / str(seed))
        place.root.mkdir()
        play(place, seed)


def forgetful_library(where: Path, file: str, before: str, after: str) -> Path:
    sources = where / "sources"
    shutil.copytree(PAGEFAULT_DIR, sources, ignore=shutil.ignore_patterns("*.so", "*.py"))
    text = (sources / file).read_text()
    assert text.count(before) == 1, "the library was changed: change this test with it"
    (sources / file).write_text(text.replace(before, after))
    return compile_library(where / "libpagefault.so", sources, optimized=False)


def test_comparison_notices_a_block_that_is_not_harvested(
    preloaded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Harvester.take

    def all_but_one(harvester: Harvester) -> Harvest:
        harvest = whole(harvester)
        files = [replace(file, changed=file.changed[1:]) for file in harvest.files]
        return replace(harvest, files=files)

    monkeypatch.setattr(Harvester, "take", all_but_one)
    with pytest.raises(DifferenceError, match="the image of"):
        play(preloaded, 0)
