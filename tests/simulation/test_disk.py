"""The simulated disk loses what a real one may lose, and nothing else."""

import random
from collections.abc import Iterator

from raft.types import Config, Entry, HardState, Snapshot
from simulation.disk import Disk, Write
from simulation.operations import EMPTY_STATE, Add
from simulation.timeline import SECOND_US, Timeline
from simulation.trace import Trace

VOTERS = Config(frozenset({1, 2, 3}))


def _disk(seed: int) -> Disk:
    timeline = Timeline()
    trace = Trace(timeline, is_kept=False)
    return Disk(1, timeline, trace, random.Random(seed), Snapshot(0, 0, VOTERS, EMPTY_STATE))


def _entries(first: int, last: int, term: int) -> tuple[Entry, ...]:
    return tuple(Entry(i, term, 64, Add(i)) for i in range(first, last + 1))


def _after_crash_in_second_write(second: Write) -> Iterator[Disk]:
    """Disks that had entries 1..3 of term 1 when a crash hit the sync of another write."""
    for seed in range(60):
        disk = _disk(seed)
        disk.submit(Write(entries=_entries(1, 3, term=1)), lambda _: None)
        disk.timeline.run_until(SECOND_US)
        disk.submit(second, lambda _: None)
        disk.crash()
        yield disk


def test_what_was_synced_survives_a_crash() -> None:
    disk = _disk(0)
    done: list[Write] = []
    disk.submit(Write(hard_state=HardState(2, 1), entries=_entries(1, 3, term=1)), done.extend)
    assert done == []
    disk.timeline.run_until(SECOND_US)
    disk.crash()
    assert len(done) == 1
    assert disk.recovered().last_index == 3
    assert disk.recovered().hard_state == HardState(2, 1)


def test_writes_that_wait_share_the_next_sync() -> None:
    disk = _disk(0)
    syncs: list[int] = []
    for index in range(1, 5):
        disk.submit(Write(entries=_entries(index, index, 1)), lambda w: syncs.append(len(w)))
    disk.timeline.run_until(SECOND_US)
    assert syncs == [1, 3]


def test_a_crash_during_a_sync_keeps_any_prefix() -> None:
    ends = {
        disk.recovered().last_index
        for disk in _after_crash_in_second_write(Write(entries=_entries(4, 6, term=1)))
    }
    assert ends == {3, 4, 5, 6}


def test_a_torn_overwrite_may_lose_the_old_tail_but_never_mixes_it_with_the_new() -> None:
    found = {
        tuple(entry.term for entry in disk.log.list)
        for disk in _after_crash_in_second_write(Write(entries=_entries(2, 3, term=2)))
    }
    assert found == {(1, 1, 1), (1,), (1, 2), (1, 2, 2)}


def test_recovery_finds_terms_and_configurations() -> None:
    disk = _disk(0)
    change = Entry(3, 2, 0, config=Config(frozenset({1, 2})))
    disk.submit(Write(entries=(*_entries(1, 2, term=1), change)), lambda _: None)
    disk.timeline.run_until(SECOND_US)
    persisted = disk.recovered()
    assert persisted.terms == ((1, 1), (3, 2))
    assert persisted.configs == ((3, change.config),)
