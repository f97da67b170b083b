"""Whether a PNG shows anything: how many of its rows of pixels differ. Pure.

Rows are compared as they are packed, because undoing PNG's filters takes Python seconds. In a
uniform picture all packed rows are the same, but for a few where a packer begins with another
filter; each line of text has a dozen of its own.
"""

import struct
import zlib
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
PIXELS_MAX: Final = 64 << 20  # many times a screen
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type


class PngError(Exception):
    """Not a PNG, or not a whole one."""


def distinct_rows(content: bytes) -> int:
    """How many different rows a picture has."""
    if not content.startswith(SIGNATURE):
        raise PngError("it is no PNG")
    try:
        width, height, depth, colour = struct.unpack_from(">IIBB", content, len(SIGNATURE) + 8)
        row_bytes = 1 + (width * _CHANNELS[colour] * depth + 7) // 8
        if not 0 < width * height <= PIXELS_MAX:
            raise PngError("it has no size, or is too large")
        packed = zlib.decompressobj().decompress(_data(content), row_bytes * height)
    except (struct.error, zlib.error, KeyError) as error:
        raise PngError("it is no whole PNG") from error
    if len(packed) != row_bytes * height:
        raise PngError("it is no whole PNG")
    return len({packed[at : at + row_bytes] for at in range(0, len(packed), row_bytes)})


def _data(content: bytes) -> bytes:
    """All IDAT chunks in a row."""
    found = []
    at = len(SIGNATURE)
    while at + 8 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        if content[at + 4 : at + 8] == b"IDAT":
            found.append(content[at + 8 : at + 8 + size])
        at += size + 12  # its size, its name and its checksum
    return b"".join(found)
