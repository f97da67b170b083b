"""How much of the disk each branch takes, as the files of the store tell it."""

from contextlib import closing
from pathlib import Path

from unit.storage.contract import MAIN, OTHER, A, new, publish

from storage.rocks_keys import BRANCH_PREFIX, Kind, cut_key, page_key
from storage.rocks_space import TableFile, branch_sizes
from storage.rocks_store import RocksStore


def test_a_file_counts_for_the_branches_whose_pages_it_may_have() -> None:
    files = [
        TableFile(BRANCH_PREFIX + b"main", page_key(2, 1, 5, 1), 1000),  # a first cut
        TableFile(cut_key(Kind.CUT, 1, 2), page_key(1, 1, 5, 1), 300),
        TableFile(page_key(1, 1, 0, 1), page_key(3, 1, 5, 1), 60),  # compacted: of all of them
        TableFile(BRANCH_PREFIX + b"main", BRANCH_PREFIX + b"other", 7),  # names
    ]
    assert branch_sizes(files, [3, 1, 2]) == {1: 320, 2: 1020, 3: 20}


def test_sizes_of_branches_are_about_what_was_published(tmp_path: Path) -> None:
    with closing(RocksStore(tmp_path)) as store:
        assert store.branch_sizes() == {}
        publish(store, "one", new(A, 400))
        publish(store, "one", new(A, 100), branch=OTHER)
        sizes = store.branch_sizes()
        assert set(sizes) == {MAIN, OTHER}
        assert 3 * sizes[OTHER] < sizes[MAIN] < 5 * sizes[OTHER]
        assert sum(sizes.values()) <= store.size_bytes()
