"""The window keeps what was not taken, drops what was, and never changes what it handed out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lsn import Lsn, Tli
from log_service.history import TimelineHistory, extend_history
from storage.wal_records import PAGE_BYTES
from storage.wal_window import PIECE_BYTES_MIN, WalWindow, history_at

START = Lsn(1000)
BYTES_MAX = 100_000
PATTERN = bytes(range(251))


def window_of(*sizes: int) -> WalWindow:
    window = WalWindow(BYTES_MAX, START)
    for size_bytes in sizes:
        window.append(content(window.end, size_bytes))
    return window


def content(lsn: Lsn, size_bytes: int) -> bytes:
    """Bytes that tell where they are from."""
    first = lsn % len(PATTERN)
    return (PATTERN * (2 + size_bytes // len(PATTERN)))[first : first + size_bytes]


def read(window: WalWindow, lsn: Lsn, size_bytes: int) -> bytes | None:
    found = window.read(lsn, size_bytes)
    return None if found is None else b"".join(found)


@given(
    st.lists(st.integers(1, 3 * PIECE_BYTES_MIN), min_size=1, max_size=4),
    st.integers(0, 200_000),
    st.integers(1, 200_000),
)
def test_reads_give_what_was_appended(sizes: list[int], offset: int, bytes_max: int) -> None:
    window = window_of(*sizes)
    lsn = START + offset
    if lsn >= window.end:
        assert read(window, lsn, bytes_max) is None
    else:
        assert read(window, lsn, bytes_max) == content(lsn, min(bytes_max, window.end - lsn))


def test_what_is_before_or_behind_is_not_here() -> None:
    window = window_of(100)
    assert window.read(START - 1, 10) is None
    assert window.read(START + 100, 10) is None


def test_nothing_is_dropped_before_it_is_taken() -> None:
    window = window_of(60_000, 60_000)
    assert (window.start, window.room_bytes) == (START, 0)
    assert read(window, START, 60_000) is not None
    assert window.room_bytes == BYTES_MAX - 60_000
    window.append(content(window.end, 30_000))
    assert window.start == START + 60_000
    assert read(window, window.start, 90_000) == content(START + 60_000, 90_000)


def test_what_was_taken_stays_while_there_is_room() -> None:
    window = window_of(40_000)
    read(window, START, 40_000)
    window.append(content(window.end, 40_000))
    assert read(window, START, 80_000) == content(START, 80_000)


def test_small_pieces_are_joined_and_those_handed_out_stay() -> None:
    window = window_of(10)
    before = window.read(START, 10)
    window.append(content(window.end, 10))
    assert before == [content(START, 10)]
    assert window.read(START, 20) == [content(START, 20)]


@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=4), st.integers(0, 120_000))
def test_cut_forgets_what_is_behind(sizes: list[int], offset: int) -> None:
    window = window_of(*sizes)
    end, cut = window.end, START + offset
    read(window, START, 10**6)
    window.cut(cut)
    assert window.end == min(end, cut)
    assert window.taken <= window.end
    kept_bytes = window.end - START
    assert read(window, START, 10**6) == (content(START, kept_bytes) if kept_bytes else None)
    window.append(b"new")
    assert read(window, window.end - 3, 3) == b"new"


def test_restart_forgets_everything() -> None:
    window = window_of(100)
    window.restart(Lsn(5000))
    assert (window.start, window.taken, window.end) == (5000, 5000, 5000)
    assert window.read(START, 1) is None


# What a reader may know of timelines.


def histories() -> tuple[TimelineHistory, TimelineHistory, TimelineHistory]:
    first = TimelineHistory(Tli(1))
    second = extend_history(first, tli=Tli(2), end=Lsn(100), reason="a")
    return first, second, extend_history(second, tli=Tli(4), end=Lsn(300), reason="b")


@pytest.mark.parametrize(("lsn", "tli"), [(0, 1), (99, 1), (100, 2), (299, 2), (300, 4), (900, 4)])
def test_timeline_ends_when_all_of_it_was_received(lsn: int, tli: int) -> None:
    first, second, newest = histories()
    files = {Tli(2): second.file, Tli(4): newest.file}
    offered = history_at(newest, Lsn(lsn), first=Tli(1), files=files)
    assert offered == {1: first, 2: second, 4: newest}[tli]
    assert offered.file == files.get(Tli(tli), b"")


def test_timeline_of_the_cut_is_offered_from_the_start() -> None:
    _, second, newest = histories()
    offered = history_at(newest, Lsn(50), first=Tli(2), files={})
    assert offered == second


def test_end_of_what_may_be_sent_is_that_of_a_record_or_a_page() -> None:
    window = WalWindow(1 << 20, Lsn(2 * PAGE_BYTES))
    window.append(bytes(100))
    assert window.whole_end == window.end
    window.append(bytes(PAGE_BYTES), is_whole=False)
    assert window.whole_end == 3 * PAGE_BYTES
    window.append(bytes(10), is_whole=False)
    assert window.whole_end == 3 * PAGE_BYTES, "half a record was offered"
    window.append(bytes(10))
    assert window.whole_end == window.end
    window.append(bytes(10), is_whole=False)
    assert window.whole_end == window.end - 10, "what was whole is no more"
    window.cut(Lsn(3 * PAGE_BYTES))
    assert window.whole_end == window.end == 3 * PAGE_BYTES
