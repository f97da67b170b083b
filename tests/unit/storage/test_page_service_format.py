"""The worked example of docs/formats/skeleton.md is true.

Byte for byte what it unpacks to; how well zlib packs it is zlib's business. Out of scope: what is
refused, see test_page_service.
"""

import re
import zlib
from pathlib import Path

from sqlnode.page_source import DataFile
from storage.methods import (
    PART_BYTES_MAX,
    SKELETON_BYTES_MAX,
    SKELETON_RAW_BYTES_MAX,
    decode_skeleton,
    encode_skeleton,
)

PAGE = (Path(__file__).parents[3] / "docs" / "formats" / "skeleton.md").read_text()


def example(title: str) -> bytes:
    found = re.search(rf"^### {title}\n.*?```hex\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return bytes.fromhex(re.sub(r"#.*", "", found[1]))


def test_the_example_is_what_it_says() -> None:
    description = decode_skeleton(example("On its way"))
    assert description.files == [DataFile("base/5/1259", 14)]
    assert description.small_files == {"PG_VERSION": b"18\n"}
    assert description.directories == ["base/5"]


def test_the_example_is_what_is_encoded() -> None:
    encoded = encode_skeleton([("base/5/1259", 14)], {"PG_VERSION": b"18\n"}, ["base/5"])
    assert encoded[:1] == example("On its way")[:1]
    assert zlib.decompress(encoded[1:]) == example("Unpacked")


def test_the_limits_are_those_of_the_page() -> None:
    for limit in (PART_BYTES_MAX, SKELETON_BYTES_MAX, SKELETON_RAW_BYTES_MAX):
        assert f"{limit >> 20} MiB" in PAGE
