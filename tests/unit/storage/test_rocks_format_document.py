"""The worked example of docs/formats/page_store.md is true, byte for byte.

In scope: what the page shows, encoded and decoded. Out of scope: everything else about the format.
"""

import re
from pathlib import Path

import pytest

from storage.page_store import DamagedError
from storage.rocks_keys import Kind, cut_key, page_key, seq_of_cut_key, seq_of_page_key
from storage.rocks_values import (
    ZERO_PAGE,
    BaseRecord,
    CutHead,
    CutRecord,
    DeltaRecord,
    blocks_of,
    decoded,
    encoded,
    opened_page,
    runs_of,
    sealed,
    sealed_page,
)

PAGE = Path(__file__).parents[3] / "docs" / "formats" / "page_store.md"
RECORD = CutRecord(
    tli=1,
    lsn=0x2000000,
    redo=0x1000060,
    taken_at_s=1_800_000_000.0,
    base=1,
    next_file_id=6,
    files={"base/5/1259": (5, 14), "base/5/9": None},
    small_files={},
    directories=None,
)
DELTA = DeltaRecord({5: [0, 2, 7, 1]})


def examples() -> list[bytes]:
    text = re.sub("#.*", "", PAGE.read_text().split("## Example")[1])
    return [bytes.fromhex(found) for found in re.findall(r"```hex\n(.*?)```", text, re.DOTALL)]


def test_the_page_shows_versions_of_a_page() -> None:
    zeros, letters, _ = examples()
    key = page_key(2, 5, 7, 3)
    assert zeros == key + sealed_page(key, ZERO_PAGE)
    page = b"a" * 8192
    value = sealed_page(key, page)
    assert value.startswith(letters)
    assert bytes(opened_page(key, value) or b"") == page
    assert opened_page(key, zeros[len(key) :]) is None
    assert seq_of_page_key(key) == 3


def test_the_page_shows_a_cut_and_its_delta() -> None:
    *_, both = examples()
    cut, delta = cut_key(Kind.CUT, 2, 3), cut_key(Kind.DELTA, 2, 3)
    assert both == cut + encoded(cut, RECORD) + delta + encoded(delta, DELTA)
    assert decoded(cut, encoded(cut, RECORD), CutRecord) == RECORD
    assert decoded(cut, encoded(cut, RECORD), CutHead).next_file_id == 6
    assert seq_of_cut_key(cut) == 3


def test_a_value_under_another_key_or_of_another_kind_is_damage() -> None:
    key, other = page_key(2, 5, 7, 3), page_key(2, 5, 7, 4)
    for value in (sealed_page(key, b"a" * 8192), sealed_page(key, ZERO_PAGE)):
        with pytest.raises(DamagedError):
            opened_page(other, value)
    with pytest.raises(DamagedError, match="9 bytes"):
        opened_page(key, sealed(key, b"too short"))
    for cut in (b"", b"123"):
        with pytest.raises(DamagedError):
            opened_page(key, cut)
    with pytest.raises(DamagedError, match="cannot be read"):
        decoded(key, encoded(key, DELTA), BaseRecord)


def test_newer_versions_lie_before_older_ones_and_blocks_in_order() -> None:
    keys = [page_key(1, 1, block, seq) for block in (0, 1, 256, 2**32 - 1) for seq in (9, 2, 1, 0)]
    assert keys == sorted(keys)


def test_runs_are_the_blocks() -> None:
    blocks = [0, 1, 5, 7, 8, 9]
    assert runs_of(blocks) == [0, 2, 5, 1, 7, 3]
    assert blocks_of(runs_of(blocks)) == blocks
    assert runs_of([]) == []
