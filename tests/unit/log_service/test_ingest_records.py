"""How the pieces of one burst become records."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.lsn import Lsn
from log_service.ingest import COPIED_BYTES_MAX, _records_of
from log_service.record import RECORD_BODY_BYTES_MAX

START = Lsn(0x1000000)
SIZES = st.lists(
    st.one_of(
        st.integers(1, 100),
        st.integers(1, RECORD_BODY_BYTES_MAX),
        st.just(RECORD_BODY_BYTES_MAX),
    ),
    min_size=1,
    max_size=12,
)


def burst(sizes_bytes: list[int]) -> tuple[bytes, list[tuple[Lsn, memoryview]]]:
    """Pieces without gaps, and all their bytes."""
    total = sum(sizes_bytes)
    data = (bytes(range(251)) * (total // 251 + 1))[:total]
    pieces, at = [], 0
    for size_bytes in sizes_bytes:
        pieces.append((START + at, memoryview(data)[at : at + size_bytes]))
        at += size_bytes
    return data, pieces


@settings(deadline=None)
@given(SIZES)
def test_joined_pieces_are_the_same_bytes_at_the_same_places(sizes_bytes: list[int]) -> None:
    data, pieces = burst(sizes_bytes)
    at = 0
    for lsn, body in _records_of(pieces):
        assert lsn == START + at
        assert body == data[at : at + len(body)]
        at += len(body)
    assert at == len(data)


@settings(deadline=None)
@given(SIZES)
def test_records_are_as_few_as_their_limit_allows_without_splitting_a_piece(
    sizes_bytes: list[int],
) -> None:
    pieces = burst(sizes_bytes)[1]
    records = _records_of(pieces)
    assert all(0 < len(body) <= RECORD_BODY_BYTES_MAX for _, body in records)
    starts = dict(pieces)
    assert {lsn for lsn, _ in records} <= starts.keys()
    for (_, body), (following, _) in pairwise(records):
        assert len(body) + len(starts[following]) > RECORD_BODY_BYTES_MAX


def test_a_small_piece_does_not_keep_its_chunk_alive_and_a_large_one_is_not_copied() -> None:
    small, large = burst([COPIED_BYTES_MAX])[1], burst([COPIED_BYTES_MAX + 1])[1]
    assert isinstance(_records_of(small)[0][1], bytes)
    assert _records_of(large)[0][1] is large[0][1]
