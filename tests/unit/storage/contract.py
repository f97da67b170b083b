"""What every page store must do, as claims that a test module runs against its stores.

In scope: the methods, the words of a harvest, their errors. Out of scope: what is special to one
store, such as durability across a crash and damage on the disk, and what a random history finds
(test_rocks_store_model.py).
"""

import random
from collections.abc import Sequence
from typing import Final

import pytest

from fabric.ids import BranchName, CutSeq
from fabric.lsn import Lsn, Tli
from sqlnode.harvest import ChangedFile
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages
from storage.cut import Cut
from storage.page_store import (
    BranchStats,
    CutGoneError,
    NewCut,
    NoSuchPageError,
    PageStore,
    StoreError,
)

MAIN: Final = BranchName("main")
OTHER: Final = BranchName("other")
A: Final = "base/1/1"
B: Final = "base/1/2"
ZEROS: Final = bytes(BLOCK_BYTES)


def page(word: object) -> bytes:
    """A page that says what it is, half of it hard to compress."""
    text = f"{word}.".encode()
    half = random.Random(str(word)).randbytes(BLOCK_BYTES // 2)
    return (text * (BLOCK_BYTES // 2 // len(text) + 1))[: BLOCK_BYTES // 2] + half


def changed(
    path: str, blocks: int, changed: Sequence[int] = (), *, keep: int | None = None
) -> ChangedFile:
    return ChangedFile(path=path, blocks=blocks, keep_blocks=keep, changed=list(changed))


def new(path: str, blocks: int, changed: Sequence[int] | None = None) -> ChangedFile:
    found = range(blocks) if changed is None else changed
    return ChangedFile(path=path, blocks=blocks, keep_blocks=0, changed=list(found))


def publish(
    store: PageStore,
    word: str,
    *files: ChangedFile,
    removed: Sequence[str] = (),
    branch: BranchName = MAIN,
    lsn: int | None = None,
) -> Cut:
    """Publish a cut whose pages are `page((word, path, block))`."""
    newest = max((int(cut.lsn) for cut in store.cuts(branch)), default=1000)
    lsn = newest + 100 if lsn is None else lsn
    cut = NewCut(
        tli=Tli(1),
        lsn=Lsn(lsn),
        redo=Lsn(lsn - 50),
        taken_at_s=float(lsn),
        files=files,
        removed=removed,
        small_files={"global/pg_control": word.encode(), "PG_VERSION": b"15\n"},
        directories=["base", "base/1"],
    )

    def read_pages(path: str, first: int, blocks: int) -> Pages:
        pages = (page((word, path, block)) for block in range(first, first + blocks))
        return bytearray().join(pages)

    return store.publish(branch, cut, read_pages)


def file_of(store: PageStore, cut: Cut, path: str, branch: BranchName = MAIN) -> list[bytes]:
    """The pages of a whole file, read as one range and one by one."""
    blocks = store.contents(branch, cut.seq).files[path].blocks
    ranges = [PageRange(path, block, 1) for block in range(blocks)]
    whole, *single = store.read(branch, cut.seq, [PageRange(path, 0, blocks), *ranges])
    assert not isinstance(whole, StoreError), whole
    found = [bytes(answer) for answer in single if not isinstance(answer, StoreError)]
    assert b"".join(found) == bytes(whole)
    return found


def collect_all(store: PageStore, branch: BranchName = MAIN, *, pages_max: int = 1000) -> None:
    while store.collect(branch, pages_max=pages_max) or store.stats(branch).garbage_cuts:
        pass


def says(word: str, path: str, block: int) -> bytes:
    return page((word, path, block))


def what_is_published_is_read_back(store: PageStore) -> None:
    first = publish(store, "one", new(A, 3), new(B, 1))
    second = publish(store, "two", changed(A, 3, [1]))
    assert (first.seq, second.seq) == (1, 2)
    assert store.cuts(MAIN) == [first, second]
    assert store.branches() == [MAIN]
    assert file_of(store, first, A) == [says("one", A, block) for block in range(3)]
    assert file_of(store, second, A) == [says("one", A, 0), says("two", A, 1), says("one", A, 2)]
    assert file_of(store, second, B) == [says("one", B, 0)]


def contents_describe_the_cut(store: PageStore) -> None:
    first = publish(store, "one", new(A, 3), new(B, 0))
    second = publish(store, "two", changed(A, 5, [4]), removed=[B])
    contents = store.contents(MAIN, first.seq)
    assert contents.cut == first
    assert {path: file.blocks for path, file in contents.files.items()} == {A: 3, B: 0}
    assert contents.small_files == {"global/pg_control": b"one", "PG_VERSION": b"15\n"}
    assert contents.directories == ["base", "base/1"]
    later = store.contents(MAIN, second.seq)
    assert {path: file.blocks for path, file in later.files.items()} == {A: 5}
    assert later.files[A].file_id == contents.files[A].file_id
    assert later.small_files["global/pg_control"] == b"two"


def nothing_is_known_of_an_unknown_branch(store: PageStore) -> None:
    publish(store, "one", new(A, 1))
    assert store.cuts(OTHER) == []
    assert store.stats(OTHER) == BranchStats(cuts=0, files=0, pages=0, garbage_cuts=0)
    assert store.collect(OTHER, pages_max=5) == 0
    store.drop(OTHER, [CutSeq(1)])
    store.remove_branch(OTHER)
    for seq in (CutSeq(0), CutSeq(1)):
        with pytest.raises(CutGoneError):
            store.contents(OTHER, seq)
        with pytest.raises(CutGoneError):
            store.read(OTHER, seq, [])


def added_blocks_are_zeros(store: PageStore) -> None:
    publish(store, "one", new(A, 2))
    second = publish(store, "two", changed(A, 6, [4]), new(B, 3, [1]))
    assert file_of(store, second, A) == [
        says("one", A, 0), says("one", A, 1), ZEROS, ZEROS, says("two", A, 4), ZEROS,
    ]  # fmt: skip
    assert file_of(store, second, B) == [ZEROS, says("two", B, 1), ZEROS]


def what_was_cut_off_never_comes_back(store: PageStore) -> None:
    first = publish(store, "one", new(A, 6))
    second = publish(store, "two", changed(A, 5, [3], keep=2))
    third = publish(store, "three", changed(A, 1, keep=1))
    fourth = publish(store, "four", changed(A, 4, [3]))
    assert file_of(store, first, A) == [says("one", A, block) for block in range(6)]
    zero, one = says("one", A, 0), says("one", A, 1)
    assert file_of(store, second, A) == [zero, one, ZEROS, says("two", A, 3), ZEROS]
    assert file_of(store, third, A) == [zero]
    assert file_of(store, fourth, A) == [zero, ZEROS, ZEROS, says("four", A, 3)]


def a_file_made_anew_has_none_of_the_old_pages(store: PageStore) -> None:
    first = publish(store, "one", new(A, 3), new(B, 3))
    second = publish(store, "two", new(A, 2, [1]), new(B, 1, []), removed=[A])
    assert file_of(store, second, A) == [ZEROS, says("two", A, 1)]
    assert file_of(store, second, B) == [ZEROS]
    before, after = (store.contents(MAIN, cut.seq).files for cut in (first, second))
    assert {file.file_id for file in before.values()}.isdisjoint(
        file.file_id for file in after.values()
    )
    third = publish(store, "three", removed=[A, B, "base/1/never"])
    assert store.contents(MAIN, third.seq).files == {}
    fourth = publish(store, "four", new(A, 2, []))
    assert file_of(store, fourth, A) == [ZEROS, ZEROS]
    assert file_of(store, first, A) == [says("one", A, block) for block in range(3)]


def pages_of_zeros_are_pages(store: PageStore) -> None:
    def zeros(path: str, first: int, blocks: int) -> Pages:
        return memoryview(bytearray(blocks * BLOCK_BYTES))

    publish(store, "one", new(A, 300))
    cut = NewCut(
        tli=Tli(2), lsn=Lsn(5000), redo=Lsn(5000), taken_at_s=1.5,
        files=[changed(A, 300, [7, 299])], removed=[], small_files={}, directories=[],
    )  # fmt: skip
    second = store.publish(MAIN, cut, zeros)
    pages = file_of(store, second, A)
    assert [block for block in range(300) if pages[block] == ZEROS] == [7, 299]
    assert store.contents(MAIN, second.seq).small_files == {}


def wrong_ranges_are_refused_one_by_one(store: PageStore) -> None:
    cut = publish(store, "one", new(A, 3))
    publish(store, "two", changed(A, 5, [4]))
    wanted = [(A, 0, 3), (A, 1, 3), (A, 3, 1), (B, 0, 1), (A, 2, 1), (A, 9, 1), (A, 0, 0)]
    answers = store.read(MAIN, cut.seq, [PageRange(*one) for one in wanted])
    refused = [isinstance(answer, NoSuchPageError) for answer in answers]
    assert refused == [False, True, True, True, False, True, False]
    assert answers[-1] == b""


def what_does_not_fit_is_not_published(store: PageStore) -> None:
    publish(store, "one", new(A, 3), lsn=2000)
    wrong = [
        [changed(B, 1, [0])],  # no cut has it
        [changed(B, 2, [0], keep=1)],
        [changed(A, 3, [3])],
        [changed(A, 3, [-1])],
        [changed(A, -1)],
        [changed(A, 3), changed(A, 4)],
    ]
    for files in wrong[: 2 if type(store).__name__ == "MemoryStore" else None]:
        with pytest.raises(ValueError, match=r"base/1|there"):
            publish(store, "two", *files)
    with pytest.raises(ValueError, match=r"base/1|there"):
        publish(store, "two", changed(A, 3), removed=[A])
    for lsn in (2000, 1999):
        with pytest.raises(ValueError, match="not after"):
            publish(store, "two", changed(A, 3), lsn=lsn)
    assert [cut.seq for cut in store.cuts(MAIN)] == [1]
    assert publish(store, "two", changed(A, 3, [0])).seq == 2


def a_failed_read_publishes_nothing(store: PageStore) -> None:
    class TornError(Exception):
        pass

    def torn(path: str, first: int, blocks: int) -> Pages:
        if path == B:
            raise TornError
        return bytes(blocks * BLOCK_BYTES)

    first = publish(store, "one", new(A, 3))
    cut = NewCut(
        tli=Tli(1), lsn=Lsn(5000), redo=Lsn(5000), taken_at_s=1.5, removed=[],
        files=[changed(A, 4, [0, 3]), new(B, 5)], small_files={}, directories=[],
    )  # fmt: skip
    with pytest.raises(TornError):
        store.publish(MAIN, cut, torn)
    assert store.cuts(MAIN) == [first]
    second = publish(store, "two", changed(A, 5, [4]))
    assert file_of(store, second, A)[3] == ZEROS
    assert store.contents(MAIN, second.seq).files.keys() == {A}


def dropped_cuts_cannot_be_read(store: PageStore) -> None:
    for word in ("one", "two", "three"):
        publish(store, word, new(A, 3))
    with pytest.raises(ValueError, match="newest"):
        store.drop(MAIN, [CutSeq(1), CutSeq(3)])
    assert len(store.cuts(MAIN)) == 3
    store.drop(MAIN, [CutSeq(1), CutSeq(77)])
    store.drop(MAIN, [CutSeq(1)])
    assert [cut.seq for cut in store.cuts(MAIN)] == [2, 3]
    for call in (
        lambda: store.contents(MAIN, CutSeq(1)),
        lambda: store.read(MAIN, CutSeq(1), [PageRange(A, 0, 1)]),
        lambda: list(store.versions(MAIN, after=CutSeq(0), upto=CutSeq(1))),
    ):
        with pytest.raises(CutGoneError):
            call()
    assert store.stats(MAIN).garbage_cuts == 1


def collecting_touches_nothing_that_remains(store: PageStore) -> None:
    kept: dict[CutSeq, dict[str, list[bytes]]] = {}
    publish(store, "0", new(A, 20), new(B, 20))
    for number in range(1, 31):
        blocks = 20 - number % 7
        files = [changed(A, 20, [number % 20, 3]), changed(B, blocks, [2], keep=blocks - 1)]
        if number % 10 == 9:
            files[1] = new(B, blocks, [1])
        cut = publish(store, str(number), *files)
        kept[cut.seq] = {path: file_of(store, cut, path) for path in (A, B)}
    dropped = [CutSeq(seq) for seq in range(1, 31) if seq % 5]
    store.drop(MAIN, dropped)
    collect_all(store, pages_max=7)
    assert store.stats(MAIN).garbage_cuts == 0
    assert [cut.seq for cut in store.cuts(MAIN)] == [5, 10, 15, 20, 25, 30, 31]
    for cut in store.cuts(MAIN):
        for path, pages in kept[cut.seq].items():
            assert file_of(store, cut, path) == pages
    assert store.collect(MAIN, pages_max=1) == 0


def versions_are_what_changed(store: PageStore) -> None:
    publish(store, "one", new(A, 4), new(B, 2))
    publish(store, "two", changed(A, 5, [1]))
    publish(store, "three", changed(A, 3, [1, 2], keep=3), new("base/1/3", 1))
    publish(store, "four", changed(A, 4), removed=[B])
    ids = {path: file.file_id for path, file in store.contents(MAIN, CutSeq(4)).files.items()}

    def versions(after: int, upto: int) -> list[tuple[int, int, bytes | None]]:
        found = store.versions(MAIN, after=CutSeq(after), upto=CutSeq(upto))
        return [(version.file_id, version.block, version.page) for version in found]

    c = "base/1/3"
    changes = {block: (ids[A], block, says("three", A, block)) for block in (1, 2)}
    zero, made = (ids[A], 3, None), (ids[c], 0, says("three", c, 0))
    assert versions(4, 4) == []
    assert versions(3, 4) == [zero]
    assert versions(2, 4) == [changes[1], changes[2], zero, made]
    assert versions(1, 4) == [changes[1], changes[2], zero, made]
    assert versions(0, 4) == [(ids[A], 0, says("one", A, 0)), *versions(1, 4)]
    assert versions(1, 2) == [(ids[A], 1, says("two", A, 1)), (ids[A], 4, None)]
    with pytest.raises(ValueError, match="between"):
        versions(3, 2)
    store.drop(MAIN, [CutSeq(2), CutSeq(3)])
    collect_all(store)
    assert versions(1, 4) == [changes[1], changes[2], zero, made]
    assert set(versions(2, 4)) >= {changes[1], changes[2], zero, made}


def branches_are_apart(store: PageStore) -> None:
    ours = publish(store, "ours", new(A, 3))
    theirs = publish(store, "theirs", new(A, 3), branch=OTHER)
    assert store.branches() == [MAIN, OTHER]
    assert file_of(store, ours, A) == [says("ours", A, block) for block in range(3)]
    store.remove_branch(MAIN)
    assert store.branches() == [OTHER]
    assert store.cuts(MAIN) == []
    with pytest.raises(CutGoneError):
        store.read(MAIN, ours.seq, [PageRange(A, 0, 1)])
    assert file_of(store, theirs, A, OTHER) == [says("theirs", A, block) for block in range(3)]
    again = publish(store, "again", new(A, 2, []))
    assert again.seq == 1
    assert file_of(store, again, A) == [ZEROS, ZEROS]


def statistics_count(store: PageStore) -> None:
    publish(store, "one", new(A, 4), new(B, 2))
    publish(store, "two", changed(A, 5, [1]))
    assert store.stats(MAIN) == BranchStats(cuts=2, files=2, pages=7, garbage_cuts=0)
    store.drop(MAIN, [CutSeq(1)])
    assert store.stats(MAIN) == BranchStats(cuts=1, files=2, pages=7, garbage_cuts=1)
    with pytest.raises(ValueError, match="collect"):
        store.collect(MAIN, pages_max=0)


CLAIMS: Final = [
    what_is_published_is_read_back,
    contents_describe_the_cut,
    nothing_is_known_of_an_unknown_branch,
    added_blocks_are_zeros,
    what_was_cut_off_never_comes_back,
    a_file_made_anew_has_none_of_the_old_pages,
    pages_of_zeros_are_pages,
    wrong_ranges_are_refused_one_by_one,
    what_does_not_fit_is_not_published,
    a_failed_read_publishes_nothing,
    dropped_cuts_cannot_be_read,
    collecting_touches_nothing_that_remains,
    versions_are_what_changed,
    branches_are_apart,
    statistics_count,
]
