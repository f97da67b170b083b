"""The page store in RocksDB and the model that tests compare it with keep the contract.

In scope: contract.py. Out of scope: random histories (test_rocks_store_model.py), crashes, damage,
full disks (test_rocks_store_crashes.py, test_rocks_store_damage.py).
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from unit.storage.contract import CLAIMS
from unit.storage.memory_store import MemoryStore

from storage.page_store import PageStore
from storage.rocks_store import RocksStore


def memory(_: Path) -> PageStore:
    return MemoryStore()


def rocks(directory: Path) -> PageStore:
    return RocksStore(directory / "pages")


@pytest.mark.parametrize("make", [memory, rocks])
@pytest.mark.parametrize("claim", CLAIMS)
def test_the_contract_is_kept(
    claim: Callable[[PageStore], None], make: Callable[[Path], PageStore], tmp_path: Path
) -> None:
    with closing(make(tmp_path)) as store:
        claim(store)
