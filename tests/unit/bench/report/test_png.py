"""Whether a picture shows anything. In scope: pictures made here. Out of scope: a browser's."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.png import SIGNATURE, PngError, distinct_rows


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(rows: list[bytes], *, width: int = 4, height: int | None = None, colour: int = 2) -> bytes:
    head = struct.pack(
        ">IIBBBBB", width, len(rows) if height is None else height, 8, colour, 0, 0, 0
    )
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    half = len(packed) // 2
    data = chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])  # a PNG may cut it up
    return SIGNATURE + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


WHITE = b"\xff" * 12


def test_a_uniform_picture_has_one_row() -> None:
    assert distinct_rows(png([WHITE] * 50)) == 1


def test_other_rows_are_counted_once() -> None:
    rows = [WHITE] * 5 + [bytes([at]) * 12 for at in range(20)] * 2
    assert distinct_rows(png(rows)) == 21


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        SIGNATURE,
        png([WHITE])[:40],
        png([WHITE], height=2),
        png([WHITE], height=0),
        png([WHITE], width=1 << 30),
        png([WHITE], colour=5),
        png([WHITE]).replace(b"IDAT", b"IDAX"),
    ],
)
def test_what_is_no_whole_png_is_refused(content: bytes) -> None:
    with pytest.raises(PngError):
        distinct_rows(content)


@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    with pytest.raises(PngError):
        distinct_rows(SIGNATURE + content)
