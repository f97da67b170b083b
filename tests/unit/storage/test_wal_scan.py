"""Checkpoints in WAL that is written here byte by byte: every split, every forgery, every damage.

In scope: what the scanner must find and must not, in WAL of a small writer that lays records out as
PostgreSQL does. Out of scope: agreement with PostgreSQL, in tests/integration/test_wal_scan.py.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.storage.wal_writer import (
    HEAP,
    ONLINE,
    PAGE_BYTES,
    SEGMENT_BYTES,
    START,
    XLOG,
    Writer,
    checkpoint_body,
    record_bytes,
)

from fabric.lsn import Lsn
from storage.wal_scan import CheckpointFound, CheckpointScanner


def scan(
    writer: Writer, cuts: Sequence[int] = (), start: int | None = None
) -> list[CheckpointFound]:
    """Feed a writer's WAL in pieces that end at these offsets."""
    content = bytes(writer.content)
    here = 0 if start is None else start - writer.start
    scanner = CheckpointScanner(SEGMENT_BYTES, Lsn(writer.start + here))
    found = []
    for cut in [*sorted(cut for cut in cuts if cut > here), len(content)]:
        found += scanner.feed(Lsn(writer.start + here), memoryview(content)[here:cut])
        here = cut
    assert scanner.end == writer.end
    return found


@pytest.mark.parametrize("magic", [0xD110, 0xD113, 0xD116, 0xD118])
def test_checkpoints_of_every_major_are_found(magic: int) -> None:
    writer = Writer(magic=magic)
    wanted = [writer.checkpoint(is_shutdown=True)]
    writer.record(b"x" * 20_000)
    wanted += [writer.checkpoint(), writer.checkpoint(tli=2)]
    assert scan(writer) == wanted


def test_pages_of_an_unknown_major_are_not_read() -> None:
    writer = Writer(magic=0xD119)
    writer.checkpoint()
    assert scan(writer) == []


@pytest.mark.parametrize("left_bytes", range(0, 136, 8))
def test_record_is_found_wherever_a_page_cuts_it(left_bytes: int) -> None:
    writer = Writer()
    writer.fill_page_but(left_bytes)
    wanted = writer.checkpoint()
    assert scan(writer) == [wanted]
    header_bytes = 24 if 0 < left_bytes < 120 else 0
    assert wanted.end - wanted.start == 120 + header_bytes


def test_record_that_a_segment_cuts_is_found() -> None:
    writer = Writer()
    while writer.end % SEGMENT_BYTES < SEGMENT_BYTES - 2 * PAGE_BYTES:
        writer.record(bytes(4096))
    writer.fill_page_but(64)
    if writer.end % SEGMENT_BYTES < SEGMENT_BYTES - PAGE_BYTES:
        writer.record(bytes(1000))
        writer.fill_page_but(64)
    wanted = writer.checkpoint()
    assert wanted.end - wanted.start == 160
    assert scan(writer) == [wanted]


def test_search_goes_on_behind_a_switch_of_segments() -> None:
    writer = Writer()
    wanted = [writer.checkpoint()]
    writer.switch()
    wanted += [writer.checkpoint(), writer.checkpoint()]
    writer.switch()
    writer.record(b"a")
    wanted.append(writer.checkpoint(is_shutdown=True))
    assert scan(writer) == wanted
    assert scan(writer, range(0, len(writer.content), 4001)) == wanted


def mixed() -> tuple[Writer, list[CheckpointFound]]:
    """Some of everything in 40 KiB."""
    writer = Writer()
    wanted = []
    for left_bytes in (0, 8, 40, 112, 300):
        writer.record(b"\x72\0\0\0\0\0\0\0" * 20)
        writer.fill_page_but(left_bytes)
        wanted.append(writer.checkpoint())
        writer.record(b"abc")
    return writer, wanted


MIXED, MIXED_WANTED = mixed()


@settings(max_examples=200)
@given(st.lists(st.integers(1, len(MIXED.content) - 1), unique=True, max_size=40))
def test_every_split_gives_the_same(cuts: list[int]) -> None:
    assert scan(MIXED, cuts) == MIXED_WANTED


def test_single_bytes_give_the_same_and_at_once() -> None:
    content = bytes(MIXED.content)
    scanner = CheckpointScanner(SEGMENT_BYTES, Lsn(START))
    ends = []
    for offset in range(len(content)):
        found = scanner.feed(Lsn(START + offset), content[offset : offset + 1])
        ends += [(checkpoint.end, START + offset + 1) for checkpoint in found]
    assert ends == [(wanted.end, wanted.end) for wanted in MIXED_WANTED]


@given(st.integers(START, MIXED.end - 1))
def test_search_can_begin_anywhere(start: int) -> None:
    found = scan(MIXED, start=start)
    assert found == [wanted for wanted in MIXED_WANTED if wanted.start >= start]


def test_gap_is_refused() -> None:
    scanner = CheckpointScanner(SEGMENT_BYTES, Lsn(START))
    scanner.feed(Lsn(START), bytes(10))
    with pytest.raises(ValueError, match="does not continue"):
        scanner.feed(Lsn(START + 11), b"a")
    scanner.restart(Lsn(START + 11))
    assert scanner.feed(Lsn(START + 11), b"a") == []


# What a user could store.


def stored(forged: bytes, padding: int = 6) -> tuple[Writer, int]:
    """WAL with a row that holds these bytes, 8-aligned; where they are."""
    writer = Writer()
    writer.record(b"first")
    begin = writer.record(bytes(padding + 2) + forged + bytes(50))
    return writer, begin + 24 + padding + 2


def test_copy_of_a_checkpoint_in_a_row_is_not_taken() -> None:
    writer = Writer()
    wanted = writer.checkpoint()
    copy = bytes(writer.content[wanted.start - START : wanted.end - START])
    for size_bytes in (0, 8, 9000, 50_000):
        writer.record(bytes(size_bytes) + copy * 300)
    assert scan(writer) == [wanted]


def forged_pair(at: int) -> bytes:
    """Two records that follow each other and name the right positions, if they are stored there."""
    first = record_bytes(at - 64, b"12345678", manager=HEAP, info=0, xid=3)
    body = checkpoint_body(at - 64, 1)
    return first + record_bytes(at, body, manager=XLOG, info=ONLINE, xid=0)


def test_forged_chain_of_records_is_not_taken() -> None:
    _, at = stored(bytes(200))
    writer, found_at = stored(forged_pair(at))
    assert found_at == at
    wanted = writer.checkpoint()
    assert scan(writer) == [wanted]
    # Where the page's start is not at hand it is a hint, which costs its reader a pause.
    hints = scan(writer, start=at - 8)
    assert [hint.start for hint in hints] == [at + 32, wanted.start]


def test_forgery_at_the_place_of_a_continued_record_is_not_taken() -> None:
    writer = Writer()
    writer.fill_page_but(64)
    body = checkpoint_body(writer.end - 200, 1)
    forged = record_bytes(writer.end - 100, body, manager=XLOG, info=ONLINE, xid=0)
    # The record's first 40 bytes of body fill the page; the forgery begins the next one.
    writer.record(bytes(40) + forged)
    assert writer.content[-120:-6] == forged
    assert scan(writer) == []


# Damage.


@given(st.integers(0, 8 * 114 - 1))
def test_every_flipped_bit_of_a_record_is_noticed(bit: int) -> None:
    writer = Writer()
    writer.record(b"first")
    wanted = writer.checkpoint()
    writer.content[wanted.start - START + bit // 8] ^= 1 << bit % 8
    assert scan(writer) == []


def test_integers_that_look_like_a_record_are_passed_over() -> None:
    writer = Writer()
    writer.record(b"\x72\0\0\0\0\0\0\0" * 10_000)
    wanted = writer.checkpoint()
    writer.record(b"\x72\0\0\0\0\0\0\0" * 5)
    assert scan(writer) == [wanted]
