"""The archive of a branch: stored once, found again by the next leader, read back, never changed.

In scope: leaders that come and go at any point, conflicts, gaps, damage, reading and restoring. Out
of scope: which objects there should be (test_archive_plan.py), what stores do (object_store).
"""

import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.log_service.archive_world import ROOT, SEGMENT, START, Branch

from fabric.lsn import Lsn, Tli
from log_service.archive import (
    ArchiveConflictError,
    ArchiveDamagedError,
    ArchiveReader,
    archived_upto,
    restore_segment,
    upload,
)
from log_service.archive_plan import ArchiveState, SegmentItem, plan_archive
from object_store.directory import DirectoryStore
from object_store.interface import (
    ObjectInfo,
    ObjectMissingError,
    ObjectStore,
    StoreBusyError,
)
from object_store.memory import MemoryStore


class Leader:
    """A log leader that archives: it knows what the archive says and what its log still has."""

    def __init__(self, branch: Branch, store: ObjectStore, start: Lsn = START) -> None:
        self.branch = branch
        self.store = store
        self.start = start
        self.state = archived_upto(
            store, branch.layout, branch.history, start=start, committed=branch.committed
        )

    def archive(self, count_max: int = 1000) -> list[str]:
        """Archive so many items at most; their names."""
        names: list[str] = []
        while len(names) < count_max:
            items = plan_archive(
                self.branch.layout,
                self.state,
                history=self.branch.history,
                history_files=self.branch.files,
                committed=self.branch.committed,
            )
            if not items:
                break
            upload(self.store, items[0], self.read)
            self.state = items[0].then
            names.append(items[0].name)
        return names

    def read(self, tli: Tli, lsn: Lsn, bytes_max: int) -> bytes:
        """The log's answer: only what it has and what is committed, and rather less than asked."""
        assert lsn >= self.start, "this WAL was trimmed"
        assert self.branch.owner(tli, lsn) == tli, "asked of a timeline that has not written it"
        size_bytes = max(1, bytes_max - bytes_max // 3)
        return self.branch.bytes_of(tli, lsn, lsn + size_bytes)


def contents(store: ObjectStore) -> dict[str, bytes]:
    return {info.name: store.get(info.name) for info in store.list("")}


def read_along(reader: ArchiveReader, tli: Tli, start: Lsn, end: Lsn) -> Iterator[bytes]:
    position = start
    while position < end:
        piece = reader.read(tli, position, end - position)
        assert 0 < len(piece) <= end - position
        yield piece
        position += len(piece)


STEPS = st.one_of(
    st.tuples(st.just("commit"), st.integers(0, 3 * SEGMENT)),
    st.tuples(st.just("commit"), st.sampled_from([1, SEGMENT - 1, SEGMENT, 2 * SEGMENT])),
    st.tuples(st.just("promote"), st.just(0)),
    st.tuples(st.just("archive"), st.integers(1, 4)),
    st.tuples(st.just("trim"), st.integers(0, 100)),
    st.tuples(st.just("change of leader"), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.lists(STEPS, max_size=14))
def test_leaders_that_come_and_go_leave_one_whole_archive(
    first_tli: int, steps: list[tuple[str, int]]
) -> None:
    branch, store = Branch(Tli(first_tli)), MemoryStore()
    leader = Leader(branch, store)
    for step, amount in steps:
        match step:
            case "commit":
                branch.commit(amount)
            case "promote":
                branch.promote()
            case "archive":
                leader.archive(amount)
            case "trim":
                distance = leader.state.upto - leader.start
                leader.start += distance * amount // 100
            case _:
                leader = Leader(branch, store, leader.start)
        assert contents(store).items() <= branch.expected().items()
    leader.archive()
    assert contents(store) == branch.expected()
    again = Leader(branch, store, leader.start).archive()
    assert len([name for name in again if not name.endswith(".history")]) <= 1

    reader = ArchiveReader(store, branch.layout, branch.history)
    for tli, _, last in branch.spans():
        end = last if tli != branch.history.tli else leader.state.upto
        read = b"".join(read_along(reader, tli, START, end))
        assert read == branch.bytes_of(tli, START, max(START, end))


def archived(*commits: int, store: ObjectStore | None = None) -> tuple[Leader, Branch]:
    branch = Branch()
    for index, size_bytes in enumerate(commits):
        if index:
            branch.promote()
        branch.commit(size_bytes)
    leader = Leader(branch, MemoryStore() if store is None else store)
    leader.archive()
    return leader, branch


def test_archiving_again_is_harmless_and_changes_nothing() -> None:
    leader, branch = archived(2 * SEGMENT + 5, 3 * SEGMENT)
    before = contents(leader.store)
    leader.state = ArchiveState(tli=Tli(1), upto=START)
    assert set(leader.archive()) == set(branch.expected())
    assert contents(leader.store) == before


def test_a_gap_is_found_and_filled() -> None:
    leader, branch = archived(5 * SEGMENT)
    missing = branch.layout.segment(Tli(1), START + 2 * SEGMENT)
    leader.store.delete(missing)
    successor = Leader(branch, leader.store)
    # One before the gap: the last object that was found is compared with the log.
    assert successor.state == ArchiveState(tli=Tli(1), upto=START + SEGMENT)
    assert successor.archive()[1] == missing
    assert contents(leader.store) == branch.expected()


def test_a_missing_partial_segment_is_found_and_filled() -> None:
    leader, branch = archived(SEGMENT + 5, 2 * SEGMENT)
    missing = branch.layout.partial(Tli(1), START + SEGMENT)
    leader.store.delete(missing)
    assert missing in Leader(branch, leader.store).archive()
    assert contents(leader.store) == branch.expected()


def test_what_expired_before_the_logs_start_is_not_missed() -> None:
    leader, branch = archived(4 * SEGMENT)
    leader.store.delete(branch.layout.segment(Tli(1), START))
    successor = Leader(branch, leader.store, START + SEGMENT)
    assert successor.archive() == [branch.layout.segment(Tli(1), START + 3 * SEGMENT)]
    # All but the last segment has been trimmed: there is nothing left to compare it with.
    successor = Leader(branch, leader.store, START + 3 * SEGMENT + 1)
    assert successor.archive() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda _: b"",
    ],
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_other_bytes_under_our_name_are_a_conflict_and_stay(
    spoil: Callable[[bytes], bytes], number: int
) -> None:
    """Of a whole segment, a partial one and a history file alike."""
    _, branch = archived(SEGMENT + 5, 1)
    name, content = sorted(branch.expected().items())[number]
    store = MemoryStore()
    store.put_new(name, spoil(content))
    with pytest.raises(ArchiveConflictError, match="two histories"):
        Leader(branch, store).archive()
    assert store.get(name) == spoil(content)


def test_the_archive_of_another_branch_is_noticed_before_anything_is_trimmed() -> None:
    """It has the same names and sizes, and reaches further than our log."""
    _, other = archived(5 * SEGMENT)
    store, branch = MemoryStore(), Branch()
    for name, content in other.expected().items():
        store.put_new(name, content[::-1])
    branch.commit(3 * SEGMENT + 9)
    leader = Leader(branch, store)
    assert leader.state.upto < branch.committed
    with pytest.raises(ArchiveConflictError):
        leader.archive()


def test_an_object_of_the_wrong_size_does_not_count_as_archived() -> None:
    _, branch = archived(2 * SEGMENT + 5, 2 * SEGMENT)
    spoilt = {
        branch.layout.segment(Tli(1), START): ArchiveState(tli=Tli(1), upto=START),
        branch.layout.segment(Tli(1), START + SEGMENT): ArchiveState(tli=Tli(1), upto=START),
        branch.layout.partial(Tli(1), START + 2 * SEGMENT): ArchiveState(
            tli=Tli(1), upto=START + SEGMENT
        ),
    }
    for name, state in spoilt.items():
        store = MemoryStore()
        for other, content in branch.expected().items():
            store.put_new(other, content[:-1] if other == name else content)
        assert Leader(branch, store).state == state


def test_an_object_that_vanishes_meanwhile_is_tried_again() -> None:
    class Forgetful(MemoryStore):
        def get(self, name: str) -> bytes:
            self.delete(name)
            return super().get(name)

    store = Forgetful()
    branch = Branch()
    branch.commit(SEGMENT)
    store.put_new(branch.layout.segment(Tli(1), START), b"of somebody who deletes it")
    leader = Leader(branch, store)
    with pytest.raises(StoreBusyError, match="try again"):
        leader.archive()
    assert len(leader.archive()) == 1


def test_an_archive_of_any_length_is_listed_in_full() -> None:
    class Sized(MemoryStore):
        """Claims that its objects are segments."""

        def list(self, prefix: str, *, after: str = "", count_max: int = 1000) -> list[ObjectInfo]:
            infos = super().list(prefix, after=after, count_max=count_max)
            return [ObjectInfo(info.name, SEGMENT) for info in infos]

    store, branch = Sized(), Branch()
    committed = START + 2501 * SEGMENT
    for number in range(2500):
        store.put_new(branch.layout.segment(Tli(1), START + number * SEGMENT), b"")
    state = archived_upto(store, branch.layout, branch.history, start=START, committed=committed)
    assert state == ArchiveState(tli=Tli(1), upto=START + 2499 * SEGMENT)


def test_the_reader_follows_the_history_and_stops_where_a_timeline_ended() -> None:
    leader, branch = archived(SEGMENT + 100, SEGMENT)
    reader = ArchiveReader(leader.store, branch.layout, branch.history)
    fork, boundary = START + SEGMENT + 100, START + SEGMENT
    assert reader.read(Tli(1), fork - 1, 50) == branch.bytes_of(Tli(1), fork - 1, fork)
    assert reader.read(Tli(2), fork, 50) == branch.bytes_of(Tli(2), fork, fork + 50)
    # Of an ancestor's WAL as part of its descendant.
    assert reader.read(Tli(2), boundary, 10) == branch.bytes_of(Tli(1), boundary, boundary + 10)
    assert len(reader.read(Tli(2), boundary - 3, 50)) == 3
    for tli, lsn in [(Tli(1), fork), (Tli(1), fork + SEGMENT), (Tli(3), fork), (Tli(7), START)]:
        with pytest.raises(ValueError, match="there is no byte"):
            reader.read(tli, lsn, 1)
    with pytest.raises(ObjectMissingError):
        reader.read(Tli(2), boundary + SEGMENT, 1)


def test_segments_are_restored_as_postgresql_wants_them(tmp_path: Path) -> None:
    leader, branch = archived(SEGMENT + 100, SEGMENT, store=DirectoryStore(tmp_path / "objects"))
    for item_name, content in branch.expected().items():
        if item_name.endswith(".history"):
            continue
        path = tmp_path / item_name.rpartition("/")[2]
        path.with_name(path.name + ".restoring").write_bytes(b"left over" * SEGMENT)
        restore_segment(leader.store, item_name, path, segment_bytes=SEGMENT)
        assert path.read_bytes() == content.ljust(SEGMENT, b"\0")
        assert not path.with_name(path.name + ".restoring").exists()


def test_a_restored_segment_is_private(tmp_path: Path) -> None:
    leader, branch = archived(SEGMENT)
    path = tmp_path / "segment"
    restore_segment(leader.store, branch.layout.segment(Tli(1), START), path, segment_bytes=SEGMENT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_segment_is_not_restored(tmp_path: Path) -> None:
    store, layout = MemoryStore(), Branch().layout
    sizes = {
        layout.segment(Tli(1), START): SEGMENT - 1,
        layout.segment(Tli(1), START + SEGMENT): SEGMENT + 1,
        layout.partial(Tli(1), START): SEGMENT + 1,
    }
    for name, size_bytes in sizes.items():
        store.put_new(name, bytes(size_bytes))
        with pytest.raises(ArchiveDamagedError, match=f"{size_bytes} bytes"):
            restore_segment(store, name, tmp_path / "x", segment_bytes=SEGMENT)
    with pytest.raises(ValueError, match="WAL file name"):
        restore_segment(store, layout.history(Tli(2)), tmp_path / "x", segment_bytes=SEGMENT)
    assert list(tmp_path.iterdir()) == []


def test_a_large_segment_is_read_from_the_log_in_pieces() -> None:
    asked: list[int] = []
    content = random.Random(1).randbytes(5 << 20)

    def read(_: Tli, lsn: Lsn, bytes_max: int) -> memoryview:
        asked.append(bytes_max)
        return memoryview(content)[lsn : lsn + bytes_max]

    store = MemoryStore()
    items = plan_archive(
        Branch().layout,
        ArchiveState(tli=Tli(1), upto=Lsn(0)),
        history=Branch().history,
        history_files={},
        committed=Lsn(SEGMENT),
    )
    (item,) = items
    assert isinstance(item, SegmentItem)
    upload(store, item, read)
    assert store.get(f"{ROOT}00000001/000000010000000000000000") == content[:SEGMENT]
    assert max(asked) <= 1 << 20
