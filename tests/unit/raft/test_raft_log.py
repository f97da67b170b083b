"""The log's terms, kept as runs, against a list with one term an entry."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raft.raft_log import RaftLog
from raft.types import Config, Entry, HardState, Persisted, Snapshot

EMPTY = Config(frozenset())


class _LogAgainstList(RuleBasedStateMachine):
    """Appends, cuts, trims and persists at random."""

    def __init__(self) -> None:
        super().__init__()
        self.log = RaftLog(Persisted(HardState(), Snapshot(0, 0, EMPTY)))
        self.terms = [0]  # of the entries from `start` on, the start included
        self.start = 0
        self.number = 0

    @property
    def last(self) -> int:
        return self.start + len(self.terms) - 1

    @rule(count=st.integers(1, 4), rise=st.integers(0, 2))
    def append(self, count: int, rise: int) -> None:
        term = max(1, self.terms[-1] + rise)
        self.log.append([Entry(self.last + 1 + i, term, 1) for i in range(count)])
        self.terms += [term] * count

    @rule(back=st.integers(0, 9))
    def truncate(self, back: int) -> None:
        index = max(self.last - back, self.log.commit_index + 1)
        if index <= self.last:
            self.log.truncate_from(index)
            del self.terms[index - self.start :]

    @rule(back=st.integers(0, 9))
    def commit_and_trim(self, back: int) -> None:
        self.hand_out()
        self.persist(0)
        index = self.last - back
        self.log.commit_index = max(self.log.commit_index, index)
        self.log.trimmed(index)
        if index > self.start:
            del self.terms[: index - self.start]
            self.start = index

    @rule(rise=st.integers(1, 9))
    def restore(self, rise: int) -> None:
        term = self.terms[-1] + 1
        self.start, self.terms = self.last + rise, [term]
        self.log.restore(Snapshot(self.start, term, EMPTY))
        assert self.log.stable_index == 0
        self.number += 1
        self.log.hand_out(self.number, is_restored=True)
        self.log.persisted(self.number)

    @rule()
    def hand_out(self) -> None:
        self.number += 1
        for entry in self.log.hand_out(self.number, is_restored=False):
            assert entry.term == self.terms[entry.index - self.start]

    @precondition(lambda self: self.number)
    @rule(back=st.integers(0, 3))
    def persist(self, back: int) -> None:
        self.log.persisted(self.number - back)
        if not back and not self.log.unstable:
            assert self.log.stable_index == self.last

    @rule(back=st.integers(0, 20), term=st.integers(0, 9))
    def newest_common(self, back: int, term: int) -> None:
        index = self.last - back
        found = self.log.newest_common(index, term)
        fitting = [i for i in range(self.start, index + 1) if self.terms[i - self.start] <= term]
        if fitting:
            assert found == fitting[-1]
        else:
            assert found < self.start or found == index < self.start

    @invariant()
    def terms_are_those_of_the_list(self) -> None:
        log = self.log
        assert (log.start_index, log.last_index) == (self.start, self.last)
        assert (log.start_term, log.last_term) == (self.terms[0], self.terms[-1])
        seen = [log.term_at(index) for index in range(self.start - 1, self.last + 2)]
        assert seen == [None, *self.terms, None]
        assert log.stable_index <= self.last


TestLogAgainstList = _LogAgainstList.TestCase
TestLogAgainstList.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=30))
def test_restart_has_the_terms_that_were_written(rises: list[int]) -> None:
    runs, last = [], 5
    for term, count in enumerate(rises, 2):
        runs.append((last + 1, term))
        last += count
    log = RaftLog(Persisted(HardState(), Snapshot(5, 1, EMPTY), tuple(runs), last))
    assert log.stable_index == log.last_index == last
    assert log.commit_index == 5
    assert [log.term_at(first) for first, _ in runs] == [term for _, term in runs]


@pytest.mark.parametrize(
    ("runs", "last_index"),
    [
        (((7, 2),), 9),
        (((6, 0),), 9),
        (((6, 2), (6, 3)), 9),
        (((6, 3), (8, 2)), 9),
        (((6, 2), (8, 3)), 7),
        ((), 9),
    ],
)
def test_persisted_log_that_cannot_be_is_refused(
    runs: tuple[tuple[int, int], ...], last_index: int
) -> None:
    with pytest.raises(ValueError, match="term"):
        RaftLog(Persisted(HardState(), Snapshot(5, 1, EMPTY), runs, last_index))
