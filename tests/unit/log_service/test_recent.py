"""The newest records in memory, against a list of all of them."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fabric.lsn import Lsn
from log_service.recent import DROPPED_AT_ONCE, RecentRecords, WalEnd
from log_service.record import Kind, Record, make_record

BYTES_MAX = 2000
FIRST_END = (1, 5000)


def wal_bytes(tli: int, lsn: int, size_bytes: int) -> bytes:
    return bytes((tli * 31 + position) % 256 for position in range(lsn, lsn + size_bytes))


class _AgainstAList(RuleBasedStateMachine):
    """Does to a list what it does to the recent records."""

    @initialize(start=st.integers(0, 10))
    def begin(self, start: int) -> None:
        self.start = start
        self.recent = RecentRecords(BYTES_MAX, last_index=start, wal_end=FIRST_END)
        self.log: list[tuple[Record, WalEnd]] = []
        self.kept_from = start + 1  # nothing behind this was allowed to go

    @property
    def end(self) -> WalEnd:
        return self.log[-1][1] if self.log else FIRST_END

    def _append(self, kind: Kind, end: WalEnd, body: bytes = b"") -> None:
        tli, lsn = self.end if kind is Kind.WAL else (0, 0)
        index = self.start + len(self.log) + 1
        record = make_record(
            index=index, term=1, prev_term=1, kind=kind, tli=tli, lsn=lsn, body=body
        )
        self.log.append((record, end))
        self.recent.append(record, end)

    @rule(size_bytes=st.integers(1, 300), count=st.integers(1, 20))
    def append_wal(self, size_bytes: int, count: int) -> None:
        for _ in range(count):
            tli, lsn = self.end
            self._append(Kind.WAL, (tli, lsn + size_bytes), wal_bytes(tli, lsn, size_bytes))

    @rule()
    def append_noop(self) -> None:
        self._append(Kind.NOOP, self.end)

    @rule(back_bytes=st.integers(0, 700))
    def append_timeline(self, back_bytes: int) -> None:
        tli, lsn = self.end
        self._append(Kind.TIMELINE, (tli + 1, lsn - min(back_bytes, lsn - 5000)))

    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        if not self.log:
            return
        count = data.draw(st.integers(self.recent.first_index - self.start - 1, len(self.log)))
        del self.log[count:]
        self.recent.cut(self.start + count + 1, self.end)

    @rule(data=st.data())
    def cut_what_is_only_on_disk(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(self.log)))
        del self.log[count:]
        self.recent.cut(self.start + count + 1, self.end)
        self.kept_from = min(self.kept_from, self.start + count + 1)

    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        upto = data.draw(st.integers(self.start, self.start + len(self.log)))
        first_before = self.recent.first_index
        self.recent.shrink(upto)
        assert self.recent.first_index <= max(first_before, upto + 1)
        here = self.log[self.recent.first_index - self.start - 1 :]
        size_bytes = sum(record.size_bytes for record, _ in here)
        if self.recent.first_index > first_before:  # no more goes than has to
            last_gone, _ = self.log[self.recent.first_index - self.start - 2]
            assert size_bytes + last_gone.size_bytes > BYTES_MAX
        droppable = upto - self.recent.first_index + 1
        if droppable > 0:
            assert size_bytes <= BYTES_MAX * 9 // 8 or size_bytes <= BYTES_MAX + 348

    @rule(data=st.data(), bytes_max=st.integers(0, 3000))
    def read(self, data: st.DataObject, bytes_max: int) -> None:
        first = data.draw(st.integers(self.start, self.start + len(self.log) + 2))
        last = data.draw(st.integers(first, self.start + len(self.log) + 3))
        found = self.recent.records(first, last, bytes_max)
        if not self.recent.first_index <= first <= self.recent.last_index:
            assert found is None
            return
        expected: list[Record] = []
        for record, _ in self.log[first - self.start - 1 : last - self.start]:
            bytes_max -= record.size_bytes
            if bytes_max < 0 and expected:
                break
            expected.append(record)
        assert found == expected

    @rule(data=st.data(), bytes_max=st.integers(1, 3000))
    def read_wal(self, data: st.DataObject, bytes_max: int) -> None:
        tli = data.draw(st.integers(1, self.end[0]))
        lsn = data.draw(st.integers(5000, self.end[1] + 700))
        pieces = self.recent.wal(tli, Lsn(lsn), bytes_max)
        last = self._last_of(tli, lsn)
        if pieces is None:
            assert last is None
            return
        found = b"".join(pieces)
        assert last is not None
        assert found == wal_bytes(tli, lsn, min(bytes_max, last - lsn))

    def _last_of(self, tli: int, lsn: int) -> int | None:
        """Where WAL of this timeline that is here and holds `lsn` ends; None if none does."""
        here = [r for r, _ in self.log[self.recent.first_index - self.start - 1 :]]
        wal = [r for r in here if r.kind is Kind.WAL and r.tli == tli]
        if not wal or not wal[0].lsn <= lsn < wal[-1].lsn + len(wal[-1].body):
            return None
        return wal[-1].lsn + len(wal[-1].body)

    @invariant()
    def ends_are_known(self) -> None:
        if not hasattr(self, "log"):
            return
        assert self.recent.wal_end == self.end
        assert self.recent.last_index == self.start + len(self.log)
        for index in range(self.start, self.recent.last_index + 1):
            expected = self.log[index - self.start - 1][1] if index > self.start else FIRST_END
            is_here = index >= self.recent.first_index - 1
            assert self.recent.wal_end_at(index) == (expected if is_here else None)
        assert self.recent.wal_end_at(self.recent.last_index + 1) is None


TestAgainstAList = _AgainstAList.TestCase
TestAgainstAList.settings = settings(deadline=None)


@settings(deadline=None)
@given(st.integers(1, 400))
def test_memory_stays_near_its_limit_however_large_the_records(body_bytes: int) -> None:
    recent = RecentRecords(BYTES_MAX, last_index=0, wal_end=FIRST_END)
    for index in range(1, 3 * DROPPED_AT_ONCE):
        record = make_record(
            index=index, term=1, prev_term=1, kind=Kind.WAL, body=bytes(body_bytes)
        )
        recent.append(record, (1, 5000 + index * body_bytes))
        recent.shrink(index)
        count = recent.last_index - recent.first_index + 1
        assert count * record.size_bytes <= BYTES_MAX * 9 // 8 + record.size_bytes


def test_what_may_not_go_stays_above_the_limit() -> None:
    recent = RecentRecords(100, last_index=0, wal_end=FIRST_END)
    for index in range(1, 1000):
        recent.append(make_record(index=index, term=1, prev_term=1, kind=Kind.NOOP), FIRST_END)
        recent.shrink(0)
    assert recent.first_index == 1
    recent.shrink(700)
    assert recent.first_index == 701


def test_what_was_going_to_be_dropped_is_counted_anew_after_a_cut() -> None:
    recent = RecentRecords(BYTES_MAX, last_index=0, wal_end=FIRST_END)

    def append(index: int, body_bytes: int) -> None:
        record = make_record(
            index=index, term=1, prev_term=1, kind=Kind.WAL, body=bytes(body_bytes)
        )
        recent.append(record, FIRST_END)
        recent.shrink(index)

    for index in range(1, 7):  # a little above the limit: the first is going to be dropped
        append(index, 300)
    assert recent.first_index == 1
    recent.cut(1, FIRST_END)
    while recent.first_index == 1:
        append(recent.last_index + 1, 10)
    here = recent.records(recent.first_index, recent.last_index, 1 << 20) or ()
    assert BYTES_MAX - 58 < sum(record.size_bytes for record in here) <= BYTES_MAX
