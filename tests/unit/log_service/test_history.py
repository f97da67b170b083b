"""Timeline history files are read as PostgreSQL reads them, and histories that exclude each other
are told apart.

That real servers' files are read is seen in the integration tests, too; here are the odd ones.
"""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lsn import Lsn, Tli
from log_service.history import (
    HISTORY_BYTES_MAX,
    Fork,
    HistoryConflictError,
    HistoryError,
    TimelineHistory,
    extend_history,
    parse_history,
)

# As PostgreSQL 15 writes it after two promotions: an empty line between the copied and the new.
REAL = b"1\t0/3000110\tno recovery target specified\n\n2\t0/5000148\tno recovery target specified\n"
FIRST = TimelineHistory(Tli(1))
THIRD = parse_history(Tli(3), REAL)


def history(tli: int, *forks: tuple[int, int]) -> TimelineHistory:
    return TimelineHistory(Tli(tli), tuple(Fork(Tli(t), Lsn(end)) for t, end in forks))


@st.composite
def histories(draw: st.DrawFn) -> TimelineHistory:
    """Histories that grow fork by fork, some with steps of zero bytes."""
    made = FIRST
    for _ in range(draw(st.integers(0, 6))):
        made = extend_history(
            made,
            tli=Tli(made.tli + draw(st.integers(1, 3))),
            end=made.start + draw(st.integers(0, 1 << 40)),
            reason=draw(st.sampled_from(["", "no recovery target specified", "before 2024"])),
        )
    return made


def test_file_of_a_real_server_is_read() -> None:
    assert history(3, (1, 0x3000110), (2, 0x5000148)) == THIRD
    assert [fork.reason for fork in THIRD.forks] == ["no recovery target specified"] * 2
    assert THIRD.file == REAL


def test_comments_white_space_and_other_encodings_do_no_harm() -> None:
    file = b"# by hand\n\n  1\t0/3000110\tbefore \xe9t\xe9\r\n\n2 0/5000148"
    assert parse_history(Tli(3), file) == THIRD


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "names no timeline"),
        (b"# nothing\n", "names no timeline"),
        (b"one\t0/1\n", "line 1 of 00000004.history is not a timeline"),
        (b"1\t0-1\n", "line 1 of 00000004.history is not a timeline"),
        (b"1\t0/1x\treason\n", "line 1 of 00000004.history is not a timeline"),
        (b"1\n", "line 1 of 00000004.history is not a timeline"),
        (b"\n0\t0/1\n", "line 2 of 00000004.history: a timeline must be"),
        (b"9999999999\t0/1\n", "a timeline must be"),
        (b"2\t0/1\n1\t0/2\n", "goes backwards"),
        (b"1\t0/1\n1\t0/2\n", "goes backwards"),
        (b"1\t0/2\n2\t0/1\n", "goes backwards"),
        (b"4\t0/1\n", "names timeline 4, which is not older"),
        (b"1\t0/1\n" + b"#" * HISTORY_BYTES_MAX, "exceeds"),
    ],
)
def test_bad_file_is_refused(file: bytes, reason: str) -> None:
    with pytest.raises(HistoryError, match=reason):
        parse_history(Tli(4), file)


@given(st.binary(max_size=200) | st.text("0123456789/ABCDEF\t\n# x", max_size=200))
def test_any_bytes_are_a_history_or_an_error(file: bytes | str) -> None:
    with contextlib.suppress(HistoryError):
        parse_history(Tli(7), file if isinstance(file, bytes) else file.encode())


def test_byte_belongs_to_the_timeline_that_wrote_it() -> None:
    assert THIRD.owner_of(Lsn(0)) == 1
    assert THIRD.owner_of(Lsn(0x300010F)) == 1
    assert THIRD.owner_of(Lsn(0x3000110)) == 2
    assert THIRD.owner_of(Lsn(0x5000147)) == 2
    assert THIRD.owner_of(Lsn(0x5000148)) == 3
    assert THIRD.start == Lsn(0x5000148)
    assert FIRST.owner_of(Lsn(0)) == 1


def test_timeline_without_a_byte_of_its_own_owns_none() -> None:
    made = history(5, (1, 10), (2, 10), (4, 20))
    assert {made.owner_of(Lsn(at)) for at in range(30)} == {1, 4, 5}


def test_fork_of_an_ancestor_names_what_followed() -> None:
    assert THIRD.fork_of(Tli(1)) == (2, Lsn(0x3000110))
    assert THIRD.fork_of(Tli(2)) == (3, Lsn(0x5000148))
    assert THIRD.fork_of(Tli(3)) is None
    assert THIRD.fork_of(Tli(4)) is None
    assert THIRD.contains(Tli(3))
    assert THIRD.contains(Tli(1))
    assert not THIRD.contains(Tli(4))


@given(histories())
def test_a_written_history_reads_back(made: TimelineHistory) -> None:
    if made.forks:
        read = parse_history(made.tli, made.file)
        assert read == made
        assert [fork.reason for fork in read.forks] == [fork.reason for fork in made.forks]


@given(histories(), st.integers(1, 9), st.integers(0, 99))
def test_a_history_extends_every_one_it_grew_from(
    known: TimelineHistory, step: int, count: int
) -> None:
    newer = extend_history(
        known, tli=Tli(known.tli + step), end=known.start + count, reason="promoted"
    )
    newer.verify_extends(known)
    newer.verify_extends(FIRST)
    known.verify_extends(known)
    assert newer.file.startswith(known.file)
    with pytest.raises(HistoryConflictError):
        known.verify_extends(newer)


@pytest.mark.parametrize(
    "other",
    [
        history(3, (1, 0x3000110), (2, 0x5000150)),  # forked elsewhere
        history(4, (1, 0x3000110), (3, 0x6000000)),  # skipped what we know of
        history(4, (1, 0x3000110), (2, 0x5000148)),  # forked beside us, not after us
        history(4, (1, 0x3000110), (2, 0x5000147), (3, 0x6000000)),  # changed the past
        history(2, (1, 0x3000110)),  # older
        history(3),
    ],
)
def test_conflicting_history_is_refused_by_name(other: TimelineHistory) -> None:
    with pytest.raises(HistoryConflictError, match=f"timeline {other.tli:d} .*that of timeline 3"):
        other.verify_extends(THIRD)


def test_reason_is_one_printable_line() -> None:
    with pytest.raises(HistoryError, match="printable"):
        extend_history(FIRST, tli=Tli(2), end=Lsn(1), reason="a\n1\t0/1")
