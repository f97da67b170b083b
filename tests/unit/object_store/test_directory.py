"""A directory of objects survives what a machine does to it.

In scope: kill -9 in the middle of puts, the order in which things become durable, full disks and
failing ones (by refusing the system calls), leftovers, permissions, files of others. Out of scope:
the contract of all stores (test_contract.py), and a loss of power, which no test here can cause: in
its place the order of the calls is checked.
"""

import errno
import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from object_store.directory import INCOMING, LEFTOVER_AGE_SECONDS, DirectoryStore
from object_store.interface import (
    ObjectExistsError,
    ObjectMissingError,
    StoreBusyError,
    StoreError,
)

# Puts objects that tell their own checksum, says so of each when it has been stored, and is killed
# when it is about to make its n-th call. A write takes a little of what it is given, as it may.
PUTTING = """
import hashlib, os, random, signal, sys
from pathlib import Path
from object_store.directory import DirectoryStore

calls_left = int(sys.argv[2])

def dying(call):
    def counted(*arguments):
        global calls_left
        calls_left -= 1
        if calls_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return counted

write = os.writev
os.writev = dying(lambda descriptor, views: write(descriptor, [views[0][:1000]]))
for name in ("fsync", "link", "mkdir", "unlink"):
    setattr(os, name, dying(getattr(os, name)))

store, rng = DirectoryStore(Path(sys.argv[1])), random.Random(sys.argv[2])
while True:
    content = rng.randbytes(rng.randrange(20_000))
    name = f"folder-{rng.randrange(9)}/{sys.argv[2]}/{hashlib.sha256(content).hexdigest()}"
    store.put_new(name, [content[:1000], content[1000:]])
    print(name, flush=True)
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_writer_leaves_whole_objects_and_all_it_acknowledged(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    acknowledged: list[str] = []
    for _ in range(5):
        command = [sys.executable, "-P", "-c", PUTTING, str(tmp_path), str(rng.randrange(1, 150))]
        writer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        assert writer.returncode == -signal.SIGKILL
        acknowledged += writer.stdout.split()
    assert acknowledged
    store = DirectoryStore(tmp_path)
    found = [info.name for info in store.list("")]
    assert set(acknowledged) <= set(found)
    for name in found:
        assert hashlib.sha256(store.get(name)).hexdigest() == name.rpartition("/")[2]


class Calls:
    """Records which files and directories are synced and named, and can refuse a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, str]] = []
        self.refused: dict[str, int] = {}
        sync, link, write = os.fsync, os.link, os.writev

        def record(call: str, path: str) -> None:
            if call in self.refused:
                raise OSError(self.refused[call], os.strerror(self.refused[call]), path)
            self.log.append((call, path))

        def recorded_sync(descriptor: int) -> None:
            record("sync", os.readlink(f"/proc/self/fd/{descriptor}"))
            sync(descriptor)

        def recorded_link(source: Path, target: Path) -> None:
            record("link", str(target))
            link(source, target)

        def recorded_write(descriptor: int, views: Sequence[memoryview]) -> int:
            write(descriptor, [views[0][:1]])
            record("write", "")
            return 1 + write(descriptor, [views[0][1:], *views[1:]])

        monkeypatch.setattr(os, "fsync", recorded_sync)
        monkeypatch.setattr(os, "link", recorded_link)
        monkeypatch.setattr(os, "writev", recorded_write)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def test_bytes_are_durable_before_they_have_a_name_and_the_name_before_the_put_returns(
    tmp_path: Path, calls: Calls
) -> None:
    root = tmp_path / "made" / "by" / "us"
    store = DirectoryStore(root)
    synced = [path for _, path in calls.log]
    for folder in (tmp_path, tmp_path / "made", root.parent, root):
        assert str(folder) in synced

    calls.log.clear()
    store.put_new("a/b/c", b"x")
    steps = [call for call, _ in calls.log]
    linked = steps.index("link")
    written, *before = calls.log[:linked]
    assert written[0] == "write"
    assert Path(before[0][1]).parent == root / INCOMING
    after = [path for _, path in calls.log[linked + 1 :]]
    assert after == [str(root / "a/b"), str(root / "a"), str(root)]

    calls.log.clear()
    store.put_new("a/b/d", b"x")
    assert calls.log[-1] == ("sync", str(root / "a/b"))


def test_what_another_process_has_named_is_durable_before_it_is_reported(
    tmp_path: Path, calls: Calls
) -> None:
    DirectoryStore(tmp_path).put_new("a/b", b"x")
    for look in ("put", "list"):
        store = DirectoryStore(tmp_path)
        calls.log.clear()
        if look == "put":
            with pytest.raises(ObjectExistsError):
                store.put_new("a/b", b"x")
        else:
            assert len(store.list("")) == 1
        assert {("sync", str(tmp_path / "a")), ("sync", str(tmp_path))} <= set(calls.log)


@pytest.mark.parametrize(
    ("refused", "kind", "sentence"),
    [
        (("write", errno.ENOSPC), StoreBusyError, "disk is full"),
        (("write", errno.EDQUOT), StoreBusyError, "disk is full"),
        (("sync", errno.ENOSPC), StoreBusyError, "disk is full"),
        (("sync", errno.EIO), StoreError, "Input/output"),
        (("link", errno.EPERM), StoreError, "hard links"),
        (("link", errno.EMFILE), StoreBusyError, "Too many open files"),
        (("link", errno.EROFS), StoreError, "Read-only"),
    ],
)
def test_a_put_that_fails_leaves_nothing_and_says_why(
    tmp_path: Path, calls: Calls, refused: tuple[str, int], kind: type[Exception], sentence: str
) -> None:
    store = DirectoryStore(tmp_path)
    calls.refused = dict([refused])
    with pytest.raises(kind, match=f"cannot store a/b.*{sentence}"):
        store.put_new("a/b", b"content")
    calls.refused = {}
    assert store.list("") == []
    assert list((tmp_path / INCOMING).iterdir()) == []
    store.put_new("a/b", b"content")


def test_an_object_whose_name_may_not_be_durable_is_not_acknowledged(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)
    recorded_link = os.link

    def link_and_lose_the_disk(source: Path, target: Path) -> None:
        recorded_link(source, target)
        calls.refused = {"sync": errno.EIO}

    monkeypatch.setattr(os, "link", link_and_lose_the_disk)
    with pytest.raises(StoreError, match="Input/output"):
        store.put_new("a", b"content")
    with pytest.raises(StoreError, match="Input/output"):
        store.list("")


def test_leftovers_of_the_dead_are_removed_and_the_work_of_the_living_is_not(
    tmp_path: Path,
) -> None:
    DirectoryStore(tmp_path).put_new("kept", b"kept")
    old, young, twin = (tmp_path / INCOMING / name for name in ("old", "young", "twin"))
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    twin.hardlink_to(tmp_path / "kept")  # its writer died between the two names
    long_ago = young.stat().st_mtime - LEFTOVER_AGE_SECONDS - 60
    for path in (old, twin):
        os.utime(path, (long_ago, long_ago))
    store = DirectoryStore(tmp_path)
    assert list((tmp_path / INCOMING).iterdir()) == [young]
    assert [info.name for info in store.list("")] == ["kept"]
    assert store.get("kept") == b"kept"


def test_only_the_owner_may_read_objects(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        DirectoryStore(tmp_path / "a" / "root").put_new("b/c/d", b"x")
    finally:
        os.umask(before)
    for path in (tmp_path / "a").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_files_that_are_no_objects_are_neither_listed_nor_touched(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put_new("a", b"x")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "b").write_bytes(b"")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    assert [info.name for info in DirectoryStore(tmp_path).list("")] == ["a"]


def test_an_object_and_a_folder_cannot_share_a_name(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put_new("a", b"x")
    store.put_new("b/c", b"x")
    with pytest.raises(StoreError, match="a file is where a directory must be"):
        store.put_new("a/b", b"x")
    with pytest.raises(StoreError, match="is not an object"):
        store.put_new("b", b"x")
    assert [info.name for info in store.list("")] == ["a", "b/c"]


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot open"):
        DirectoryStore(tmp_path / "file")


def test_a_directory_that_was_taken_away_is_not_an_object_that_is_missing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    (tmp_path / INCOMING).rmdir()
    with pytest.raises(StoreError, match="cannot store a: No such file"):
        store.put_new("a", b"x")
    with pytest.raises(ObjectMissingError):
        store.get("a")


def test_listing_while_others_write_shows_only_whole_objects(tmp_path: Path) -> None:
    store, rng = DirectoryStore(tmp_path), random.Random(1)
    sizes = {f"{rng.randrange(4)}/{number}": rng.randrange(100_000) for number in range(150)}

    def put_all() -> None:
        for name, size_bytes in sizes.items():
            store.put_new(name, bytes(size_bytes))

    writer = threading.Thread(target=put_all)
    writer.start()
    while writer.is_alive():
        assert all(sizes[info.name] == info.size_bytes for info in store.list(""))
    writer.join()
    assert {info.name: info.size_bytes for info in store.list("")} == sizes


def test_a_buffer_of_any_kind_is_written_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may write less than it is asked to."""
    write = os.writev

    def write_a_little(descriptor: int, views: Sequence[memoryview]) -> int:
        return write(descriptor, [views[0][:3]])

    monkeypatch.setattr(os, "writev", write_a_little)
    store = DirectoryStore(tmp_path)
    store.put_new("a", [b"0123456", b"", memoryview(b"789")])
    assert store.get("a") == b"0123456789"
