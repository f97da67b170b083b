"""The stores that need no server keep the contract: memory, a directory, and obstore's client code.

The last one is the code for the clouds over obstore's own memory, so that it is tried without a
network. tests/integration/test_object_store_s3.py runs the same claims over HTTP.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import MemoryStore as ObstoreMemory
from unit.object_store.contract import CLAIMS

from object_store.directory import DirectoryStore
from object_store.interface import ObjectStore
from object_store.memory import MemoryStore
from object_store.remote import RemoteStore


def memory(_: Path) -> ObjectStore:
    return MemoryStore()


def directory(path: Path) -> ObjectStore:
    return DirectoryStore(path / "objects")


def client_code(_: Path) -> ObjectStore:
    bucket = ObstoreMemory()
    return RemoteStore(reader=bucket, writer=bucket)


@pytest.mark.parametrize("make", [memory, directory, client_code])
@pytest.mark.parametrize("claim", CLAIMS)
def test_the_contract_is_kept(
    claim: Callable[[ObjectStore], None], make: Callable[[Path], ObjectStore], tmp_path: Path
) -> None:
    claim(make(tmp_path))
