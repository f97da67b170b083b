"""A process that publishes, drops and collects in a page store until it is killed.

    python -m unit.storage.crashing_store DIRECTORY STEP COUNT

It says on its output what has returned, and ends itself with SIGKILL at the COUNT-th passing of
STEP. Without a step it goes on until somebody else kills it.
"""

import os
import signal
import sys
from pathlib import Path

from fabric.ids import BranchName, CutSeq
from fabric.lsn import Lsn, Tli
from sqlnode.harvest import ChangedFile
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages
from storage.page_store import NewCut
from storage.rocks_database import RocksSettings
from storage.rocks_store import RocksStore

BRANCH = BranchName("main")
PATH = "base/1/1"
BLOCKS = 40
SETTINGS = RocksSettings(memtable_bytes=1 << 16, table_bytes_max=1 << 16)


def changed_blocks(number: int) -> list[int]:
    """Which blocks the cut of this number writes."""
    return (
        list(range(BLOCKS)) if number == 1 else sorted({number * k % BLOCKS for k in range(1, 20)})
    )


def page(number: int, block: int) -> bytes:
    """What cut `number` writes."""
    return b"%08d/%08d." % (number, block) * (BLOCK_BYTES // 18) + b"\0\0"


def expected(number: int) -> list[bytes]:
    """The file as cut `number` has it."""
    pages = [b""] * BLOCKS
    for one in range(1, number + 1):
        for block in changed_blocks(one):
            pages[block] = page(one, block)
    return pages


def publish(store: RocksStore, number: int) -> None:
    """Publish the cut of this number."""

    def read_pages(path: str, first: int, blocks: int) -> Pages:
        return b"".join(page(number, block) for block in range(first, first + blocks))

    keep = 0 if number == 1 else None
    file = ChangedFile(path=PATH, blocks=BLOCKS, keep_blocks=keep, changed=changed_blocks(number))
    new = NewCut(
        tli=Tli(1), lsn=Lsn(number), redo=Lsn(number), taken_at_s=float(number), files=[file],
        removed=[], small_files={"number": b"%d" % number}, directories=[],
    )  # fmt: skip
    store.publish(BRANCH, new, read_pages)


def main() -> None:
    directory, *fault = sys.argv[1:]
    step, left = (fault[0], int(fault[1])) if fault else ("", 0)

    def passing(reached: str) -> None:
        nonlocal left
        if reached == step:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    store = RocksStore(Path(directory), SETTINGS, passing=passing)
    cuts = store.cuts(BRANCH)
    number = cuts[-1].seq if cuts else 0
    for _ in range(1000):
        number += 1
        publish(store, number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        if number % 3 == 0:
            store.drop(BRANCH, [CutSeq(number - 1), CutSeq(number - 2)])
            store.collect(BRANCH, pages_max=17)


if __name__ == "__main__":
    main()
