"""Positions, timelines and WAL file names are those of PostgreSQL.

The examples were read off a server: `select pg_walfile_name('1/123ABCD')` and the like.
"""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lsn import (
    LSN_MAX,
    TLI_MAX,
    Lsn,
    Tli,
    history_file_name,
    parse_wal_file_name,
    wal_file_name,
)

MIB = 1024 * 1024
positions = st.integers(0, LSN_MAX).map(Lsn)
timelines = st.integers(1, TLI_MAX).map(Tli)
segment_sizes = st.sampled_from([MIB << shift for shift in range(11)])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0/0"), (0x1_0123_ABCD, "1/123ABCD"), (LSN_MAX, "FFFFFFFF/FFFFFFFF")],
)
def test_an_lsn_prints_as_postgresql_prints_it(value: int, text: str) -> None:
    assert str(Lsn(value)) == f"{Lsn(value)}" == text
    assert repr(Lsn(value)) == f"Lsn({text})"
    assert Lsn.parse(text) == Lsn(value)


@given(positions)
def test_what_is_printed_is_read_back(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn
    assert type(pickle.loads(pickle.dumps(lsn))) is Lsn  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    "text", ["", "/", "1", "1/", "/1", "1/2/3", " 1/2", "1/2\n", "-1/2", "0x1/2", "1/G",
             "123456789/0", "0/123456789", "\u0661/2"],
)  # fmt: skip
def test_what_is_not_an_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an Lsn looks like"):
        Lsn.parse(text)


def test_a_long_bad_text_is_not_quoted_in_full() -> None:
    with pytest.raises(ValueError, match="an Lsn looks like") as caught:
        Lsn.parse("x" * 10_000)
    assert len(str(caught.value)) < 100


def test_arithmetic_keeps_positions_and_distances_apart() -> None:
    start = Lsn.parse("0/16B3748")
    assert type(start + 8) is Lsn
    assert type(8 + start) is Lsn
    assert type(start - 8) is Lsn
    assert type((start + 8) - start) is int
    assert (start + 8) - start == 8
    with pytest.raises(TypeError, match="cannot be added"):
        _ = start + start


@given(positions, st.integers(-(2**65), 2**65))
def test_arithmetic_never_leaves_64_bits(lsn: Lsn, count: int) -> None:
    if 0 <= int(lsn) + count <= LSN_MAX:
        assert (lsn + count) - lsn == count
    else:
        with pytest.raises(ValueError, match="2\\^64"):
            _ = lsn + count


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_position_outside_64_bits_cannot_be_made(value: int) -> None:
    with pytest.raises(ValueError, match="2\\^64"):
        Lsn(value)


@pytest.mark.parametrize("value", [0, -1, 2**32])
def test_a_timeline_is_never_zero_nor_beyond_32_bits(value: int) -> None:
    with pytest.raises(ValueError, match="timeline"):
        Tli(value)


@pytest.mark.parametrize("text", ["", "-1", "1.0", "00000000001", "A", "1 "])
def test_what_is_not_a_timeline_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="timeline"):
        Tli.parse(text)


def test_positions_are_ordered_and_hashed_like_numbers() -> None:
    assert Lsn.parse("0/FFFFFFFF") < Lsn.parse("1/0") == Lsn(2**32)
    assert {Lsn(5): "five"}[Lsn(5)] == "five"
    with pytest.raises(AttributeError):
        Lsn(5).note = "immutable"  # type: ignore[attr-defined]  # the claim


@pytest.mark.parametrize(
    ("tli", "lsn", "segment_bytes", "name"),
    [
        (1, "0/1000000", 16 * MIB, "000000010000000000000001"),
        (1, "1/123ABCD", 16 * MIB, "000000010000000100000001"),
        (1, "0/FFFFFFFF", 16 * MIB, "0000000100000000000000FF"),
        (0x1F, "2/0", 16 * MIB, "0000001F0000000200000000"),
        (1, "0/16B3748", MIB, "000000010000000000000016"),
        (1, "3/C0000000", 1024 * MIB, "000000010000000300000003"),
    ],
)
def test_wal_files_are_named_as_postgresql_names_them(
    tli: int, lsn: str, segment_bytes: int, name: str
) -> None:
    assert wal_file_name(Tli(tli), Lsn.parse(lsn), segment_bytes) == name


@given(timelines, positions, segment_sizes)
def test_a_wal_file_name_leads_back_to_its_segment(tli: Tli, lsn: Lsn, segment_bytes: int) -> None:
    name = wal_file_name(tli, lsn, segment_bytes)
    start = lsn.segment_start(segment_bytes)
    assert parse_wal_file_name(name, segment_bytes) == (tli, start)
    assert 0 <= lsn - start < segment_bytes


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("00000001000000000000000", "24"),
        ("0000000100000000000000ff", "24"),
        ("00000001.history", "24"),
        ("000000010000000000000001.partial", "24"),
        ("000000000000000000000001", "timeline"),
        ("000000010000000000000100", "wal_segment_size"),
    ],
)
def test_what_is_not_a_wal_file_name_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_wal_file_name(name)


@pytest.mark.parametrize("segment_bytes", [0, 1, MIB - 1, MIB // 2, 3 * MIB, 2048 * MIB, -MIB])
def test_only_segment_sizes_of_initdb_are_taken(segment_bytes: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        wal_file_name(Tli(1), Lsn(0), segment_bytes)


def test_history_files_are_named_as_postgresql_names_them() -> None:
    assert history_file_name(Tli(0x1F)) == "0000001F.history"
