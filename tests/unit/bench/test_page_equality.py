"""Two pages are the same but for hint bits, also where a tuple that was moved has left them.

In scope: pages made by hand. Out of scope: pages of a server, in
tests/integration/test_storage_pages.py.
"""

from __future__ import annotations

import struct

import pytest

from bench.storage.page_equality import is_same_page
from sqlnode.pagefault.block_map import BLOCK_BYTES as PAGE_BYTES

PATH = "global/1260"
LOWER, UPPER = 28, 8000  # one line pointer
HINTS_AT = 21  # in a tuple
LEFT_AT = 7000  # a tuple was here, and was moved


def heap_page(*, special: int = PAGE_BYTES) -> bytearray:
    page = bytearray(PAGE_BYTES)
    struct.pack_into("<HHH", page, 12, LOWER, UPPER, special)
    struct.pack_into("<I", page, 24, UPPER | 1 << 15 | 100 << 17)
    return page


def written(page: bytearray, at: int, bits: int) -> bytes:
    """A page with other bits and, as whenever it is written, another checksum."""
    changed = bytearray(page)
    changed[at] ^= bits
    changed[8] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("bits", [0x01, 0x02, 0x04, 0x08])
@pytest.mark.parametrize("tuple_at", [UPPER, LEFT_AT], ids=["a tuple", "what one left behind"])
def test_hint_bits_may_differ(tuple_at: int, bits: int) -> None:
    page = heap_page()
    assert is_same_page(PATH, written(page, tuple_at + HINTS_AT, bits), bytes(page))


@pytest.mark.parametrize(
    ("at", "bits"),
    [
        (LEFT_AT + HINTS_AT, 0x10),
        (LEFT_AT + HINTS_AT - 1, 0x01),
        (LEFT_AT + HINTS_AT + 1, 0x01),
        (LOWER - 7, 0x01),  # as far from an aligned place as hints are, but in the header
        (UPPER + HINTS_AT, 0x10),
        (UPPER + HINTS_AT + 8, 0x01),  # a byte of the row
    ],
)
def test_nothing_else_may_differ(at: int, bits: int) -> None:
    page = heap_page()
    assert not is_same_page(PATH, written(page, at, bits), bytes(page))


def test_a_page_of_an_index_has_no_hint_bits() -> None:
    page = heap_page(special=PAGE_BYTES - 16)
    assert not is_same_page(PATH, written(page, LEFT_AT + HINTS_AT, 0x01), bytes(page))


def test_a_checksum_alone_may_not_differ() -> None:
    page = heap_page()
    assert not is_same_page(PATH, written(page, 8, 0x02), bytes(page))
