"""The order of jobs on one group's log; what a group does with them is in test_group.py."""

import asyncio
from pathlib import Path

from unit.log_service.group_world import CountingWriter
from unit.log_service.log_world import make_log, run_of, write

from log_service.group_disk import GroupDisk, Write
from log_service.group_log import GroupLog
from raft.types import HardState

FIRST = run_of(1)


def make_disk(log: GroupLog, writer: CountingWriter, written: list[int]) -> GroupDisk:
    """A disk that needs nothing but what the test wants of it: it has a segment and a spare."""
    write(log, FIRST)
    while not log.prepare_spare():
        pass

    def fail(error: BaseException) -> None:
        raise error

    return GroupDisk(
        "demo.main",
        log,
        writer=writer,
        retry_ms=1,
        written=lambda writes: written.extend(write.number for write in writes),
        still_full=lambda: None,
        fatal=fail,
    )


def test_jobs_that_wait_for_a_write_run_after_it_one_at_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        writer, written = CountingWriter(), list[int]()
        log = make_log(tmp_path / "log")
        disk = make_disk(log, writer, written)
        disk.add(Write(1, None, None, run_of(3, after=FIRST), ()))
        disk.start()
        assert not disk.is_idle

        def job() -> tuple[int, int, list[int]]:
            return log.synced_index, writer.under_way, list(written)

        found = await asyncio.gather(disk.run(job), disk.run(job), disk.run(job))
        assert list(found) == [(4, 1, [1])] * 3
        assert disk.is_idle
        await disk.close()
        writer.close()

    asyncio.run(main())


def test_what_waits_is_written_at_once_and_an_empty_write_needs_no_disk(tmp_path: Path) -> None:
    async def main() -> None:
        writer, written = CountingWriter(), list[int]()
        log = make_log(tmp_path / "log")
        disk = make_disk(log, writer, written)
        records = run_of(3, after=FIRST)
        disk.add(Write(1, None, None, (), ()))
        disk.start()
        assert (written, writer.under_way) == ([1], 0)
        disk.add(Write(2, HardState(1, 2), None, records[:1], ()))
        disk.add(Write(3, None, None, (), ()))
        disk.add(Write(4, HardState(1, 2), None, records[1:], ()))
        assert disk.durable_index == 1
        disk.start()
        assert (written, writer.under_way) == ([1], 1)
        await writer.until_idle()
        assert written == [1, 2, 3, 4]
        assert (log.hard_state, disk.durable_index) == ((1, 2), 4)
        disk.add(Write(5, None, None, run_of(1, after=[*FIRST, records[0]], term=2), ()))
        assert disk.durable_index == 2  # what waits cuts the rest
        disk.start()
        await disk.close()
        writer.close()

    asyncio.run(main())
