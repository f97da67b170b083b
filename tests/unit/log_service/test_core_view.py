"""What the Raft core is served: from memory, or from the disk while it waits."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unit.log_service.group_world import CountingWriter
from unit.log_service.log_world import make_log, run_of, write

from log_service.core_view import CoreView
from log_service.disk_errors import DiskReadError
from log_service.group_log import GroupLog
from log_service.log_contents import LogContents
from log_service.log_state import LogStart
from log_service.record import Record
from raft.types import Config, Entry

ALL_BYTES = 1 << 30


class UnreadableLog(GroupLog):
    """A log whose disk refuses to be read when the test says so."""

    error: Exception | None = None

    def read(self, first: int, last: int, bytes_max: int) -> list[Record]:
        """Read, or not."""
        if self.error is not None:
            raise self.error
        return super().read(first, last, bytes_max)


class Desk:
    """A view of a log of ten entries that was just opened: nothing is in memory."""

    def __init__(self, directory: Path) -> None:
        log = make_log(directory, snapshot=LogStart(index=0, term=0))
        self.records = run_of(10)
        write(log, self.records)
        settings = log._settings
        log.close()
        self.disk = UnreadableLog.open(directory, settings)
        self.contents = LogContents(self.disk, recent_bytes_max=1000)
        self.writer = CountingWriter()
        self.told = 0
        self.view = CoreView(
            "demo.main", self.disk, self.contents, writer=self.writer, available=self._available
        )

    def _available(self) -> None:
        self.told += 1

    def indices(self, first: int, last: int, bytes_max: int = ALL_BYTES) -> list[int]:
        """Ask the view."""
        entries = self.view.entries(first, last, bytes_max)
        assert [entry.ref for entry in entries] == [self.records[e.index - 1] for e in entries]
        return [entry.index for entry in entries]


@contextmanager
def desk_in(directory: Path) -> Iterator[Desk]:
    desk = Desk(directory)
    try:
        yield desk
    finally:
        desk.writer.let_go()
        desk.writer.close()
        desk.disk.close()


def run(tmp_path: Path, story: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        with desk_in(tmp_path / "log") as desk:
            await story(desk)

    asyncio.run(main())


def test_what_is_only_on_disk_is_fetched_and_then_served(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        assert desk.indices(3, 7) == []
        assert desk.indices(3, 7) == []  # one fetch at a time
        await desk.writer.until_idle()
        assert desk.told == 1
        assert desk.indices(3, 7) == [3, 4, 5, 6, 7]
        assert desk.indices(5, 6) == [5, 6]
        assert desk.indices(3, 7, 1) == [3]
        two = desk.records[0].size_bytes * 2
        assert desk.indices(4, 7, two) == [4, 5]

    run(tmp_path, story)


def test_what_is_in_memory_is_served_at_once(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.records += run_of(3, after=desk.records)
        for record in desk.records[10:]:
            desk.contents.append(record)
        assert desk.indices(11, 13) == [11, 12, 13]
        assert desk.indices(12, 12) == [12]
        assert desk.told == 0

    run(tmp_path, story)


def test_what_was_cut_while_it_was_fetched_is_not_served(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.writer.is_held = True
        assert desk.indices(3, 7) == []
        desk.contents.cut(5)
        desk.view.forget()
        desk.records[4:] = run_of(6, after=desk.records[:4], term=2)
        for record in desk.records[4:]:
            desk.contents.append(record)
        desk.writer.let_go()
        await desk.writer.until_idle()
        assert desk.indices(3, 7) == []  # fetched anew
        desk.disk.append(desk.records[4:])
        desk.disk.sync()
        await desk.writer.until_idle()

    run(tmp_path, story)


def test_what_was_fetched_before_a_cut_is_not_served(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        assert desk.indices(3, 7) == []
        await desk.writer.until_idle()
        desk.contents.cut(5)
        desk.view.forget()
        assert desk.indices(3, 4) == []
        await desk.writer.until_idle()
        assert desk.indices(3, 4) == [3, 4]

    run(tmp_path, story)


def test_a_disk_that_cannot_be_read_is_not_asked_again_at_once(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.disk.error = DiskReadError("no")
        assert desk.indices(3, 7) == []
        await desk.writer.until_idle()
        assert desk.told == 0
        desk.disk.error = None
        assert desk.indices(3, 7) == []
        await desk.writer.until_idle()
        assert desk.indices(3, 7) == [3, 4, 5, 6, 7]

    run(tmp_path, story)


def test_the_snapshot_is_the_start_of_the_log(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        snapshot = desk.view.snapshot()
        assert snapshot is not None
        assert (snapshot.index, snapshot.term, snapshot.ref) == (0, 0, b"")
        assert snapshot.config == Config(frozenset())

    run(tmp_path, story)


def test_an_entry_names_its_record(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.view.entries(1, 1, 1)
        await desk.writer.until_idle()
        record = desk.records[0]
        assert desk.view.entries(1, 1, 1) == [Entry(1, 1, record.size_bytes, record)]

    run(tmp_path, story)
