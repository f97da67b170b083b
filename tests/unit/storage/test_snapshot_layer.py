"""Layers as bytes: what is packed comes out, and what is no layer is refused.

In scope: packing, the limits of parts, indexes that lie although their checksums are right. Out of
scope: reading from an object store (test_restore.py).
"""

import random
import struct
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.storage.contract import page
from xxhash import xxh3_64_digest

from sqlnode.pagefault.block_map import BLOCK_BYTES, FILE_BLOCKS_MAX
from storage import snapshot_layer
from storage.page_store import PageVersion
from storage.snapshot_format import PART_BYTES_MAX, PartRef, SnapshotDamagedError
from storage.snapshot_layer import (
    BLOCK_PAGES_MAX,
    END_MAGIC,
    MAGIC,
    LayerPacker,
    PackedPart,
    Packing,
    PartIndex,
    open_tail,
)

SMALL = Packing(part_bytes=20_000, block_pages=2)


def packed(versions: Sequence[PageVersion], packing: Packing = SMALL) -> list[PackedPart]:
    return list(LayerPacker(7, packing).parts(versions))


def opened(part: PackedPart) -> PartIndex:
    return open_tail(part.ref, b"".join(part.pieces)[-part.ref.tail_bytes :])


def unpacked(part: PackedPart) -> list[PageVersion]:
    """Return the pages of a part, by its index."""
    index, data = opened(part), b"".join(part.pieces)
    assert len(data) == part.ref.size_bytes
    starts = index.block_starts
    pages = b"".join(
        index.pages_of(block, data[start:end])
        for block, (start, end) in enumerate(pairwise(starts))
    )
    found = []
    for file_id, first, count in index.runs():
        (span,) = index.spans(file_id, first, first + count)
        for number in range(count):
            at = (span.at + number) * BLOCK_BYTES
            content = None if span.at < 0 else pages[at : at + BLOCK_BYTES]
            found.append(PageVersion(file_id=file_id, block=first + number, page=content))
    return found


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(1, 4), st.integers(0, 30)), max_size=60), st.integers(0, 99))
def test_what_is_packed_comes_out(places: set[tuple[int, int]], seed: int) -> None:
    rng = random.Random(seed)
    versions = [
        PageVersion(file_id=file_id, block=block, page=rng.choice([None, page(block), page("x")]))
        for file_id, block in sorted(places)
    ]
    parts = packed(versions)
    assert [version for part in parts for version in unpacked(part)] == versions
    assert sum(part.pages for part in parts) == len(versions)
    assert sorted(part.ref.first for part in parts) == [part.ref.first for part in parts]


def test_a_span_is_what_overlaps() -> None:
    versions = [PageVersion(file_id=3, block=block, page=page(block)) for block in (4, 5, 6, 9)]
    versions += [PageVersion(file_id=3, block=block, page=None) for block in (10, 11)]
    (part,) = packed(versions, Packing())
    index = opened(part)
    assert list(index.spans(3, 0, 100)) == [(4, 7, 0), (9, 10, 3), (10, 12, -1)]
    assert list(index.spans(3, 5, 6)) == [(5, 6, 1)]
    assert list(index.spans(3, 6, 11)) == [(6, 7, 2), (9, 10, 3), (10, 11, -1)]
    assert (
        list(index.spans(3, 7, 9)) == list(index.spans(2, 0, 9)) == list(index.spans(4, 0, 9)) == []
    )


def test_parts_have_a_bounded_size() -> None:
    versions = [PageVersion(file_id=1, block=block, page=page(block)) for block in range(40)]
    parts = packed(versions)
    block_bytes = 2 * BLOCK_BYTES
    assert len(parts) > 5
    assert max(part.ref.size_bytes for part in parts) < 20_000 + block_bytes


def test_parts_have_a_bounded_index(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [PageVersion(file_id=1, block=2 * number, page=None) for number in range(50)]
    monkeypatch.setattr(snapshot_layer, "RUNS_MAX", 16)
    assert [part.pages for part in packed(versions)] == [16, 16, 16, 2]
    monkeypatch.setattr(snapshot_layer, "BLOCKS_MAX", 4)
    versions = [PageVersion(file_id=1, block=number, page=b"\1" * 8192) for number in range(20)]
    assert [part.pages for part in packed(versions)] == [8, 8, 4]


def test_packing_has_limits() -> None:
    for wrong in ({"part_bytes": 0}, {"part_bytes": PART_BYTES_MAX}, {"block_pages": 0}):
        with pytest.raises(ValueError, match="has at most"):
            Packing(**wrong)
    with pytest.raises(ValueError, match="has at most"):
        Packing(block_pages=BLOCK_PAGES_MAX + 1)


def test_the_name_of_a_part_tells_its_bytes() -> None:
    one, same, other, later = (
        packed([PageVersion(file_id=1, block=0, page=page(word))])[0] for word in "aabc"
    )
    assert one.ref == same.ref
    assert len({one.ref.name, other.ref.name, later.ref.name}) == 3
    assert one.ref.name.startswith("0000000000000007-")


# --- What is no layer -----------------------------------------------------------------------------

FOOTER = struct.Struct(">II8s8s")


def forged(
    raw: bytes,
    *,
    size_bytes: int | None = None,
    first: tuple[int, int] = (1, 0),
    magic: bytes = END_MAGIC,
) -> tuple[PartRef, bytes]:
    """Return a tail whose checksums are right, whatever is in it."""
    index = zstandard.compress(raw)
    tail = index + FOOTER.pack(len(index), len(raw), xxh3_64_digest(index), magic)
    ref = PartRef(
        name=f"{7:016X}-{0:032x}",
        size_bytes=len(MAGIC) + 10 + len(tail) if size_bytes is None else size_bytes,
        tail_bytes=len(tail),
        tail_checksum=xxh3_64_digest(tail),
        first_file=first[0],
        first_block=first[1],
    )
    return ref, tail


RIGHT: list[object] = [128, [1, 1], [0, 5], [2, 3], [False, True], [10], [77]]


def test_the_forger_can_also_be_honest() -> None:
    index = open_tail(*forged(msgspec.msgpack.encode(RIGHT)))
    assert list(index.runs()) == [(1, 0, 2), (1, 5, 3)]
    with pytest.raises(SnapshotDamagedError, match=r"block 0 of .* is damaged"):
        index.pages_of(0, b"0123456789")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 0), (0, BLOCK_PAGES_MAX + 1), (0, 1), (0, "x"),
        (1, [1]), (1, []), (1, [2, 1]), (1, [-1, 1]), (1, [1, 2**70]), (1, None), (1, [0, 1]),
        (2, [0, 1]), (2, [5, 0]), (2, [0, -5]), (2, [0, FILE_BLOCKS_MAX]), (2, [1, 5]),
        (3, [0, 3]), (3, [6, 3]), (3, [2, FILE_BLOCKS_MAX]), (3, [2**62, 3]), (3, [200, 3]),
        (4, [True, True]), (4, [True]), (4, [1, 0]),
        (5, []), (5, [9]), (5, [0]), (5, [-1]), (5, [5, 5]), (5, [2**63]),
        (6, []), (6, [1, 2]), (6, ["x"]),
    ],
)  # fmt: skip
def test_an_index_that_lies_is_refused(place: int, value: object) -> None:
    fields = list(RIGHT)
    fields[place] = value
    try:
        raw = msgspec.msgpack.encode(fields)
    except OverflowError:
        raw = b""
    with pytest.raises(SnapshotDamagedError, match="damaged"):
        open_tail(*forged(raw))


def test_an_index_of_another_part_is_refused() -> None:
    raw = msgspec.msgpack.encode(RIGHT)
    with pytest.raises(SnapshotDamagedError, match="another part's"):
        open_tail(*forged(raw, first=(1, 1)))
    with pytest.raises(SnapshotDamagedError, match="do not fit the part"):
        open_tail(*forged(raw, size_bytes=1000))
    with pytest.raises(SnapshotDamagedError, match="version"):
        open_tail(*forged(raw, magic=b"SWLEND\0\x02"))


def test_a_sound_tail_that_the_manifest_does_not_mean_is_refused() -> None:
    ref, tail = forged(msgspec.msgpack.encode(RIGHT))
    with pytest.raises(SnapshotDamagedError, match="is damaged"):
        open_tail(msgspec.structs.replace(ref, tail_checksum=b"anothers"), tail)


def test_what_unpacks_to_more_than_it_says_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(zstandard, "ZstdDecompressor")
    bomb = zstandard.compress(bytes(1 << 28))
    tail = bomb + FOOTER.pack(len(bomb), 100, xxh3_64_digest(bomb), END_MAGIC)
    honest = bomb + FOOTER.pack(len(bomb), 1 << 28, xxh3_64_digest(bomb), END_MAGIC)
    for data in (tail, honest, b"short", FOOTER.pack(0, 0, xxh3_64_digest(b""), END_MAGIC)):
        ref = PartRef(f"{7:016X}-{0:032x}", 1 << 20, len(data), xxh3_64_digest(data), 1, 0)
        with pytest.raises(SnapshotDamagedError):
            open_tail(ref, data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    ref = PartRef(f"{7:016X}-{0:032x}", 1000, max(1, len(noise)), xxh3_64_digest(noise), 1, 0)
    with pytest.raises(SnapshotDamagedError):
        open_tail(ref, noise)
    with pytest.raises(SnapshotDamagedError):
        open_tail(*forged(noise))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_a_flipped_bit_is_found(seed: int) -> None:
    rng = random.Random(seed)
    (part,) = packed([PageVersion(file_id=1, block=0, page=page(1))], Packing())
    flipped = bytearray(b"".join(part.pieces))
    flipped[rng.randrange(len(MAGIC), len(flipped))] ^= 1 << rng.randrange(8)
    data = bytes(flipped)
    tail_start = len(data) - part.ref.tail_bytes
    with pytest.raises(SnapshotDamagedError):
        open_tail(part.ref, data[tail_start:]).pages_of(0, data[len(MAGIC) : tail_start])
