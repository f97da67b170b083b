"""The world of the tests of snapshots: stores with histories, object stores that fail on time."""

import random
import threading
from collections.abc import Callable
from typing import Final

from unit.storage.contract import A, B, changed, new, publish
from unit.storage.memory_store import MemoryStore

from fabric.frames import Payload
from fabric.ids import BranchName, ClusterName, NodeName
from object_store.interface import LIST_COUNT_MAX, ObjectInfo, ObjectStore
from object_store.memory import MemoryStore as MemoryObjects
from sqlnode.page_source import PageRange
from storage.cut import Cut
from storage.page_store import PageStore, StoreError
from storage.restore import restore
from storage.retention import DAY_S, RetentionSettings, Spacing
from storage.snapshot_format import SnapshotLayout
from storage.snapshot_layer import Packing
from storage.snapshot_objects import list_chains, list_parts, missing_part, read_manifest
from storage.snapshot_plan import SnapshotSettings
from storage.snapshots import SnapshotWriter

MAIN: Final = BranchName("main")
LAYOUT: Final = SnapshotLayout(cluster=ClusterName("blue"), branch=MAIN)
S1: Final = NodeName("s1")
S2: Final = NodeName("s2")
C: Final = "base/1/3"
SMALL: Final = Packing(part_bytes=30_000, block_pages=3)
ONLY_NEWEST: Final = SnapshotSettings(
    retention=RetentionSettings(window_s=0, spacings=[Spacing(float("inf"), DAY_S)])
)
LATER_S: Final = 1e9


class CrashError(Exception):
    """The process ends here."""


class Watched:
    """An object store that tells of each call before it is carried out."""

    def __init__(self, objects: ObjectStore, before: Callable[[str, str], None]) -> None:
        self.objects = objects
        self.before = before

    def put_new(self, name: str, data: Payload) -> None:
        """Tell, and put."""
        self.before("put", name)
        self.objects.put_new(name, data)

    def get(self, name: str) -> bytes:
        """Tell, and get."""
        self.before("get", name)
        return self.objects.get(name)

    def get_range(self, name: str, start: int, size_bytes: int) -> bytes:
        """Tell, and get."""
        self.before("get_range", name)
        return self.objects.get_range(name, start, size_bytes)

    def list(
        self, prefix: str, *, after: str = "", count_max: int = LIST_COUNT_MAX
    ) -> list[ObjectInfo]:
        """Tell, and list."""
        self.before("list", prefix)
        return self.objects.list(prefix, after=after, count_max=count_max)

    def delete(self, name: str) -> None:
        """Tell, and delete."""
        self.before("delete", name)
        self.objects.delete(name)


class CrashingAt:
    """Ends the process before the n-th call of a kind, counted from 0."""

    def __init__(self, kinds: set[str], number: int) -> None:
        self.kinds = kinds
        self.remaining = number

    def __call__(self, kind: str, name: str) -> None:
        """Count."""
        if kind in self.kinds:
            if not self.remaining:
                raise CrashError(name)
            self.remaining -= 1


class InterferingAt:
    """Does something before the n-th call, counted from 0, once."""

    def __init__(self, number: int, what: Callable[[], object]) -> None:
        self.number = number
        self.what = what
        self.calls = 0

    def __call__(self, kind: str, name: str) -> None:
        """Count."""
        self.calls += 1
        if self.calls == self.number + 1:
            self.what()

    @property
    def has_happened(self) -> bool:
        """Whether there were so many calls."""
        return self.calls > self.number


class Turns:
    """Lets one of several threads go on at a time, from one call of its object store to the next.

    A seed decides whose turn it is, so a run can be repeated.
    """

    def __init__(self, rng: random.Random, objects: ObjectStore) -> None:
        self.rng = rng
        self.objects = objects
        self.paused = threading.Semaphore(0)
        self.turns: dict[int, threading.Semaphore] = {}
        self.failures: list[BaseException] = []

    def run(self, *actors: Callable[[ObjectStore], object]) -> None:
        """Let all of them come to their ends; raise what the first one raised that failed."""
        threads = []
        for number, actor in enumerate(actors):
            self.turns[number] = threading.Semaphore(0)
            threads.append(threading.Thread(target=self._act, args=(number, actor)))
        for thread in threads:
            thread.start()
        while self.turns:
            self.turns[self.rng.choice(sorted(self.turns))].release()
            self.paused.acquire()
        for thread in threads:
            thread.join()
        for failure in self.failures:
            raise failure

    def _act(self, number: int, actor: Callable[[ObjectStore], object]) -> None:
        turn = self.turns[number]

        def pause(kind: str, name: str) -> None:
            self.paused.release()
            turn.acquire()

        turn.acquire()
        try:
            actor(Watched(self.objects, pause))
        except BaseException as failure:  # noqa: BLE001  # it is raised again
            self.failures.append(failure)
        finally:
            del self.turns[number]
            self.paused.release()


def never(seconds: float) -> None:
    """Stand for a pause that must not be needed."""
    raise AssertionError(f"paused for {seconds} s")


def writer(
    store: PageStore,
    objects: ObjectStore,
    node: NodeName = S1,
    settings: SnapshotSettings | None = None,
    *,
    packing: Packing = SMALL,
    pause: Callable[[float], None] = never,
) -> SnapshotWriter:
    """Make a writer whose parts are small."""
    return SnapshotWriter(store, objects, LAYOUT, node, settings, packing=packing, pause=pause)


def begun(store: PageStore, blocks: int = 10) -> Cut:
    """Publish a first cut."""
    return publish(store, "first", new(A, blocks), new(B, 3))


def go_on(store: PageStore, word: str, *blocks: int) -> Cut:
    """Publish a cut with some changed blocks."""
    return publish(store, word, changed(A, 10, blocks))


def wander(store: PageStore, rng: random.Random, word: str) -> Cut:
    """Publish a cut with some files made, extended, truncated, removed or made anew."""
    cuts = store.cuts(MAIN)
    files = dict(store.contents(MAIN, cuts[-1].seq).files) if cuts else {}
    changes, removed = [], []
    for path in (A, B, C):
        file = files.get(path)
        what = rng.choice(["nothing", "write", "extend", "truncate", "remove", "anew"])
        if file is None or what == "anew":
            if rng.randrange(3):
                blocks = rng.randrange(12)
                changes.append(new(path, blocks, sorted(rng.sample(range(blocks), blocks // 2))))
        elif what == "remove":
            removed.append(path)
        elif what == "truncate":
            keep = rng.randrange(file.blocks + 1)
            changes.append(changed(path, keep + rng.randrange(3), keep=keep))
        elif what != "nothing":
            blocks = file.blocks + (rng.randrange(5) if what == "extend" else 0)
            written = sorted(rng.sample(range(blocks), min(blocks, rng.randrange(4))))
            changes.append(changed(path, blocks, written))
    return publish(store, word, *changes, removed=removed)


def image(store: PageStore, cut: Cut) -> dict[str, object]:
    """Return all that a cut is, as its readers see it."""
    contents = store.contents(MAIN, cut.seq)
    found: dict[str, object] = {
        "": (cut.tli, cut.lsn, cut.redo, cut.taken_at_s),
        "small": dict(contents.small_files),
        "directories": list(contents.directories),
    }
    for file in contents.files.values():
        (pages,) = store.read(MAIN, cut.seq, [PageRange(file.path, 0, file.blocks)])
        assert not isinstance(pages, StoreError), pages
        found[file.path] = bytes(pages)
    return found


def restored(objects: ObjectStore) -> dict[str, object]:
    """Restore into an empty store; return what is there."""
    store = MemoryStore()
    return image(store, restore(objects, LAYOUT, store, MAIN))


def complaints(objects: ObjectStore) -> list[str]:
    """Return what the manifests name and is not there."""
    found = []
    for node, numbers in list_chains(objects, LAYOUT).items():
        parts = list_parts(objects, LAYOUT, node)
        manifests = [read_manifest(objects, LAYOUT, node, number) for number in numbers]
        found += [missing_part(manifest, parts) for manifest in manifests]
    return [one for one in found if one]


def sizes(objects: ObjectStore) -> dict[str, int]:
    """Return all objects."""
    return {info.name: info.size_bytes for info in objects.list("")}


def damaged(objects: MemoryObjects, name: str, data: bytes) -> None:
    """Put other bytes in the place of an object."""
    objects.delete(name)
    if data:
        objects.put_new(name, data)
