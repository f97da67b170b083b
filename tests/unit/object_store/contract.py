"""What every object store must do, as claims that a test module runs against its stores.

In scope: the five methods, their errors, races. Out of scope: what is special to one store, such as
durability across a crash, which the tests of that store show.
"""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from object_store.interface import (
    OBJECT_BYTES_MAX,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    ObjectRangeError,
    ObjectStore,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fabric.frames import Buffer

WRITERS: Final = 24
BAD_NAMES: Final = [
    "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", ".a", "a/.b", "a b", "a\n", "a\0", "ä",
    "a?b", "a%2Fb", "a\\b", "a" * 201, "/".join(["a" * 100] * 6),
]  # fmt: skip


def what_is_put_is_read_back(store: ObjectStore) -> None:
    objects: list[tuple[str, Buffer]] = [
        ("a", b"bytes"),
        ("folder/b", bytearray(b"array")),
        ("folder/deep/er/c.partial", memoryview(b"a view")[2:]),
        ("0-A_z.9", b""),
        ("x" * 200, b"x"),
    ]
    for name, data in objects:
        store.put_new(name, data)
        assert store.get(name) == bytes(data)
        assert type(store.get(name)) is bytes


def pieces_are_joined(store: ObjectStore) -> None:
    words = memoryview(bytearray(range(16))).cast("I")
    store.put_new("pieces", [b"one", bytearray(b""), memoryview(b"two")[1:], words])
    assert store.get("pieces") == b"onewo" + bytes(range(16))
    store.put_new("many", [b"%d," % number for number in range(3000)])
    assert store.get("many").split(b",")[:-1] == [b"%d" % number for number in range(3000)]


def large_objects_are_whole(store: ObjectStore) -> None:
    content = random.Random(5).randbytes(16 << 20)
    store.put_new("large", [content[: 1 << 20], content[1 << 20 :]])
    assert store.get("large") == content
    assert store.get_range("large", (16 << 20) - 9, 9) == content[-9:]


def an_object_is_never_replaced(store: ObjectStore) -> None:
    store.put_new("a/b", b"first")
    for data in (b"second", b"first", b""):
        with pytest.raises(ObjectExistsError, match="a/b"):
            store.put_new("a/b", data)
    assert store.get("a/b") == b"first"
    store.put_new("empty", b"")
    with pytest.raises(ObjectExistsError):
        store.put_new("empty", b"")


def a_missing_object_is_reported(store: ObjectStore) -> None:
    store.put_new("folder/a", b"x")
    for name in ("b", "folder/b", "folder", "none/at/all", "folder/a/below"):
        with pytest.raises(ObjectMissingError, match=name):
            store.get(name)
        with pytest.raises(ObjectMissingError, match=name):
            store.get_range(name, 0, 1)


def ranges_are_exact(store: ObjectStore) -> None:
    store.put_new("a", b"0123456789")
    assert store.get_range("a", 0, 10) == b"0123456789"
    assert store.get_range("a", 3, 4) == b"3456"
    assert type(store.get_range("a", 3, 4)) is bytes
    store.put_new("empty", b"")
    for name, start, size_bytes in [
        ("a", 0, 11), ("a", 9, 2), ("a", 10, 1), ("a", 500, 5), ("empty", 0, 1),
    ]:  # fmt: skip
        with pytest.raises(ObjectRangeError, match=name):
            store.get_range(name, start, size_bytes)
    for start, size_bytes in [(-1, 2), (0, 0), (0, -1), (0, OBJECT_BYTES_MAX + 1)]:
        with pytest.raises(ValueError, match="range"):
            store.get_range("a", start, size_bytes)


def a_deleted_object_is_gone_and_its_name_free(store: ObjectStore) -> None:
    store.put_new("a/b", b"old")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    store.delete("a")
    with pytest.raises(ObjectMissingError):
        store.get("a/b")
    assert store.list("") == []
    store.put_new("a/b", b"new")
    assert store.get("a/b") == b"new"


def listings_ascend_by_name(store: ObjectStore) -> None:
    # The order of bytes, in which a slash sorts behind a hyphen and a dot.
    names = ["B", "a-/x", "a-b", "a.b", "a/-", "a/b/c", "a/b.c", "a0", "a_", "b/a", "b/b"]
    shuffled = random.Random(3).sample(names, len(names))
    for name in shuffled:
        store.put_new(name, name.encode())
    ascending = [ObjectInfo(name, len(name)) for name in sorted(names)]
    assert store.list("") == ascending
    for count_max in (1, 2, 5, 11):
        assert listed_by_parts(store, "", count_max) == ascending
    for after in ("A", "a", "a-", "a-b", "a/", "a/b", "a/b/zz", "a0", "b/a", "z"):
        assert store.list("", after=after) == [info for info in ascending if info.name > after]


def listings_keep_to_their_folder(store: ObjectStore) -> None:
    for name in ["ab/x", "a/x", "a/y/z", "a-/x", "b/a/x"]:
        store.put_new(name, b"")
    assert [info.name for info in store.list("a/")] == ["a/x", "a/y/z"]
    assert [info.name for info in store.list("a/", after="a/x")] == ["a/y/z"]
    assert [info.name for info in store.list("a/", after="0")] == ["a/x", "a/y/z"]
    assert [info.name for info in store.list("a/y/")] == ["a/y/z"]
    assert store.list("a/", after="b") == []
    assert store.list("c/") == []
    assert store.list("a/x/") == []


def long_listings_come_in_parts(store: ObjectStore) -> None:
    names = [f"n/{number:04d}" for number in range(60)]
    for name in names:
        store.put_new(name, b"")
    assert [info.name for info in listed_by_parts(store, "n/", 7)] == names


def bad_arguments_are_refused(store: ObjectStore) -> None:
    calls: list[Callable[[str], object]] = [
        store.get,
        store.delete,
        lambda name: store.put_new(name, b""),
        lambda name: store.get_range(name, 0, 1),
    ]
    for name in BAD_NAMES:
        for call in calls:
            with pytest.raises(ValueError, match="object name"):
                call(name)
    for prefix in ("a", "/", "a//", "../", "a/../"):
        with pytest.raises(ValueError, match=r"prefix|object name"):
            store.list(prefix)
    for count_max in (0, -1, 1001):
        with pytest.raises(ValueError, match="listing"):
            store.list("", count_max=count_max)
    assert store.list("") == []


def of_many_writers_one_wins(store: ObjectStore) -> None:
    for round_number in range(4):
        name = f"race/{round_number}"
        barrier = threading.Barrier(WRITERS)

        def write(
            number: int, name: str = name, barrier: threading.Barrier = barrier
        ) -> int | None:
            barrier.wait()
            try:
                store.put_new(name, [b"%d" % number, b"." * 1000])
            except ObjectExistsError:
                return None
            return number

        with ThreadPoolExecutor(WRITERS) as threads:
            winners = [won for won in threads.map(write, range(WRITERS)) if won is not None]
        assert len(winners) == 1
        assert store.get(name) == b"%d" % winners[0] + b"." * 1000


CLAIMS: Final = [
    what_is_put_is_read_back,
    pieces_are_joined,
    large_objects_are_whole,
    an_object_is_never_replaced,
    a_missing_object_is_reported,
    ranges_are_exact,
    a_deleted_object_is_gone_and_its_name_free,
    listings_ascend_by_name,
    listings_keep_to_their_folder,
    long_listings_come_in_parts,
    bad_arguments_are_refused,
    of_many_writers_one_wins,
]


def listed_by_parts(store: ObjectStore, prefix: str, count_max: int) -> list[ObjectInfo]:
    found: list[ObjectInfo] = []
    while True:
        after = found[-1].name if found else ""
        part = store.list(prefix, after=after, count_max=count_max)
        found += part
        if len(part) < count_max:
            return found
