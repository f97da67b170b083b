"""Others at the same time: reading while cuts are published, dropped and collected.

In scope: what threads see of each other, and which iterators are left open. Out of scope: crashes.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from rocksdict import Options, Rdict
from unit.storage.contract import MAIN, OTHER, A, B, changed, file_of, new, publish, says

from fabric.ids import CutSeq
from fabric.lsn import Lsn, Tli
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages
from storage.page_store import CutGoneError, DamagedError, NewCut
from storage.rocks_database import RocksSettings
from storage.rocks_keys import page_key
from storage.rocks_store import RocksStore

BLOCKS = 30
SMALL = RocksSettings(memtable_bytes=1 << 16, block_cache_bytes=1 << 20)


def marked(number: int) -> bytes:
    return b"%08d" % number * (BLOCK_BYTES // 8)


def test_a_reader_gets_pages_of_its_cut_or_none_while_all_else_goes_on(tmp_path: Path) -> None:
    is_done = threading.Event()

    def right(seq: int, block: int) -> bytes:
        return marked(max(1, seq - (seq - 1 - block) % 3))

    def read_on(store: RocksStore) -> int:
        reads = 0
        while not is_done.is_set() or reads < 20:
            for cut in store.cuts(MAIN):
                try:
                    whole, one = store.read(
                        MAIN, cut.seq, [PageRange(A, 0, BLOCKS), PageRange(A, cut.seq % BLOCKS, 1)]
                    )
                except CutGoneError:
                    continue
                assert whole == b"".join(right(cut.seq, block) for block in range(BLOCKS))
                assert one == right(cut.seq, cut.seq % BLOCKS)
                reads += 1
        return reads

    def publish_on(store: RocksStore) -> None:
        for number in range(1, 50):
            page = marked(number)
            written = [b for b in range(BLOCKS) if number == 1 or b % 3 == (number - 1) % 3]
            keep = 0 if number == 1 else None
            file = changed(A, BLOCKS, written, keep=keep)

            def pages(path: str, first: int, blocks: int, page: bytes = page) -> Pages:
                return page * blocks

            cut = NewCut(
                tli=Tli(1), lsn=Lsn(number), redo=Lsn(number), taken_at_s=0.0, files=[file],
                removed=[], small_files={}, directories=[],
            )  # fmt: skip
            store.publish(MAIN, cut, pages)
            cuts = store.cuts(MAIN)
            store.drop(MAIN, [cut.seq for cut in cuts[:-3] if cut.seq % 10])
            for _ in range(4):
                store.collect(MAIN, pages_max=20)

    with closing(RocksStore(tmp_path, SMALL)) as store, ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read_on, store) for _ in range(2)]
        try:
            publish_on(store)
        finally:
            is_done.set()
        assert all(reader.result() >= 20 for reader in readers)


def test_pages_of_a_cut_that_is_dropped_on_the_way_end(tmp_path: Path) -> None:
    with closing(RocksStore(tmp_path)) as store:
        publish(store, "one", new(A, 600))
        publish(store, "two", changed(A, 600, range(600)))
        versions = store.versions(MAIN, after=CutSeq(0), upto=CutSeq(1))
        assert next(versions).page == says("one", A, 0)
        store.drop(MAIN, [CutSeq(1)])
        while store.stats(MAIN).garbage_cuts:
            store.collect(MAIN, pages_max=100)
        with pytest.raises(CutGoneError):
            list(versions)


def test_a_branch_that_is_removed_while_a_cut_is_made_gets_none(tmp_path: Path) -> None:
    with closing(RocksStore(tmp_path)) as store:
        publish(store, "one", new(A, 2))

        def removing(path: str, first: int, blocks: int) -> Pages:
            store.remove_branch(MAIN)
            return bytes(blocks * BLOCK_BYTES)

        cut = NewCut(
            tli=Tli(1), lsn=Lsn(5000), redo=Lsn(5000), taken_at_s=0.0,
            files=[changed(A, 2, [1])], removed=[], small_files={}, directories=[],
        )  # fmt: skip
        with pytest.raises(CutGoneError):
            store.publish(MAIN, cut, removing)
        assert store.branches() == []
    with closing(RocksStore(tmp_path)) as store:
        assert store.branches() == []
        assert file_of(store, publish(store, "two", new(A, 1)), A) == [says("two", A, 0)]


def test_an_error_that_somebody_keeps_does_not_keep_the_store_open(tmp_path: Path) -> None:
    with closing(RocksStore(tmp_path)) as store:
        publish(store, "one", new(A, 3), new(B, 3))
        publish(store, "one", new(A, 3), branch=OTHER)
    with closing(Rdict(str(tmp_path / "rocks"), Options(raw_mode=True))) as database:
        del database[page_key(1, 1, 1, 1)]
    kept = []
    for _ in range(3):
        with closing(RocksStore(tmp_path)) as store:
            kept += store.read(MAIN, CutSeq(1), [PageRange(A, 0, 3), PageRange(A, 1, 1)])
    assert all(isinstance(answer, DamagedError) for answer in kept)
