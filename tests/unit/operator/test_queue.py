"""The work queue: one run of a key at a time, none is lost, failures slow down.

In scope: every rule of work_queue.py, by example and against a model. Out of scope: workers, see
test_runtime.py.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kube_operator.kube_port import Key
from kube_operator.work_queue import (
    BACKOFF_BASE_MS,
    BACKOFF_CAP_MS,
    BACKOFF_MIN_S,
    RETRY_WOKEN_S,
    SPACING_S,
    WorkQueue,
)

A, B = Key("ns", "a"), Key("ns", "b")


@pytest.fixture
def queue() -> WorkQueue:
    return WorkQueue(rng=random.Random(1))


def test_key_that_is_woken_often_is_taken_once(queue: WorkQueue) -> None:
    for _ in range(100):
        queue.wake(A, 1.0)
    assert queue.take(1.0) == A
    assert queue.take(1.0) is None


def test_keys_come_in_the_order_in_which_they_became_due(queue: WorkQueue) -> None:
    queue.wake(B, 1.0)
    queue.wake(A, 1.0)
    queue.wake(B, 1.0)
    assert [queue.take(1.0), queue.take(1.0), queue.take(1.0)] == [B, A, None]


def test_key_woken_in_flight_runs_once_more_afterwards(queue: WorkQueue) -> None:
    queue.wake(A, 1.0)
    queue.take(1.0)
    queue.wake(A, 1.1)
    queue.wake(A, 1.2)
    assert queue.take(1.2) is None
    queue.done(A, 2.0, again_s=None)
    assert queue.take(2.0) is None, "not within the spacing"
    assert queue.take(2.0 + SPACING_S) == A
    queue.done(A, 3.0, again_s=None)
    assert queue.next_s() is None


def test_key_without_a_time_is_forgotten(queue: WorkQueue) -> None:
    queue.wake(A, 1.0)
    queue.take(1.0)
    queue.done(A, 2.0, again_s=None)
    assert len(queue) == 0


def test_reconciler_that_wakes_itself_or_wants_to_run_at_once_is_spaced(queue: WorkQueue) -> None:
    now_s, runs = 0.0, 0
    queue.wake(A, now_s)
    while now_s < 10:
        assert queue.take(now_s) == A
        runs += 1
        queue.wake(A, now_s)
        queue.done(A, now_s, again_s=0.0)
        due_s = queue.next_s()
        assert due_s is not None
        now_s = due_s
    assert runs <= 10 / SPACING_S + 1


def test_key_is_due_again_when_the_reconciler_says_or_when_somebody_wakes_it(
    queue: WorkQueue,
) -> None:
    queue.wake(A, 0.0)
    queue.take(0.0)
    queue.done(A, 0.0, again_s=60.0)
    assert queue.next_s() == 60.0
    queue.wake(A, 5.0)
    assert queue.next_s() == 5.0
    queue.wake(A, 7.0)
    assert queue.next_s() == 5.0, "a later wake postpones nothing"


def test_failures_in_a_row_slow_down_and_success_forgives_them(queue: WorkQueue) -> None:
    now_s = 0.0
    queue.wake(A, now_s)
    for failures in range(30):
        assert queue.take(now_s) == A
        pause_s = queue.failed(A, now_s)
        ceiling_ms = min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2**failures)
        assert BACKOFF_MIN_S <= pause_s <= BACKOFF_MIN_S + ceiling_ms / 1000
        assert queue.failures(A) == failures + 1
        now_s += pause_s
    assert now_s > 300, "a run of failures is mostly pauses"
    assert queue.take(now_s) == A
    queue.done(A, now_s, again_s=1.0)
    assert queue.failures(A) == 0


def test_wake_shortens_the_pause_after_a_failure_but_not_to_nothing(queue: WorkQueue) -> None:
    now_s = 0.0
    queue.wake(A, now_s)
    for _ in range(20):
        queue.take(now_s)
        pause_s = queue.failed(A, now_s)
        queue.wake(A, now_s)
        due_s = queue.next_s()
        assert due_s is not None
        assert due_s == pytest.approx(now_s + min(pause_s, RETRY_WOKEN_S))
        now_s = due_s


def test_pause_that_was_asked_for_is_kept_even_if_woken(queue: WorkQueue) -> None:
    queue.wake(A, 0.0)
    queue.take(0.0)
    queue.wake(A, 0.0)
    queue.failed(A, 0.0, retry_after_s=20.0)
    queue.wake(A, 1.0)
    assert queue.next_s() == 20.0


def test_runs_that_were_cut_off_are_due_at_once(queue: WorkQueue) -> None:
    for key in (A, B):
        queue.wake(key, 0.0)
        queue.take(0.0)
    queue.done(B, 1.0, again_s=60.0)
    queue.abandon_all(3.0)
    assert queue.in_flight == 0
    assert queue.take(3.0) == A
    assert queue.take(3.0) is None


def test_heap_stays_small_however_often_keys_are_woken_before_their_time(queue: WorkQueue) -> None:
    now_s = 0.0
    queue.wake(A, now_s)
    for _ in range(10_000):
        assert queue.take(now_s) == A
        queue.done(A, now_s, again_s=600.0)
        now_s += 1.0
        queue.wake(A, now_s)
    assert len(queue._heap) < 200


KEYS = st.sampled_from([Key("ns", name) for name in "abcd"])


class QueueModel(RuleBasedStateMachine):
    """What everybody may rely on, whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = WorkQueue(rng=random.Random(2))
        self.now_s = 0.0
        self.in_flight: set[Key] = set()
        # Woken, and not taken since: with the time by which it must be possible to take it.
        self.owed: dict[Key, float] = {}

    @rule(key=KEYS)
    def wake(self, key: Key) -> None:
        """Wake one, in flight or not."""
        self.queue.wake(key, self.now_s)
        self.owed.setdefault(key, self.now_s + RETRY_WOKEN_S)

    @rule(seconds=st.floats(0.0, 400.0))
    def pass_time(self, seconds: float) -> None:
        """It is later."""
        self.now_s += seconds

    @rule()
    def take(self) -> None:
        """Take one, if one is due."""
        due_s = self.queue.next_s()
        key = self.queue.take(self.now_s)
        assert (key is not None) == (due_s is not None and due_s <= self.now_s)
        if key is not None:
            assert key not in self.in_flight, "one run of a key at a time"
            self.in_flight.add(key)
            self.owed.pop(key, None)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), again_s=st.none() | st.floats(0.0, 100.0))
    def finish(self, data: st.DataObject, again_s: float | None) -> None:
        """End a run well."""
        key = data.draw(st.sampled_from(sorted(self.in_flight)))
        self.in_flight.discard(key)
        self.queue.done(key, self.now_s, again_s=again_s)
        self._owe_again(key)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """End a run with a failure."""
        key = data.draw(st.sampled_from(sorted(self.in_flight)))
        self.in_flight.discard(key)
        self.queue.failed(key, self.now_s)
        self._owe_again(key)

    def _owe_again(self, key: Key) -> None:
        if key in self.owed:
            self.owed[key] = self.now_s + RETRY_WOKEN_S

    @invariant()
    def nothing_that_was_woken_is_lost(self) -> None:
        """A key that was woken can be taken in time."""
        waiting = {key: due_s for key, due_s in self.owed.items() if key not in self.in_flight}
        if waiting:
            due_s = self.queue.next_s()
            assert due_s is not None
            assert due_s <= min(waiting.values())

    @invariant()
    def runs_are_counted(self) -> None:
        """The queue knows how many are in flight."""
        assert self.queue.in_flight == len(self.in_flight)


TestQueueModel = QueueModel.TestCase
