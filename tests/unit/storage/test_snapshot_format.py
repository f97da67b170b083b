"""Manifests as bytes, names, and the worked examples of docs/formats/snapshot.md.

How well zstd packs is zstd's business; the examples are compared unpacked.
"""

import random
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.storage.snapshot_world import LAYOUT, S1, S2
from xxhash import xxh3_64_digest

from fabric.ids import CutSeq
from fabric.lsn import Lsn, Tli
from storage.cut import Cut, CutContents, StoredFile
from storage.methods import encode_skeleton
from storage.page_store import PageVersion
from storage.snapshot_format import (
    MAGIC,
    Layer,
    Manifest,
    PartRef,
    SnapshotDamagedError,
    SnapshotError,
    decode_manifest,
    encode_manifest,
    number_of_part,
)
from storage.snapshot_layer import LayerPacker, Packing, open_tail

PAGE = (Path(__file__).parents[3] / "docs" / "formats" / "snapshot.md").read_text()
REF = PartRef(f"{1:016X}-{5:032x}", 1000, 100, b"checksum", 1, 0)
CUT = Cut(seq=CutSeq(9), tli=Tli(1), lsn=Lsn(0x1000060), redo=Lsn(0x1000028), taken_at_s=1.5)
CONTENTS = CutContents(
    cut=CUT,
    files={
        "global/1": StoredFile("global/1", 2, 0),
        "base/5/1259": StoredFile("base/5/1259", 3, 14),
    },
    small_files={"PG_VERSION": b"18\n"},
    directories=["base/5"],
)  # fmt: skip
MANIFEST = Manifest(node=S1, number=2, contents=CONTENTS, layers=(Layer((REF,), 14),))


def example(title: str) -> bytes:
    found = re.search(rf"^### {title}\n.*?```hex\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return bytes.fromhex(re.sub(r"#.*", "", found[1]))


def example_part() -> tuple[PartRef, bytes]:
    pages = [bytes([1]) * 8192, bytes([2]) * 8192, None]
    versions = [PageVersion(file_id=3, block=4 + n, page=page) for n, page in enumerate(pages)]
    (part,) = LayerPacker(1, Packing()).parts(versions)
    return part.ref, b"".join(part.pieces)


def test_the_example_of_a_part_is_what_it_says() -> None:
    data = example("A part")
    tail_bytes = len(data) - 8 - 28  # magic and block
    ref = PartRef(
        f"{1:016X}-{0:032x}", len(data), tail_bytes, xxh3_64_digest(data[-tail_bytes:]), 3, 4
    )
    index = open_tail(ref, data[-tail_bytes:])
    assert list(index.runs()) == [(3, 4, 2), (3, 6, 1)]
    start, end = index.block_starts
    assert index.pages_of(0, data[start:end]) == bytes([1]) * 8192 + bytes([2]) * 8192


def test_the_example_of_an_index_is_what_is_packed() -> None:
    ref, data = example_part()
    tail = data[-ref.tail_bytes :]
    assert zstandard.decompress(tail[:-24])[:18] == example("Its index, unpacked")[:18]
    assert data[:8] == example("A part")[:8]
    assert tail[-8:] == example("A part")[-8:]


def test_the_example_of_a_manifest_is_what_is_encoded() -> None:
    data = example("A manifest")
    decoded = decode_manifest(LAYOUT, S1, 2, data)
    assert decoded.contents.files == {"base/5/1259": StoredFile("base/5/1259", 3, 14)}
    assert (decoded.cut, decoded.layers) == (CUT, (Layer((REF,), 14),))
    encoded = encode_manifest(LAYOUT, decoded)
    assert decode_manifest(LAYOUT, S1, 2, encoded) == decoded
    assert encoded[:8] == data[:8]


def test_a_manifest_comes_back() -> None:
    assert decode_manifest(LAYOUT, S1, 2, encode_manifest(LAYOUT, MANIFEST)) == MANIFEST
    assert MANIFEST.pages == 14
    assert MANIFEST.part_names == {REF.name}


def test_a_manifest_is_that_of_its_name() -> None:
    data = encode_manifest(LAYOUT, MANIFEST)
    other = replace(LAYOUT, branch=type(LAYOUT.branch)("other"))
    for layout, node, number in [(LAYOUT, S2, 2), (LAYOUT, S1, 3), (other, S1, 2)]:
        with pytest.raises(SnapshotDamagedError, match="copied"):
            decode_manifest(layout, node, number, data)


def test_another_version_is_named() -> None:
    data = MAGIC[:-1] + b"\2" + encode_manifest(LAYOUT, MANIFEST)[8:]
    with pytest.raises(SnapshotDamagedError, match="version 2, and this program knows 1"):
        decode_manifest(LAYOUT, S1, 2, data)


def test_a_skeleton_that_is_too_large_is_no_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.methods.SKELETON_RAW_BYTES_MAX", 10)
    with pytest.raises(SnapshotError, match="no snapshot of cut 0/1000060"):
        encode_manifest(LAYOUT, MANIFEST)


def test_names_are_read_back() -> None:
    assert LAYOUT.manifest(S1, 255) == "blue/main/pages/manifests/s1/00000000000000FF"
    assert LAYOUT.part(S1, REF.name) == f"blue/main/pages/layers/s1/{REF.name}"
    assert LAYOUT.chain_of(LAYOUT.manifest(S1, 255)) == (S1, 255)
    folder = LAYOUT.manifests
    for name in (
        "s1/ff",
        "S_1/00000000000000FF",
        "s1/00000000000000fg",
        "x",
        "s1/",
        "/" + "0" * 16,
    ):
        assert LAYOUT.chain_of(folder + name) is None
    assert number_of_part(REF.name) == 1
    assert number_of_part(REF.name[:-1]) is None


# --- What is no manifest --------------------------------------------------------------------------


def sealed(body: bytes) -> bytes:
    return MAGIC + xxh3_64_digest(body) + body


def fields() -> list[object]:
    found = msgspec.msgpack.decode(encode_manifest(LAYOUT, MANIFEST)[16:])
    assert isinstance(found, list)
    return found


def part(**changes: object) -> list[object]:
    return [
        [
            [
                list(
                    msgspec.to_builtins(
                        msgspec.structs.replace(REF, **changes), builtin_types=(bytes,)
                    )
                )
            ],
            14,
        ]
    ]


WRONG = [
    (3, -1), (3, 2**63), (3, 3), (0, "red"), (2, "s2"), (2, 7),
    (4, [9, 1, 10, 20, 1.5]), (4, [9, 2**33, 10, 5, 1.5]), (4, [-1, 1, 10, 5, 1.5]), (4, []),
    (4, [9, 1, 10, 5, float("nan")]), (4, [9, 1, 10, 5, float("inf")]), (4, [9, 1, 10, 5, "x"]),
    (5, b""), (5, b"\1nonsense"), (5, b"\2"),
    (5, encode_skeleton([("global/1", 0), ("global/1", 1)], {}, [])),
    (5, encode_skeleton([("global/1", 0), ("../../etc/passwd", 1)], {}, [])),
    (5, encode_skeleton([("global/1", 0), ("global/2", 1)], {"postgresql.conf": b"x"}, [])),
    (5, encode_skeleton([("global/1", 0), ("global/2", 1)], {}, ["/etc"])),
    (6, [2]), (6, [3, 2]), (6, [2, 2]), (6, [-1, 2]), (6, [2, 3, 4]), (6, None),
    (7, [[[], 14]]), (7, 5), (7, [[]]), (7, [[5, 5]]),
    (7, part(name="../../x")), (7, part(name=f"{3:016X}-{5:032x}")), (7, part(tail_bytes=1001)),
    (7, part(tail_bytes=0)), (7, part(size_bytes=1 << 40)), (7, part(tail_checksum=b"short")),
    (7, part(first_block=1 << 20)), (7, part(first_file=-1)),
    (7, [[[*part()[0][0], *part()[0][0]], 14]]),  # type: ignore[index]  # a list of lists
    (7, part() * 257),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_manifest_that_lies_is_refused(number: int) -> None:
    place, value = WRONG[number]
    lying = fields()
    lying[place] = value
    with pytest.raises(SnapshotDamagedError, match=r"damaged|copied"):
        decode_manifest(LAYOUT, S1, 2, sealed(msgspec.msgpack.encode(lying)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**32))
def test_noise_is_refused(noise: bytes, seed: int) -> None:
    for data in (noise, MAGIC + noise, sealed(noise)):
        with pytest.raises(SnapshotDamagedError):
            decode_manifest(LAYOUT, S1, 2, data)
    rng = random.Random(seed)
    body = bytearray(encode_manifest(LAYOUT, MANIFEST)[16:])
    for _ in range(rng.randrange(1, 4)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    with suppress(SnapshotDamagedError):  # and no other error
        decode_manifest(LAYOUT, S1, 2, sealed(bytes(body)))
