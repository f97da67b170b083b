"""The threads that write."""

import asyncio
import threading

import pytest

from log_service.disk_writer import DiskWriter
from log_service.sync_pace import SHORT_BYTES_MAX, THREADED_JOBS, SyncPace


def test_a_job_runs_in_a_thread_and_its_end_is_told_in_the_event_loop() -> None:
    async def main() -> None:
        writer = DiskWriter(threads=1)
        told: asyncio.Future[tuple[object, object, int]] = asyncio.Future()
        writer.submit(
            threading.get_ident,
            lambda result, error: told.set_result((result, error, threading.get_ident())),
        )
        worker, error, teller = await told
        assert worker != teller == threading.get_ident()
        assert error is None
        writer.close()

    asyncio.run(main())


def test_an_error_of_a_job_is_handed_over_and_the_thread_goes_on() -> None:
    async def main() -> None:
        writer = DiskWriter(threads=1)
        for error_type in (OSError, KeyboardInterrupt):
            told: asyncio.Future[tuple[object, BaseException | None]] = asyncio.Future()

            def fail(error_type: type[BaseException] = error_type) -> None:
                raise error_type("no")

            writer.submit(fail, lambda *both, told=told: told.set_result(both))
            result, error = await told
            assert result is None
            assert isinstance(error, error_type)
        with pytest.raises(ZeroDivisionError):
            await writer.run(lambda: 1 // 0)
        assert await writer.run(lambda: 42) == 42
        writer.close()

    asyncio.run(main())


def test_a_result_that_nobody_waits_for_any_more_harms_nobody() -> None:
    async def main() -> None:
        writer = DiskWriter(threads=1)
        may_end = threading.Event()
        task = asyncio.ensure_future(writer.run(may_end.wait))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_end.set()
        assert await writer.run(lambda: "next") == "next"
        writer.close()

    asyncio.run(main())


def test_close_waits_for_the_jobs_that_were_submitted() -> None:
    async def main() -> None:
        writer = DiskWriter(threads=2)
        done: list[int] = []
        for number in range(20):
            writer.submit(lambda number=number: done.append(number), lambda _, error: None)  # type: ignore[misc]  # mypy does not infer a lambda with a default
        writer.close()
        assert sorted(done) == list(range(20))

    asyncio.run(main())


def test_a_job_that_ends_after_the_loop_harms_nobody() -> None:
    may_end = threading.Event()

    async def main() -> DiskWriter:
        writer = DiskWriter(threads=1)
        writer.submit(may_end.wait, lambda _, error: None)
        return writer

    writer = asyncio.run(main())
    may_end.set()
    writer.close()


def test_writes_run_in_place_only_after_many_fast_ones() -> None:
    pace = SyncPace(fast_us_max=100)
    for _ in range(THREADED_JOBS):
        assert not pace.may_run_in_place("a", 10)
        pace.note(50, 10)
    assert pace.may_run_in_place("a", 10)
    assert not pace.may_run_in_place("a", SHORT_BYTES_MAX + 1)
    pace.note(10_000, SHORT_BYTES_MAX + 1)  # large: it says nothing about the disk
    assert pace.may_run_in_place("a", 10)
    pace.note(101, 10)
    assert pace.may_run_in_place("a", 10)  # one slow write is no reason
    pace.note(101, 10)
    assert not pace.may_run_in_place("a", 10)


def test_slow_writes_far_apart_stay_in_place() -> None:
    pace = _fast_pace()
    for _ in range(10):
        pace.note(101, 10)
        for _ in range(THREADED_JOBS):
            pace.note(50, 10)
        assert pace.may_run_in_place("a", 10)


def _fast_pace() -> SyncPace:
    pace = SyncPace(fast_us_max=100)
    assert not pace.may_run_in_place("a", 10)
    for _ in range(THREADED_JOBS):
        pace.note(50, 10)
    return pace


def test_groups_that_take_turns_go_to_threads() -> None:
    pace = SyncPace(fast_us_max=100)
    for number in range(3 * THREADED_JOBS):
        assert not pace.may_run_in_place(number % 2, 10)
        pace.note(50, 10)


def test_zero_microseconds_mean_threads_always() -> None:
    pace = SyncPace(fast_us_max=0)
    for _ in range(2 * THREADED_JOBS):
        pace.note(0, 10)
        assert not pace.may_run_in_place("a", 10)
