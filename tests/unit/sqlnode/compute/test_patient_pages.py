"""Reads that wait for a storage node, and those that no waiting mends."""

import asyncio
from collections.abc import Sequence

from sqlnode.compute.patient_pages import PatientPages
from sqlnode.page_source import (
    CutDescription,
    DamagedPageError,
    PageRange,
    SourceError,
    SourceUnreachableError,
)
from sqlnode.pagefault.block_map import Pages

RANGES = [PageRange("base/5/1", 0, 1), PageRange("base/5/2", 0, 1)]


class _Flaky:
    """Gives what it is told to, call by call."""

    def __init__(self, *answers: list[Pages | SourceError]) -> None:
        self.answers = list(answers)
        self.asked: list[list[PageRange]] = []

    async def describe(self) -> CutDescription:
        raise NotImplementedError

    async def read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        self.asked.append(list(ranges))
        return self.answers.pop(0)

    async def close(self) -> None:
        pass


def read(source: _Flaky) -> list[Pages | SourceError]:
    return list(asyncio.run(PatientPages(source, pause_s=0).read(RANGES)))


def test_range_that_nobody_gives_now_is_asked_for_again() -> None:
    gone = SourceUnreachableError("nobody is there")
    source = _Flaky([b"one", gone], [gone], [b"two"])
    assert read(source) == [b"one", b"two"]
    assert source.asked == [RANGES, RANGES[1:], RANGES[1:]]


def test_range_that_is_damaged_or_gone_fails_at_once() -> None:
    errors: list[Pages | SourceError] = [DamagedPageError("damaged"), SourceError("dropped")]
    source = _Flaky(errors)
    assert read(source) == errors
    assert len(source.asked) == 1
