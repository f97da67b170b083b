"""The fault queue against a table that lives in a dictionary: answers, limits, order.

In scope: which fetches come of which requests, and who is answered when. Out of scope: sockets and
files (tests/native/test_failures.py).
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sqlnode.faults import (
    PREFETCH_BATCH_BLOCKS,
    PREFETCH_BLOCKS_UNDER_WAY_MAX,
    QUEUED_BLOCKS_HIGH,
    REQUEST,
    REQUEST_BLOCKS_MAX,
    Answer,
    FaultQueue,
    Fetch,
    Kind,
    Request,
    Status,
)
from sqlnode.pagefault.block_map import FILE_BLOCKS_MAX

GENERATION = 2


@dataclass
class Table:
    """Files whose blocks are all MISSING but for those that are `here`."""

    blocks: int = 5000
    here: set[tuple[int, int]] = field(default_factory=set)
    generations: dict[int, int] = field(default_factory=dict)

    def generation(self, number: int) -> int:
        """As of the map."""
        return self.generations.get(number, GENERATION)

    def adopt(self, number: int, first: int, count: int) -> tuple[int, int]:
        """As of the map."""
        end = min(first + count, self.blocks)
        at = first
        while at < end and (number, at) in self.here:
            at += 1
        run = at
        while run < end and (number, run) not in self.here:
            run += 1
        return at - first, run - at


def ask(
    kind: Kind, first: int, blocks: int = 1, *, slot: int = 0, tag: int = 1, generation: int = 2
) -> Request:
    return Request(tag, kind, slot, generation, first, blocks)


def spans(batches: list[list[Fetch]]) -> list[list[tuple[int, int]]]:
    return [[(fetch.first, fetch.count) for fetch in batch] for batch in batches]


def test_fault_is_fetched_alone_and_answered_once() -> None:
    queue = FaultQueue(Table())
    assert queue.add(7, [ask(Kind.FAULT, 4, 2, tag=9)]) == []
    ((fetch,),) = queue.next_fetches()
    assert (fetch.first, fetch.count, fetch.urgent) == (4, 2, True)
    assert queue.next_fetches() == []
    assert queue.finished(fetch, Status.OK) == [Answer(7, 9, Status.OK)]


def test_fault_for_blocks_that_came_meanwhile_is_answered_at_once() -> None:
    queue = FaultQueue(Table(here={(0, 4)}))
    assert queue.add(7, [ask(Kind.FAULT, 4)]) == [Answer(7, 1, Status.OK)]


def test_fault_for_a_file_that_is_gone_or_going_is_answered_gone() -> None:
    queue = FaultQueue(Table(generations={1: 4, 2: 3}))
    answers = queue.add(7, [ask(Kind.FAULT, 4, slot=1), ask(Kind.AGAIN, 4, slot=2, generation=3)])
    assert [answer.status for answer in answers] == [Status.GONE, Status.GONE]


def test_requests_that_make_no_sense_are_refused() -> None:
    queue = FaultQueue(Table(blocks=FILE_BLOCKS_MAX))
    for first, blocks in [(0, 0), (0, REQUEST_BLOCKS_MAX + 1), (FILE_BLOCKS_MAX - 1, 2)]:
        assert queue.add(7, [ask(Kind.FAULT, first, blocks)]) == [Answer(7, 1, Status.REFUSED)]
        assert queue.add(7, [ask(Kind.PREFETCH, first, blocks)]) == []
    assert queue.next_fetches() == []


def test_fault_with_holes_waits_for_all_of_its_fetches_and_gets_the_worst_status() -> None:
    queue = FaultQueue(Table(here={(0, 2), (0, 5)}))
    queue.add(7, [ask(Kind.FAULT, 0, 8)])
    fetches = [fetch for batch in queue.next_fetches() for fetch in batch]
    assert [(fetch.first, fetch.count) for fetch in fetches] == [(0, 2), (3, 2), (6, 2)]
    assert queue.finished(fetches[2], Status.OK) == []
    assert queue.finished(fetches[0], Status.DAMAGED) == []
    assert queue.finished(fetches[1], Status.OK) == [Answer(7, 1, Status.DAMAGED)]


def test_faults_go_before_prefetches() -> None:
    queue = FaultQueue(Table())
    queue.add(7, [ask(Kind.PREFETCH, 100, 10), ask(Kind.PREFETCH, 200, 10), ask(Kind.FAULT, 1)])
    assert spans(queue.next_fetches()) == [[(1, 1)], [(100, 10), (200, 10)]]


def test_asking_again_joins_the_fetch_under_way() -> None:
    queue = FaultQueue(Table())
    queue.add(7, [ask(Kind.FAULT, 0, 10, tag=1)])
    ((fetch,),) = queue.next_fetches()
    assert queue.add(8, [ask(Kind.AGAIN, 3, 2, tag=5)]) == []
    assert queue.next_fetches() == []
    assert queue.finished(fetch, Status.FAILED) == [
        Answer(7, 1, Status.FAILED),
        Answer(8, 5, Status.FAILED),
    ]


def test_asking_again_pulls_a_queued_prefetch_ahead_and_fetches_it_once() -> None:
    queue = FaultQueue(Table())
    queue.add(7, [ask(Kind.PREFETCH, 0, 10), ask(Kind.PREFETCH, 20, 10)])
    queue.add(8, [ask(Kind.AGAIN, 25)])
    assert spans(queue.next_fetches()) == [[(20, 10)], [(0, 10)]]


def test_asking_again_beyond_what_is_under_way_fetches_the_rest() -> None:
    queue = FaultQueue(Table())
    queue.add(7, [ask(Kind.FAULT, 0, 4)])
    queue.next_fetches()
    queue.add(8, [ask(Kind.AGAIN, 2, 4)])
    assert sum(fetch.count for (fetch,) in queue.next_fetches()) >= 2


def test_idle_runs_are_what_no_fetch_is_to_bring() -> None:
    queue = FaultQueue(Table())
    assert list(queue.idle_runs(0, 10, 20)) == [(10, 20)]
    queue.add(1, [ask(Kind.FAULT, 12, 3), ask(Kind.PREFETCH, 25, 10), ask(Kind.FAULT, 5, 6)])
    queue.add(1, [ask(Kind.FAULT, 12, 3, slot=1), ask(Kind.AGAIN, 14, 4)])
    assert list(queue.idle_runs(0, 10, 20)) == [(11, 1), (18, 7)]
    assert list(queue.idle_runs(0, 12, 2)) == []
    for batch in queue.next_fetches():
        for fetch in batch:
            queue.finished(fetch, Status.OK)
    assert list(queue.idle_runs(0, 10, 20)) == [(10, 20)]


def test_prefetches_are_bounded_under_way_and_in_the_queue() -> None:
    queue = FaultQueue(Table(blocks=FILE_BLOCKS_MAX))
    requests = [ask(Kind.PREFETCH, first, 128) for first in range(0, 65536, 128)]
    queue.add(7, requests)
    assert queue.is_congested
    assert not queue.is_relieved
    started = []
    while queue.has_startable:
        started += [fetch for batch in queue.next_fetches() for fetch in batch]
    assert sum(fetch.count for fetch in started) == PREFETCH_BLOCKS_UNDER_WAY_MAX
    fetched = 0
    while started:
        fetch = started.pop()
        fetched += fetch.count
        assert queue.finished(fetch, Status.OK) == []
        for batch in queue.next_fetches():
            assert sum(fetch.count for fetch in batch[:-1]) < PREFETCH_BATCH_BLOCKS
            started.extend(batch)
    assert fetched == 65536
    assert queue.is_relieved


def test_frames_are_as_the_library_writes_them() -> None:
    assert REQUEST.size == 24
    assert QUEUED_BLOCKS_HIGH > PREFETCH_BLOCKS_UNDER_WAY_MAX


class QueueMachine(RuleBasedStateMachine):
    """Any mixture of requests and completions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(blocks=300)
        self.queue = FaultQueue(self.table)
        self.running: list[Fetch] = []
        self.unanswered: set[tuple[int, int]] = set()
        self.last_tag = 0

    def take_answers(self, answers: list[Answer]) -> None:
        """Each was waited for."""
        for answer in answers:
            self.unanswered.remove((answer.client, answer.tag))  # KeyError: answered twice

    @rule(
        kind=st.sampled_from(Kind),
        slot=st.integers(0, 2),
        first=st.integers(0, 310),
        blocks=st.integers(0, 40),
        generation=st.sampled_from([2, 2, 2, 4]),
    )
    def request(self, kind: Kind, slot: int, first: int, blocks: int, generation: int) -> None:
        """Anything, also what makes no sense."""
        self.last_tag += 1
        if kind is not Kind.PREFETCH:
            self.unanswered.add((slot, self.last_tag))
        asked = Request(self.last_tag, kind, slot, generation, first, blocks)
        self.take_answers(self.queue.add(slot, [asked]))

    @rule()
    def start(self) -> None:
        """Whatever may."""
        for batch in self.queue.next_fetches():
            assert batch
            self.running.extend(batch)

    @rule(data=st.data(), status=st.sampled_from([Status.OK, Status.OK, Status.FAILED]))
    def finish(self, data: st.DataObject, status: Status) -> None:
        """Any of those that run."""
        if not self.running:
            return
        fetch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if status is Status.OK:
            blocks = range(fetch.first, fetch.first + fetch.count)
            self.table.here.update((fetch.slot, block) for block in blocks)
        self.take_answers(self.queue.finished(fetch, status))

    @invariant()
    def prefetches_under_way_are_bounded(self) -> None:
        """By the limit."""
        under_way = sum(fetch.count for fetch in self.running if not fetch.urgent)
        assert under_way <= PREFETCH_BLOCKS_UNDER_WAY_MAX

    def teardown(self) -> None:
        """When all fetches have finished, everybody has an answer."""
        while True:
            self.start()
            if not self.running:
                break
            self.take_answers(self.queue.finished(self.running.pop(), Status.OK))
        assert not self.unanswered


TestEveryFaultIsAnsweredOnce = QueueMachine.TestCase
TestEveryFaultIsAnsweredOnce.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
