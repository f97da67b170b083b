"""The rules of a branch: against a model that knows them in other words, and one test for each."""

from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fabric.ids import Epoch, NodeName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from log_service.branch import (
    Branch,
    FenceError,
    decode_branch,
    encode_branch,
)
from log_service.history import Fork, TimelineHistory, extend_history
from log_service.record import Kind, Record, make_record
from log_service.record_bodies import (
    NOTE_BYTES_MAX,
    NOTES_BYTES_MAX,
    NOTES_MAX,
    PINS_MAX,
    EpochBody,
    Genesis,
    Holder,
    MemberInfo,
    Members,
    Note,
    Pin,
    Timeline,
    Trim,
    encode_body,
    kind_of,
)

SEGMENT = 1 << 20
START = Lsn(16 * SEGMENT)
GENESIS = Genesis(SystemIdentifier(7), Tli(1), START, SEGMENT, "18.1")
HOLDER = Holder(NodeName("compute-1"), "tcp://127.0.0.1:5432")
MEMBER = MemberInfo(1, NodeName("log-1"), "tcp://127.0.0.1:1")


def record_of(body: msgspec.Struct) -> Record:
    return make_record(index=1, term=1, prev_term=0, kind=kind_of(body), body=encode_body(body))


def wal(tli: int, lsn: int, size_bytes: int) -> Record:
    return make_record(
        index=1, term=1, prev_term=1, kind=Kind.WAL, tli=tli, lsn=lsn, body=bytes(size_bytes)
    )


def history_of(*forks: tuple[int, int], tli: int) -> TimelineHistory:
    """The history of a timeline with these ancestors and their ends."""
    history = TimelineHistory(Tli(forks[0][0]))
    for (_, end), following in zip(forks, [*(f[0] for f in forks[1:]), tli], strict=True):
        history = extend_history(history, tli=Tli(following), end=Lsn(end), reason="")
    return history


def timeline(*forks: tuple[int, int], tli: int) -> Record:
    return record_of(Timeline(Tli(tli), history_of(*forks, tli=tli).file))


def branch_with(*records: Record) -> Branch:
    branch = Branch()
    for record in (record_of(GENESIS), record_of(EpochBody(Epoch(1), HOLDER)), *records):
        branch.apply(record)
    return branch


def assert_refused(branch: Branch, record: Record, match: str | None = None) -> None:
    before = encode_branch(branch)
    with pytest.raises(FenceError, match=match):
        branch.apply(record)
    assert encode_branch(branch) == before


class _AgainstAModel(RuleBasedStateMachine):
    """Facts, and for each entry a sentence that says whether it may come now."""

    @initialize()
    def begin(self) -> None:
        self.branch = Branch()
        self.has_genesis = False
        self.epoch = 0
        self.epoch_start = 0
        self.ancestors: list[tuple[int, int]] = []  # (timeline, end)
        self.tli = 1
        self.start = self.end = 0
        self.pins: dict[str, int] = {}
        self.notes: dict[str, bytes] = {}
        self.members: tuple[MemberInfo, ...] = ()

    def attempt(self, record: Record, *, may_come: bool) -> bool:
        if may_come:
            self.branch.apply(record)
        else:
            assert_refused(self.branch, record)
        return may_come

    @rule(segments=st.integers(0, 3), odd=st.sampled_from([0, 0, 0, 1]))
    def genesis(self, segments: int, odd: int) -> None:
        start = START + segments * SEGMENT + odd
        body = msgspec.structs.replace(GENESIS, start=start)
        if self.attempt(record_of(body), may_come=not self.has_genesis and not odd):
            self.has_genesis = True
            self.start = self.end = self.epoch_start = start

    @rule(step=st.sampled_from([1, 1, 1, 0, 2, -1]), has_holder=st.booleans())
    def epoch_begins(self, step: int, has_holder: bool) -> None:
        epoch = max(0, self.epoch + step)
        body = EpochBody(Epoch(epoch), HOLDER if has_holder else None)
        may_come = self.has_genesis and epoch == self.epoch + 1
        if self.attempt(record_of(body), may_come=may_come):
            self.epoch, self.epoch_start = epoch, self.end

    @rule(
        tli_off=st.sampled_from([0, 0, 0, 1]),
        lsn_off=st.sampled_from([0, 0, 0, 1, 50]),
        size_bytes=st.integers(0, 5000),
    )
    def wal_comes(self, tli_off: int, lsn_off: int, size_bytes: int) -> None:
        record = wal(self.tli + tli_off, self.end + lsn_off, size_bytes)
        may_come = self.has_genesis and self.epoch > 0 and not tli_off and not lsn_off
        if self.attempt(record, may_come=may_come):
            self.end += size_bytes

    @rule(
        back_bytes=st.integers(-10, 3000),
        tli_step=st.integers(1, 3),
        lie=st.sampled_from(["", "", "", "other past", "no past", "other parent"]),
    )
    def timeline_begins(self, back_bytes: int, tli_step: int, lie: str) -> None:
        fork, tli = max(1, self.end - back_bytes), self.tli + tli_step
        past = list(self.ancestors)
        if lie == "other past" and past:
            past[-1] = (past[-1][0], past[-1][1] - 1)
        elif lie == "no past" and past:
            past.pop()
        elif lie == "other parent":
            tli = self.tli + 2
            past.append((self.tli, fork))
        parent = self.tli + 1 if lie == "other parent" else self.tli
        is_true = past == self.ancestors
        began = self.ancestors[-1][1] if self.ancestors else 0
        ends = [*(end for _, end in past), fork]
        if ends != sorted(ends):
            return  # not even a history
        may_come = self.has_genesis and is_true and max(began, self.start) <= fork <= self.end
        if self.attempt(timeline(*past, (parent, fork), tli=tli), may_come=may_come):
            self.ancestors.append((self.tli, fork))
            self.tli, self.end = tli, fork

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        lsn = data.draw(st.integers(max(0, self.start - 10), self.end + 10))
        limit = min([self.end, *self.pins.values()])
        may_come = self.has_genesis and self.start <= lsn <= max(limit, self.start)
        if self.attempt(record_of(Trim(Lsn(lsn))), may_come=may_come):
            self.start = lsn

    @rule(name=st.sampled_from("abc"), data=st.data())
    def pin(self, name: str, data: st.DataObject) -> None:
        lsn = data.draw(st.none() | st.integers(max(0, self.start - 10), self.end + 10))
        may_come = self.has_genesis and (lsn is None or lsn >= self.start)
        body = Pin(name, None if lsn is None else Lsn(lsn))
        if self.attempt(record_of(body), may_come=may_come):
            self.pins.pop(name, None)
            if lsn is not None:
                self.pins[name] = lsn

    @rule(name=st.sampled_from("abc"), content=st.none() | st.binary(max_size=3))
    def note(self, name: str, content: bytes | None) -> None:
        if self.attempt(record_of(Note(name, content)), may_come=self.has_genesis):
            self.notes.pop(name, None)
            if content is not None:
                self.notes[name] = content

    @rule(count=st.integers(1, 3))
    def members_change(self, count: int) -> None:
        self.members = (MEMBER,) * count
        self.attempt(record_of(Members(self.members)), may_come=True)

    @rule()
    def a_leader_begins(self) -> None:
        noop = make_record(index=1, term=2, prev_term=1, kind=Kind.NOOP)
        self.attempt(noop, may_come=True)

    @rule()
    def it_is_saved_and_read(self) -> None:
        self.branch = decode_branch(encode_branch(self.branch))

    @rule()
    def a_copy_goes_its_own_way(self) -> None:
        self.branch = self.branch.copy()

    @invariant()
    def they_agree(self) -> None:
        branch = self.branch
        assert (branch.genesis is not None) == self.has_genesis
        assert (branch.start, branch.end) == (self.start, self.end)
        assert (branch.epoch, branch.epoch_start) == (self.epoch, self.epoch_start)
        assert branch.tli == self.tli
        assert branch.history.forks == tuple(Fork(Tli(t), Lsn(e)) for t, e in self.ancestors)
        assert set(branch.history_files or {}) == {
            *(tli for tli, _ in self.ancestors[1:]),
            *([self.tli] if self.ancestors else []),
        }
        assert (branch.pins or {}) == self.pins
        assert (branch.notes or {}) == self.notes
        assert branch.members == self.members


TestAgainstAModel = _AgainstAModel.TestCase
TestAgainstAModel.settings = settings(deadline=None)


# --- The rules, one by one ----------------------------------------------------------------------


def test_wal_begins_where_the_one_before_it_ended() -> None:
    branch = branch_with(wal(1, START, 100))
    assert_refused(branch, wal(1, START + 101, 1), "does not continue timeline 1 at 0/1000064")
    assert_refused(branch, wal(1, START + 99, 1), "does not continue")
    assert_refused(branch, wal(2, START + 100, 1), "does not continue")
    branch.apply(wal(1, START + 100, 1))
    assert branch.end == START + 101


def test_wal_needs_a_genesis_and_a_holder() -> None:
    branch = Branch()
    assert_refused(branch, wal(1, 0, 10), "does not know whose WAL")
    branch.apply(record_of(GENESIS))
    assert_refused(branch, wal(1, START, 10), "no holder yet")


def test_an_epoch_is_one_more_than_the_one_before() -> None:
    branch = branch_with()
    for epoch in (0, 1, 3):
        assert_refused(branch, record_of(EpochBody(Epoch(epoch), HOLDER)), "cannot follow epoch 1")


def test_only_the_wal_of_the_newest_epoch_may_be_appended() -> None:
    branch = branch_with(record_of(EpochBody(Epoch(2))))
    branch.verify_epoch(Epoch(2))
    for epoch in (1, 3):
        with pytest.raises(FenceError, match="was superseded by epoch 2"):
            branch.verify_epoch(Epoch(epoch))
    assert branch.holder is None


def test_an_epoch_remembers_where_it_began() -> None:
    branch = branch_with(wal(1, START, 100), record_of(EpochBody(Epoch(2), HOLDER)))
    branch.apply(wal(1, START + 100, 5))
    assert branch.epoch_start == START + 100


def test_what_was_behind_the_fork_is_dead() -> None:
    branch = branch_with(wal(1, START, 100), timeline((1, START + 60), tli=2))
    assert (branch.tli, branch.end) == (2, START + 60)
    branch.apply(wal(2, START + 60, 10))
    assert branch.history.owner_of(Lsn(START + 65)) == 2
    assert branch.history.owner_of(Lsn(START + 59)) == 1


def test_a_timeline_number_is_never_used_again() -> None:
    branch = branch_with(wal(1, START, 100), timeline((1, START + 60), tli=3))
    assert_refused(branch, timeline((1, START + 60), tli=3))
    assert_refused(branch, timeline((1, START + 60), tli=2))
    branch.apply(timeline((1, START + 60), (3, START + 60), tli=4))


def test_a_history_continues_the_known_one() -> None:
    branch = branch_with(wal(1, START, 100), timeline((1, START + 60), tli=2))
    branch.apply(wal(2, START + 60, 100))
    assert_refused(branch, timeline((1, START + 70), tli=3), "separate ways")
    assert_refused(branch, timeline((1, START + 61), (2, START + 90), tli=3), "separate ways")
    assert_refused(
        branch, timeline((1, START + 60), (2, START + 80), (3, START + 90), tli=4), "not here"
    )


def test_a_fork_is_between_the_one_before_and_the_end() -> None:
    branch = branch_with(wal(1, START, 100), timeline((1, START + 60), tli=2))
    branch.apply(wal(2, START + 60, 40))
    assert_refused(branch, timeline((1, START + 60), (2, START + 101), tli=3), "goes from")
    branch.apply(timeline((1, START + 60), (2, START + 60), tli=3))
    assert branch.end == START + 60


def test_a_fork_in_what_was_trimmed_is_refused() -> None:
    branch = branch_with(wal(1, START, 100), record_of(Trim(START + 50)))
    assert_refused(branch, timeline((1, START + 49), tli=2), "goes from 0/1000032")
    branch.apply(timeline((1, START + 50), tli=2))


def test_a_file_that_is_no_history_is_refused() -> None:
    branch = branch_with(wal(1, START, 100))
    for file in (b"", b"\xff\xfe", b"1\t", b"2\t0/1000010\tx\n", b"x" * 1000):
        assert_refused(branch, record_of(Timeline(Tli(2), file)), "timeline 2 cannot be taken")


def test_wal_is_trimmed_up_to_the_end_and_never_back() -> None:
    branch = branch_with(wal(1, START, 100))
    assert_refused(branch, record_of(Trim(START + 101)), "can be trimmed from 0/1000000")
    branch.apply(record_of(Trim(START + 100)))
    assert_refused(branch, record_of(Trim(START + 99)))


def test_what_is_pinned_is_not_trimmed() -> None:
    branch = branch_with(wal(1, START, 100), record_of(Pin("backup", START + 10)))
    assert_refused(branch, record_of(Trim(START + 11)))
    branch.apply(record_of(Trim(START + 10)))
    branch.apply(record_of(Pin("backup", None)))
    branch.apply(record_of(Trim(START + 11)))
    assert_refused(branch, record_of(Pin("late", START + 10)), "is gone")


def test_there_are_so_many_pins_and_no_more() -> None:
    pins = [record_of(Pin(f"pin-{number}", START)) for number in range(PINS_MAX)]
    branch = branch_with(*pins)
    assert_refused(branch, record_of(Pin("one more", START)), "release one")
    branch.apply(record_of(Pin("pin-0", START)))  # moved, not added


def test_notes_are_so_many_and_so_large_and_no_more() -> None:
    branch = branch_with(*(record_of(Note(f"note-{number}", b"")) for number in range(NOTES_MAX)))
    assert_refused(branch, record_of(Note("one more", b"")), "remove one")
    for number in range(NOTES_BYTES_MAX // NOTE_BYTES_MAX):
        branch.apply(record_of(Note(f"note-{number}", bytes(NOTE_BYTES_MAX))))
    assert_refused(branch, record_of(Note("note-31", bytes(NOTE_BYTES_MAX))), "bytes at most")
    branch.apply(record_of(Note("note-0", None)))
    branch.apply(record_of(Note("note-31", bytes(NOTE_BYTES_MAX))))


def test_a_state_of_an_older_version_has_no_notes() -> None:
    branch = branch_with()
    fields = msgspec.msgpack.decode(encode_branch(branch))
    del fields["notes"]
    assert decode_branch(msgspec.msgpack.encode(fields)).notes == {}


def test_there_is_one_genesis() -> None:
    assert_refused(branch_with(), record_of(GENESIS), "that of system 7 already")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"start": START + 1}, "must begin with a segment"),
        ({"segment_bytes": 3 * SEGMENT}, "power of two"),
        ({"segment_bytes": 0}, "power of two"),
        ({"history": b"nonsense"}, "cannot be taken"),
        ({"tli": Tli(2), "history": history_of((1, START + 1), tli=2).file}, "began at"),
    ],
)
def test_a_genesis_that_cannot_be_is_refused(change: dict[str, object], reason: str) -> None:
    body = msgspec.structs.replace(GENESIS, **change)
    assert_refused(Branch(), record_of(body), reason)


def test_a_branch_may_begin_on_a_later_timeline() -> None:
    file = history_of((1, START), tli=2).file
    branch = Branch()
    branch.apply(record_of(msgspec.structs.replace(GENESIS, tli=Tli(2), history=file)))
    assert (branch.tli, branch.history_files) == (2, {2: file})
    branch.apply(record_of(EpochBody(Epoch(1), HOLDER)))
    assert_refused(branch, wal(1, START, 5))
    branch.apply(wal(2, START, 5))
    assert encode_branch(decode_branch(encode_branch(branch))) == encode_branch(branch)


@pytest.mark.parametrize(
    "body",
    [
        EpochBody(Epoch(1)),
        Timeline(Tli(2), history_of((1, 5), tli=2).file),
        Trim(Lsn(0)),
        Pin("a", Lsn(0)),
        Note("a", b""),
    ],
    ids=lambda body: type(body).__name__,
)
def test_nothing_happens_before_the_genesis(body: msgspec.Struct) -> None:
    assert_refused(Branch(), record_of(body), "does not know whose WAL")


def test_a_copy_shares_nothing_that_changes() -> None:
    branch = branch_with(wal(1, START, 100), record_of(Pin("backup", START)))
    before = encode_branch(branch)
    copy = branch.copy()
    for record in (
        timeline((1, START + 60), tli=2),
        record_of(Pin("backup", None)),
        record_of(Note("settings", b"x")),
        record_of(Members((MEMBER,))),
        record_of(EpochBody(Epoch(2))),
    ):
        copy.apply(record)
    assert encode_branch(branch) == before


# --- As bytes -----------------------------------------------------------------------------------


def test_no_bytes_are_the_state_before_the_first_entry() -> None:
    assert encode_branch(decode_branch(b"")) == encode_branch(Branch())


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_arbitrary_bytes_are_a_state_or_a_fence_error(data: bytes) -> None:
    with suppress(FenceError):
        decode_branch(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data.replace(b"compute-1", b"\xff\xffmpute-1"),
        lambda data: data.replace(b"compute-1", b"COMPUTE-1"),
        lambda data: b"\x81\xa1x" + b"\x91" * 100_000,
        lambda data: data.replace(b"1\t0/", b"9\t0/"),
    ],
    ids=["cut short", "no UTF-8", "no name", "deep", "a wrong history"],
)
def test_a_damaged_state_is_found(damage: Callable[[bytes], bytes]) -> None:
    branch = branch_with(wal(1, START, 100), timeline((1, START + 60), tli=2))
    with pytest.raises(FenceError, match="damaged"):
        decode_branch(damage(encode_branch(branch)))
