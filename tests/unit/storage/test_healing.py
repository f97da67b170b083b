"""The directories of a page store that is made anew: at whichever line a node dies, one is right.

Out of scope: how it is made anew, and when (tests/integration/test_storage_healing.py).
"""

from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from unit.storage.contract import MAIN, A, new, publish

from storage.healing import open_store
from storage.page_store import StoreBrokenError
from storage.rocks_store import RocksStore


def store_of(path: Path, word: str) -> None:
    with closing(RocksStore(path)) as store:
        publish(store, word, new(A, 1))


def word_of(data_dir: Path) -> str | None:
    """Which store a node opens: what its only cut says."""
    with capture_logs(), closing(open_store(data_dir)) as store:
        cuts = store.cuts(MAIN)
        if not cuts:
            return None
        return store.contents(MAIN, cuts[0].seq).small_files["global/pg_control"].decode()


def broken(path: Path) -> None:
    store_of(path, "broken")
    (path / "rocks" / "CURRENT").write_text("nothing of RocksDB")


@pytest.mark.parametrize(
    ("there", "opened", "left"),
    [
        ({"pages": "old"}, "old", set()),
        ({"pages": "old", "pages.new": "half"}, "old", set()),  # died while it was made
        ({"pages": "old", "pages.ready": "new"}, "new", {"pages.damaged"}),
        ({"pages": "old", "pages.ready": "new", "pages.damaged": "older"}, "new",
         {"pages.damaged"}),
        ({"pages.damaged": "old", "pages.ready": "new"}, "new", {"pages.damaged"}),  # between
        ({"pages": "new", "pages.damaged": "old"}, "new", {"pages.damaged"}),
    ],
)  # fmt: skip
def test_a_node_opens_what_is_complete_and_newest(
    tmp_path: Path, there: dict[str, str], opened: str, left: set[str]
) -> None:
    for name, word in there.items():
        store_of(tmp_path / name, word)
    for _ in range(2):
        assert word_of(tmp_path) == opened
        assert {path.name for path in tmp_path.iterdir()} == {"pages", *left}


def test_a_store_that_cannot_be_opened_is_put_aside_once(tmp_path: Path) -> None:
    broken(tmp_path / "pages")
    assert word_of(tmp_path) is None
    assert list((tmp_path / "pages.damaged" / "rocks").glob("*.sst"))
    (tmp_path / "pages.damaged" / "mark").touch()
    (tmp_path / "pages" / "rocks" / "CURRENT").write_text("broken as well")
    assert word_of(tmp_path) is None
    assert (tmp_path / "pages.damaged" / "mark").exists(), "what had everything is kept"


@pytest.mark.parametrize("lost", ["*.sst", "MANIFEST-*"])
def test_a_lost_file_is_damage_and_a_store_in_use_is_not(tmp_path: Path, lost: str) -> None:
    store_of(tmp_path / "pages", "old")
    with closing(RocksStore(tmp_path / "pages")), pytest.raises(StoreBrokenError, match="already"):
        open_store(tmp_path)
    assert word_of(tmp_path) == "old"
    for table in (tmp_path / "pages" / "rocks").glob(lost):
        table.unlink()
    assert word_of(tmp_path) is None
    assert (tmp_path / "pages.damaged").exists()
