"""The log survives a crash at any system call: what was synced is there, what is there is right.

In scope: every system call that changes something as the last one, and after it any subset of the
unsynced pages and any prefix of the unsynced names. Out of scope: damage, test_group_log_damage.py.
"""

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unit.log_service.log_world import (
    EMPTY,
    MEMBER,
    SMALL,
    Crash,
    Machine,
    everything,
    make_log,
    next_record,
    run_of,
    segment_paths,
    wal_end_of,
    write,
)

from log_service.disk_errors import LogError
from log_service.group_log import GroupLog
from log_service.log_state import STATE_NAME, LogStart
from log_service.record import Kind, Record
from log_service.segment import FOOTER_BYTES
from log_service.verify import verify

SIZES = (0, 10, 1_000, 4_000, 30_000, 128 * 1024)
KINDS = (Kind.WAL, Kind.WAL, Kind.WAL, Kind.NOOP, Kind.CONFIG, Kind.EPOCH)


@dataclass(frozen=True)
class Model:
    """What a log should be."""

    start: LogStart = EMPTY
    records: tuple[Record, ...] = ()
    synced: int = 0
    hard_state: tuple[int, int] = (0, 0)

    @property
    def last(self) -> tuple[int, int]:
        """The last entry, (index, term)."""
        if self.records:
            return self.records[-1].index, self.records[-1].term
        return self.start.index, self.start.term

    def up_to(self, index: int) -> tuple[Record, ...]:
        """The entries up to an index."""
        return tuple(record for record in self.records if record.index <= index)

    def appended(self, records: Sequence[Record]) -> "Model":
        """The model after an append, with the cut that goes with it."""
        before = records[0].index - 1
        kept = self.up_to(before)
        return replace(self, records=(*kept, *records), synced=min(self.synced, before))

    def trimmed(self, start: LogStart) -> "Model":
        """The model after a trim."""
        records = tuple(record for record in self.records if record.index > start.index)
        return replace(self, start=start, records=records, synced=self.last[0])

    def told(self) -> str:
        """The model in a line, for a test that fails."""
        entries = [(r.index, r.term, r.prev_term) for r in self.records]
        return f"{self.start} {entries} synced to {self.synced}, {self.hard_state}"

    def allows(self, log: GroupLog, records: Sequence[Record]) -> bool:
        """Whether a crash may leave this: the synced entries, and no others than the model's."""
        return (
            log.start == self.start
            and log.hard_state == self.hard_state
            and log.last_index >= self.synced
            and tuple(records) == self.up_to(log.last_index)
        )


def terms_of(records: Sequence[Record]) -> tuple[tuple[int, int], ...]:
    """The runs, worked out the slow way."""
    pairs = zip(records, [None, *records], strict=False)
    return tuple(
        (r.index, r.term) for r, before in pairs if before is None or before.term != r.term
    )


class LogOnDisk(RuleBasedStateMachine):
    """A log and its model; any operation may be the last of a life."""

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        self.machine = Machine(Path(self._temporary.name), random.Random(1))
        self.model = Model()
        self.term = self.tli_max = 0
        with self.machine.running():
            self.log = make_log(self.machine.directory)

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.log.close()
        self._temporary.cleanup()

    @rule(
        entries=st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from(KINDS)), max_size=6),
        back=st.sampled_from((0, 0, 0, 1, 2, 7, 30)),
        is_new_term=st.booleans(),
        crash=st.none() | st.integers(0, 25),
    )
    def append(
        self,
        entries: list[tuple[int, Kind]],
        back: int,
        is_new_term: bool,
        crash: int | None,
    ) -> None:
        """Append behind the end, or up to `back` entries before it."""
        index = max(self.model.start.index, self.model.last[0] - back)
        kept = list(self.model.up_to(index))
        if is_new_term or index < self.model.last[0] or not self.term:
            self.term += 1
        made: list[Record] = []
        for size_bytes, kind in entries:
            so_far = [*kept, *made]
            before = (so_far[-1].index, so_far[-1].term) if so_far else self._start
            wal_end = wal_end_of(so_far)
            if not wal_end[0]:  # the log may know where WAL ended before the start, or before a cut
                wal_end = (self.tli_max + 1, self.term << 32)
            self.tli_max = max(self.tli_max, wal_end[0] + 1)
            made.append(
                next_record(
                    before,
                    wal_end,
                    term=self.term,
                    size_bytes=size_bytes,
                    kind=kind,
                    new_timeline=size_bytes == SIZES[1],
                )
            )
        if made:
            self._run(lambda: self.log.append(made), self.model.appended(made), crash)

    @rule(crash=st.none() | st.integers(0, 2))
    def sync(self, crash: int | None) -> None:
        """All of it is durable now."""
        after = replace(self.model, synced=self.model.last[0])
        self._run(self.log.sync, after, crash)

    @rule(vote=st.integers(1, 3), crash=st.none() | st.integers(0, 4))
    def vote(self, vote: int, crash: int | None) -> None:
        """A later term and a vote."""
        state = (self.model.hard_state[0] + 1, vote)
        after = replace(self.model, hard_state=state)
        self._run(lambda: self.log.save_hard_state(*state), after, crash)

    @precondition(lambda self: self.model.records)
    @rule(share=st.floats(0, 1), crash=st.none() | st.integers(0, 12))
    def trim(self, share: float, crash: int | None) -> None:
        """Let the log start at one of its entries."""
        record = self.model.records[int(share * (len(self.model.records) - 1))]
        start = LogStart(index=record.index, term=record.term, state=b"trimmed")
        self._run(lambda: self.log.trim(start), self.model.trimmed(start), crash)

    @rule(ahead=st.integers(0, 40), crash=st.none() | st.integers(0, 15))
    def reset(self, ahead: int, crash: int | None) -> None:
        """Begin anew, where a leader says."""
        self.term += 1
        start = LogStart(index=self.model.start.index + ahead, term=self.term, state=b"restored")
        after = replace(self.model, start=start, records=(), synced=start.index)
        self._run(lambda: self.log.reset(start), after, crash)

    @rule(crash=st.none() | st.integers(0, 6))
    def prepare(self, crash: int | None) -> None:
        """Make a spare."""
        self._run(self.log.prepare_spare, self.model, crash)

    @rule()
    def confirm(self) -> None:
        """Vouch for the end."""
        self._run(self.log.confirm_end, self.model, None)

    @rule(crash=st.none() | st.integers(0, 12))
    def reopen(self, crash: int | None) -> None:
        """End and start the process."""

        def again() -> None:
            self.log.close()
            self.log = GroupLog.open(self.machine.directory, SMALL)

        after = replace(self.model, synced=self.model.last[0])
        self._run(again, after, crash)

    @rule()
    def crash_now(self) -> None:
        """Lose the power between two operations."""
        self._recover([self.model])

    @invariant()
    def log_is_the_model(self) -> None:
        """What an open log says of itself is right."""
        assert self.log.last_index == self.model.last[0]
        assert self.log.last_term == self.model.last[1]
        assert self.log.terms == terms_of(self.model.records)

    @property
    def _start(self) -> tuple[int, int]:
        return self.model.start.index, self.model.start.term

    def _run(self, operation: Callable[[], object], after: Model, crash: int | None) -> None:
        try:
            with self.machine.running(crash):
                operation()
        except Crash:
            self._recover([self.model, after])
        else:
            self.model = after

    def _told(self, records: Sequence[Record]) -> str:
        found = Model(self.log.start, tuple(records), self.log.synced_index, self.log.hard_state)
        return found.told()

    def _recover(self, possible: list[Model]) -> None:
        self.machine.crash()
        with self.machine.running():
            assert verify(self.machine.directory).findings == ()
            self.log = GroupLog.open(self.machine.directory, SMALL)
        records = everything(self.log)
        # The entries before a cut are needed even if the cut has not happened.
        needed = min(model.synced for model in possible)
        fits = [m for m in possible if replace(m, synced=needed).allows(self.log, records)]
        assert fits, f"{self._told(records)} is none of {[m.told() for m in possible]}"
        model = fits[0]
        self.model = replace(model, records=tuple(records), synced=self.log.last_index)
        self.term += 1


LogOnDisk.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLogOnDisk = LogOnDisk.TestCase


def crash_everywhere(
    tmp_path: Path, prepare: Callable[[Machine], GroupLog], act: Callable[[GroupLog], object]
) -> list[tuple[LogStart, list[Record]]]:
    """Do `act` once for every system call that can be its last; return what each crash left."""
    left = []
    for calls in count():
        machine = Machine(tmp_path / str(calls), random.Random(calls))
        with machine.running():
            log = prepare(machine)
        try:
            with machine.running(calls):
                act(log)
        except Crash:
            machine.crash()
            opened = GroupLog.open(machine.directory, SMALL)
            left.append((opened.start, everything(opened)))
        else:
            return left
    raise AssertionError("count() does not end")


def test_cut_inside_a_drain_of_a_full_segment_happens_or_does_not(tmp_path: Path) -> None:
    """With two segments behind it, at each of its system calls."""
    old = run_of(14, size_bytes=50_000)
    new = run_of(3, after=old[:2], term=2, size_bytes=50_000)

    def prepare(machine: Machine) -> GroupLog:
        log = make_log(machine.directory)
        write(log, old, at_once=3)
        return log

    left = crash_everywhere(tmp_path, prepare, lambda log: log.append(new))
    assert len(left) >= 10
    for _, records in left:
        assert records in (old, *(old[:2] + new[:kept] for kept in range(4)))
    assert any(records == old[:2] for _, records in left)


def test_reset_happens_or_does_not(tmp_path: Path) -> None:
    old = run_of(14, size_bytes=50_000)
    start = LogStart(index=8, term=5, state=b"restored")

    def prepare(machine: Machine) -> GroupLog:
        log = make_log(machine.directory)
        write(log, old)
        return log

    left = crash_everywhere(tmp_path, prepare, lambda log: log.reset(start))
    assert {(s.state, len(records)) for s, records in left} == {
        (EMPTY.state, 14),
        (b"restored", 0),
    }


def test_trim_happens_or_does_not(tmp_path: Path) -> None:
    """Also one beyond what was synced before it."""
    old = run_of(14, size_bytes=50_000)
    start = LogStart(index=10, term=1, state=b"trimmed")

    def prepare(machine: Machine) -> GroupLog:
        log = make_log(machine.directory)
        write(log, old[:6])
        log.append(old[6:])
        return log

    left = crash_everywhere(tmp_path, prepare, lambda log: log.trim(start))
    states = [found.state for found, _ in left]
    assert {EMPTY.state, b"trimmed"} == set(states)
    for state, (_, records) in zip(states, left, strict=True):
        assert records in ([old[10:]] if state == b"trimmed" else [old[:n] for n in range(6, 15)])


def test_log_is_made_or_is_not_and_can_be_made_again(tmp_path: Path) -> None:
    outcomes = set()
    for calls in count():
        machine = Machine(tmp_path / str(calls), random.Random(calls))
        machine.directory.mkdir()
        try:
            with machine.running(calls):
                make_log(machine.directory)
        except Crash:
            machine.crash()
        else:
            break
        if STATE_NAME in {path.name for path in machine.directory.iterdir()}:
            outcomes.add("made")
            assert GroupLog.open(machine.directory, SMALL).member == MEMBER
        else:
            outcomes.add("not made")
            with pytest.raises(LogError, match="holds no log"):
                GroupLog.open(machine.directory, SMALL)
            make_log(machine.directory)
    assert outcomes == {"made", "not made"}


def test_entries_that_a_crash_may_have_left_in_memory_only_are_synced_before_they_count(
    tmp_path: Path,
) -> None:
    """A process that dies leaves unsynced entries to the next one; then the power fails."""
    machine = Machine(tmp_path / "m", random.Random(1))
    records = run_of(3)
    with machine.running():
        log = make_log(machine.directory)
        log.append(records)
        del log  # dies; the kernel still has what it wrote
        found = GroupLog.open(machine.directory, SMALL).last_index
    machine.crash()
    assert found == 3
    assert everything(GroupLog.open(machine.directory, SMALL)) == records


def test_machine_can_lose_what_is_not_synced(tmp_path: Path) -> None:
    """The crashes above are not harmless."""
    kept = set()
    for seed in range(20):
        machine = Machine(tmp_path / str(seed), random.Random(seed))
        with machine.running():
            log = make_log(machine.directory)
            write(log, run_of(2))
            log.append(run_of(4)[2:3])
            log.append(run_of(4)[3:])
        machine.crash()
        kept.add(GroupLog.open(machine.directory, SMALL).last_index)
    assert {2, 4} <= kept <= {2, 3, 4}


def test_cut_among_unsynced_entries_does_not_count_on_them_before_they_are_durable(
    tmp_path: Path,
) -> None:
    old = run_of(6, size_bytes=5_000)
    new = run_of(1, after=old[:4], term=2)

    def prepare(machine: Machine) -> GroupLog:
        log = make_log(machine.directory)
        write(log, old[:2])
        log.append(old[2:])
        return log

    for _, records in crash_everywhere(tmp_path, prepare, lambda log: log.append(new)):
        assert records[:2] == old[:2]
        assert records in [old[:kept] for kept in range(7)] + [old[:4] + new]


def test_entry_that_was_cut_at_the_end_of_a_segment_does_not_come_back_without_the_footer(
    tmp_path: Path,
) -> None:
    """The entry in its place was too large, so it begins the next segment."""
    old = run_of(5, size_bytes=45_000)
    log = make_log(tmp_path / "log")
    write(log, old)
    large = next_record((4, 1), wal_end_of(old[:4]), term=2, size_bytes=100_000)
    write(log, [large])
    wanted = [*old[:4], large]
    for _ in range(2):
        log.close()
        log = GroupLog.open(tmp_path / "log", SMALL)
    log.close()
    path = segment_paths(tmp_path / "log")[0]
    with path.open("r+b") as file:
        file.seek(-FOOTER_BYTES, os.SEEK_END)
        file.write(bytes(FOOTER_BYTES))
    assert verify(tmp_path / "log").is_sound
    log = GroupLog.open(tmp_path / "log", SMALL)
    assert everything(log) == wanted
