"""Records: the same bytes on every node, and damage that is found."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.lsn import Lsn, Tli
from log_service.record import (
    HEADER_BYTES,
    RECORD_BODY_BYTES_MAX,
    Kind,
    Record,
    RecordError,
    decode_record,
    decode_records,
    make_record,
)

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
RECORDS = st.builds(
    make_record,
    index=U64,
    term=U64,
    prev_term=U64,
    kind=st.sampled_from(Kind),
    tli=U32,
    lsn=U64,
    body=st.binary(max_size=200),
)


def encoded(*records: Record) -> bytes:
    return b"".join(bytes(part) for record in records for part in (record.header, record.body))


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=5))
def test_records_come_back_as_they_were(records: list[Record]) -> None:
    data = encoded(*records)
    assert list(decode_records(data)) == records
    assert sum(record.size_bytes for record in records) == len(data)


def test_numbers_of_a_record_are_plain() -> None:
    """Not an Lsn, whose arithmetic checks the range again, for every commit on every node."""
    record = make_record(index=1, term=1, prev_term=0, kind=Kind.WAL, tli=Tli(1), lsn=Lsn(7))
    assert (type(record.tli), type(record.lsn)) == (int, int)


@settings(deadline=None)
@given(RECORDS, st.data())
def test_any_flipped_bit_is_found(record: Record, data: st.DataObject) -> None:
    damaged = bytearray(encoded(record))
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RecordError):
        list(decode_records(damaged))


@settings(deadline=None)
@given(RECORDS, st.data())
def test_a_record_that_is_cut_short_is_found(record: Record, data: st.DataObject) -> None:
    whole = encoded(record)
    with pytest.raises(RecordError):
        list(decode_records(whole[: data.draw(st.integers(1, len(whole) - 1))]))


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_are_records_or_a_record_error(data: bytes, verify: bool) -> None:
    try:
        records = list(decode_records(data, verify=verify))
    except RecordError:
        return
    assert encoded(*records) == data


def test_a_body_has_a_limit_that_a_header_cannot_lift() -> None:
    largest = make_record(
        index=1, term=1, prev_term=0, kind=Kind.WAL, body=bytes(RECORD_BODY_BYTES_MAX)
    )
    assert list(decode_records(encoded(largest))) == [largest]
    rest = bytearray(largest.header)[4:]
    rest[:4] = (RECORD_BODY_BYTES_MAX + 1).to_bytes(4, "big")
    body = bytes(RECORD_BODY_BYTES_MAX + 1)
    crc = zlib.crc32(body, zlib.crc32(rest)).to_bytes(4, "big")
    with pytest.raises(RecordError, match="more than there are or may be"):
        list(decode_records(crc + bytes(rest) + body))


def test_an_unknown_kind_asks_for_an_upgrade() -> None:
    header = bytearray(make_record(index=7, term=1, prev_term=0, kind=Kind.PIN).header)
    header[32] = 99
    header[:4] = zlib.crc32(header[4:]).to_bytes(4, "big")
    with pytest.raises(RecordError, match="entry 7 has the unknown kind 99: upgrade this node"):
        list(decode_records(header))


def test_bodies_are_views_and_not_copies() -> None:
    first = make_record(index=1, term=1, prev_term=0, kind=Kind.WAL, body=b"abc")
    data = bytearray(encoded(first, first))
    record = decode_record(memoryview(data), first.size_bytes)
    data[-1] = ord("C")
    assert bytes(record.body) == b"abC"


def test_the_layout_is_the_documented_one() -> None:
    record = make_record(index=2, term=3, prev_term=1, kind=Kind.WAL, tli=5, lsn=6, body=b"x")
    fields = (1).to_bytes(4, "big") + b"".join(n.to_bytes(8, "big") for n in (2, 3, 1))
    rest = fields + b"\x04\0\0\0" + (5).to_bytes(4, "big") + (6).to_bytes(8, "big")
    assert record.header == zlib.crc32(rest + b"x").to_bytes(4, "big") + rest
    assert len(record.header) == HEADER_BYTES == 48
