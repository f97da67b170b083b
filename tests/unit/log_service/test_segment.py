"""The format of segments: what is written is read back, any other byte is refused.

In scope: header, drain, footer, index, and the example of the page docs/formats/log_segment.md; no
files. Out of scope: when they are written.
"""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.log_service.log_world import next_record, run_of, wal_end_of

from log_service.record import RECORD_BODY_BYTES_MAX, Kind, Record
from log_service.segment import (
    ALIGNMENT_BYTES,
    DRAIN_BODY_BYTES_MAX,
    DRAIN_HEADER,
    FOOTER_BYTES,
    HEADER_BYTES,
    MARK_EVERY_BYTES,
    Drain,
    Footer,
    SegmentHeader,
    drain_buffers,
    first_index_of_name,
    split_into_drains,
)
from log_service.segment_index import (
    SegmentIndex,
    broken_link,
    count_that_fits,
    empty_room_bytes,
)

FORMAT_PAGE = Path(__file__).parents[3] / "docs" / "formats" / "log_segment.md"
HEADER = SegmentHeader(
    member=7, first_index=1, prev_term=0, generation=3, tli=0, lsn=0, segment_bytes=1 << 20
)


def a_drain(**changes: int) -> Drain:
    fields = {
        "body_bytes": 148,
        "count": 1,
        "first_index": 1,
        "durable_index": 0,
        "generation": 3,
        "offset": 4096,
    }
    return Drain(**(fields | changes))


def test_example_of_the_page_is_what_is_written() -> None:
    """The page shows a header and the first drain, byte by byte."""
    page = FORMAT_PAGE.read_text()
    blocks = re.findall(r"```hex\n(.*?)```", page, re.DOTALL)
    shown = [bytes.fromhex("".join(re.sub(r"#.*", "", b).split())) for b in blocks]
    record = next_record((0, 0), (1, 0x1000000), term=1, size_bytes=2)
    drain = a_drain(body_bytes=record.size_bytes)
    drain_bytes = b"".join(bytes(b) for b in drain_buffers(drain, HEADER, [record]))
    assert shown == [HEADER.encode(), drain_bytes]


def test_header_is_read_back_and_names_its_file() -> None:
    assert SegmentHeader.decode(HEADER.encode().ljust(HEADER_BYTES, b"\0")) == HEADER
    assert HEADER.file_name == "0000000000000001.seg"
    assert first_index_of_name(HEADER.file_name) == 1


@pytest.mark.parametrize("name", ["1.seg", "000000000000000G.seg", "0000000000000001.seg.new", ""])
def test_other_names_are_not_of_segments(name: str) -> None:
    assert first_index_of_name(name) is None


@given(st.data())
def test_no_bit_of_a_header_can_change(data: st.DataObject) -> None:
    encoded = bytearray(HEADER.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert SegmentHeader.decode(encoded) is None


@given(st.data())
def test_no_bit_of_a_drain_header_can_change(data: st.DataObject) -> None:
    encoded = bytearray(a_drain().encode(HEADER))
    assert Drain.decode(encoded, 0, HEADER, 4096) == a_drain()
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert Drain.decode(encoded, 0, HEADER, 4096) is None


def test_drain_belongs_to_one_place_of_one_segment_of_one_member() -> None:
    encoded = a_drain().encode(HEADER)
    assert Drain.decode(encoded, 0, HEADER, 8192) is None
    assert Drain.decode(encoded, 0, replace(HEADER, member=8), 4096) is None
    assert Drain.decode(encoded, 0, replace(HEADER, first_index=2), 4096) is None


@pytest.mark.parametrize("changes", [{"count": 0}, {"body_bytes": DRAIN_BODY_BYTES_MAX + 1}])
def test_drain_has_limits(changes: dict[str, int]) -> None:
    assert Drain.decode(a_drain(**changes).encode(HEADER), 0, HEADER, 4096) is None


def test_header_of_a_drain_never_crosses_a_sector() -> None:
    assert DRAIN_HEADER.size == ALIGNMENT_BYTES
    assert 512 % ALIGNMENT_BYTES == 0
    assert HEADER_BYTES % ALIGNMENT_BYTES == 0


@given(st.lists(st.sampled_from([0, 100, 30_000, 70_000, RECORD_BODY_BYTES_MAX]), max_size=12))
def test_drains_are_small_enough_and_hold_all_records_in_order(sizes: list[int]) -> None:
    records = [next_record((n, 1), (1, 0), term=1, size_bytes=s) for n, s in enumerate(sizes)]
    drains = split_into_drains(records)
    assert [record for drain in drains for record in drain] == records
    assert all(0 < sum(r.size_bytes for r in drain) <= DRAIN_BODY_BYTES_MAX for drain in drains)


def indexed(seed: int, count_max: int = 60) -> tuple[SegmentIndex, list[int]]:
    """An index of many drains, the first of those of this seed, and their offsets."""
    rng = random.Random(seed)
    index, offsets = SegmentIndex(HEADER), []
    before, wal_end, term = (0, 0), (0, 0), 1
    for _ in range(min(rng.randint(0, 60), count_max)):
        term += rng.random() < 0.2
        kind = rng.choice([Kind.WAL, Kind.WAL, Kind.NOOP, Kind.EPOCH])
        size_bytes = rng.choice([10, 5_000, 30_000])
        record = next_record(
            before,
            wal_end,
            term=term,
            kind=kind,
            size_bytes=size_bytes,
            new_timeline=rng.random() < 0.1,
        )
        drain = a_drain(body_bytes=record.size_bytes, offset=index.tail)
        offsets.append(index.tail)
        index.note(drain.offset, drain.end, [record])
        before, wal_end = (record.index, term), index.wal_end
    return index, offsets


@given(st.integers(0, 500))
def test_index_is_the_same_after_its_footer(seed: int) -> None:
    index, _ = indexed(seed)
    encoded = index.encode_footer(generation=4)
    footer = Footer.decode(encoded[-FOOTER_BYTES:])
    assert footer is not None
    assert Footer.is_sound(encoded[-FOOTER_BYTES:], encoded[:-FOOTER_BYTES])
    again = SegmentIndex.from_footer(HEADER, footer, encoded[:-FOOTER_BYTES])
    assert again.encode_footer(generation=4) == encoded
    assert (again.runs, again.specials, again.wal_end) == (
        index.runs,
        index.specials,
        index.wal_end,
    )
    assert again.room_bytes == index.room_bytes


@given(st.integers(0, 500), st.data())
def test_no_bit_of_a_footer_can_change(seed: int, data: st.DataObject) -> None:
    index, _ = indexed(seed)
    encoded = bytearray(index.encode_footer(generation=4))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    end, tables = encoded[-FOOTER_BYTES:], encoded[:-FOOTER_BYTES]
    assert Footer.decode(end) is None or not Footer.is_sound(end, tables)


@given(st.integers(0, 500))
def test_marks_lead_to_just_before_what_is_looked_for(seed: int) -> None:
    index, offsets = indexed(seed)
    for entry, offset in enumerate(offsets, start=1):
        found, first_index, _ = index.before_index(entry)
        assert found <= offset < found + 2 * MARK_EVERY_BYTES
        assert offsets[first_index - 1] == found
    marks = [index.before_index(entry)[2] for entry in range(1, len(offsets) + 1)]
    assert marks == sorted(marks)
    for position in marks:
        assert index.before_wal(position)[2] <= position


@given(st.integers(0, 300), st.floats(0, 1))
def test_cut_index_is_as_if_the_rest_had_never_been(seed: int, share: float) -> None:
    whole, offsets = indexed(seed)
    kept = int(share * len(offsets))
    part, _ = indexed(seed, count_max=kept)
    whole.cut(kept + 1, part.tail, part.wal_end)
    assert whole.encode_footer(generation=1) == part.encode_footer(generation=1)
    assert whole.term_at(kept) == part.last_term


@given(
    st.lists(st.sampled_from([0, 1_000, 60_000, RECORD_BODY_BYTES_MAX]), min_size=1, max_size=9),
    st.lists(st.sampled_from([Kind.WAL, Kind.EPOCH, Kind.NOOP]), min_size=9, max_size=9),
    st.booleans(),
)
def test_what_is_said_to_fit_does(sizes: list[int], kinds: list[Kind], one_term: bool) -> None:
    header = replace(HEADER, segment_bytes=256 * 1024)
    records: list[Record] = []
    for size_bytes, kind in zip(sizes, kinds, strict=False):
        before = (records[-1].index, records[-1].term) if records else (0, 0)
        term = 1 if one_term else before[1] + 1
        end = wal_end_of(records)
        records.append(next_record(before, end, term=term, size_bytes=size_bytes, kind=kind))
    index = SegmentIndex(header)
    assert index.room_bytes == empty_room_bytes(header.segment_bytes)
    count = count_that_fits(records, room_bytes=index.room_bytes, term=0)
    assert count >= 1
    for part in split_into_drains(records[:count]):
        body_bytes = sum(record.size_bytes for record in part)
        drain = a_drain(body_bytes=body_bytes, offset=index.tail)
        index.note(drain.offset, drain.end, part)
    assert index.room_bytes >= 0


def test_broken_links_are_told_apart() -> None:
    first, second = run_of(2)
    assert broken_link([first, second], index=0, term=0, wal_end=(0, 0)) is None
    assert broken_link([first], index=0, term=0, wal_end=(1, first.lsn)) is None
    gap = broken_link([second], index=0, term=0, wal_end=(0, 0))
    assert gap == "entry 2 stands where 1 belongs"
    assert "term" in (broken_link([second], index=1, term=7, wal_end=(0, 0)) or "")
    assert "WAL" in (broken_link([first], index=0, term=0, wal_end=(2, first.lsn)) or "")
