"""The checker of lists finds each anomaly where it is planted, and none in what is sound.

In scope: the rules, by hand-made histories of a few transactions, and their speed's order of
magnitude by a long history. Out of scope: that the workload makes such histories; see
tests/integration/faults.
"""

import random

import pytest
from unit.faults.histories import SECOND_NS, lists

from bench.faults.dependencies import Edge
from bench.faults.history import Append, Level, Lists, Read, Result, Step
from bench.faults.list_append import cycle_name, list_append_findings

RC, RR, SER = Level.READ_COMMITTED, Level.REPEATABLE_READ, Level.SERIALIZABLE
Made = list[Lists]


def anomalies(history: Made, level: Level = SER) -> set[str]:
    return {finding.anomaly for finding in list_append_findings(history, level)}


def told(*texts: str, level: Level = SER) -> Made:
    """Transactions that are all concurrent."""
    return [lists(text, level=level, process=n) for n, text in enumerate(texts)]


WRITE_SKEW = ("r x:a1", "x:r a2", "r2 x:r1")
READ_SKEW = ("a1 x:a2", "r x:r2")
LOST_UPDATE = ("r a1", "r a2", "r1,2")
INTERFERENCE = ("a1 x:a2", "a3 x:a4", "r1,3 x:r4,2")
CIRCULAR = ("a1 x:r2", "x:a2 r1")
# Two rw, and never one after the other: two snapshots that see two writers in different orders.
LONG_FORK = ("a1", "x:a2", "r1 x:r", "r x:r2")


@pytest.mark.parametrize("level", Level)
def test_sound_history_has_no_findings(level: Level) -> None:
    history = told("a1", "r1 a2 r1,2", "x:r", "x:a7 r1,2", "r1,2 x:r7", level=level)
    assert anomalies(history, level) == set()


@pytest.mark.parametrize(
    ("texts", "anomaly", "allowed"),
    [
        (INTERFERENCE, "G0", ()),
        (CIRCULAR, "G1c", ()),
        (READ_SKEW, "G-single", (RC,)),
        (LOST_UPDATE, "lost update", (RC,)),
        (LONG_FORK, "G-nonadjacent", (RC,)),
        (WRITE_SKEW, "G2", (RC, RR)),
        (("a1 a2", "r1", "r1,2"), "G1b", ()),
        (("a1", "r9"), "garbage", ()),
        (("a1", "r1,1"), "duplicate", ()),
        (("a1", "a2", "r1,2", "r2"), "incompatible order", ()),
        (("a1", "a2 r1"), "internal", ()),
        (("a1", "r r1"), "internal", (RC,)),
    ],
)
@pytest.mark.parametrize("level", Level)
def test_anomaly_is_found_where_its_level_forbids_it(
    texts: tuple[str, ...], anomaly: str, allowed: tuple[Level, ...], level: Level
) -> None:
    found = anomalies(told(*texts, level=level), level)
    assert (anomaly in found) == (level not in allowed)
    if level in allowed:
        assert found == set()


@pytest.mark.parametrize("level", Level)
def test_value_of_a_failed_transaction_must_not_be_seen(level: Level) -> None:
    history = [lists("a1", result=Result.FAIL, level=level), lists("r1", level=level)]
    assert anomalies(history, level) == {"G1a"}


@pytest.mark.parametrize("text", ["r", "r1"])
def test_unknown_transaction_may_have_happened_or_not(text: str) -> None:
    assert (
        anomalies([lists("a1", at=(0, 1), result=Result.UNKNOWN), lists(text, at=(2, 3))]) == set()
    )


def test_unknown_transaction_has_happened_whole_or_not_at_all() -> None:
    half = lists("a1 x:a2", at=(0, 1), result=Result.UNKNOWN)
    assert anomalies([half, lists("r1 x:r", at=(2, 3))]) == {"G-single"}


def test_unknown_transaction_may_happen_long_after_its_client_gave_up() -> None:
    late = lists("a1", at=(0, 1), result=Result.UNKNOWN)
    assert anomalies([late, lists("r", at=(2, 3)), lists("r1", at=(4, 5))]) == set()


@pytest.mark.parametrize("level", Level)
def test_acknowledged_append_that_is_gone_is_lost(level: Level) -> None:
    history = [lists("a1", at=(0, 1), level=level), lists("r", at=(2, 3), level=level)]
    assert "lost append" in anomalies(history, level)


@pytest.mark.parametrize("level", Level)
def test_acknowledged_append_that_is_seen_only_later_makes_a_stale_read(level: Level) -> None:
    history = [
        lists("a1", at=(0, 1), level=level),
        lists("r", at=(2, 3), level=level),
        lists("r1", at=(4, 5), level=level),
    ]
    findings = list_append_findings(history, level)
    assert "stale read" in {finding.anomaly for finding in findings}
    assert all(finding.is_realtime for finding in findings)


def test_read_that_overlaps_the_append_may_miss_it() -> None:
    assert (
        anomalies([lists("a1", at=(0, 2)), lists("r", at=(1, 3)), lists("r1", at=(4, 5))]) == set()
    )


@pytest.mark.parametrize("level", Level)
def test_writes_in_the_wrong_order_of_time_are_found(level: Level) -> None:
    history = [
        lists("a1", at=(0, 1), level=level),
        lists("a2", at=(2, 3), level=level),
        lists("r2,1", at=(4, 5), level=level),
    ]
    assert anomalies(history, level) == {"G0-realtime"}


def test_cycle_through_many_transactions_is_found_and_told() -> None:
    count = 50
    history = [
        Lists(
            process=n, result=Result.OK, invoke_ns=0, return_ns=SECOND_NS, level=SER,
            steps=(Read((n + 1) % count, ()), Append(n, n)),
        )
        for n in range(count)
    ]  # fmt: skip
    found = list_append_findings(history, SER)
    assert {finding.anomaly for finding in found} == {"G2"}
    assert "more ->" in found[0].text


@pytest.mark.parametrize(
    ("edges", "name"),
    [
        ((Edge.WW, Edge.WW), "G0"),
        ((Edge.WW, Edge.WR), "G1c"),
        ((Edge.RW, Edge.WW, Edge.WR), "G-single"),
        ((Edge.RW, Edge.WW, Edge.RW, Edge.WR), "G-nonadjacent"),
        ((Edge.RW, Edge.WW, Edge.RW), "G2"),
    ],
)
def test_cycle_is_named_by_its_edges(edges: tuple[Edge, ...], name: str) -> None:
    assert cycle_name(edges) == name


def serial_history(count: int, *, seed: int, level: Level) -> Made:
    """Transactions one after the other on one copy of the lists, told by clients that overlap."""
    rng = random.Random(seed)
    state: dict[int, tuple[int, ...]] = {}
    history = []
    for number in range(count):
        steps: list[Step] = []
        for place in range(rng.randint(1, 4)):
            key = number // 100 * 10 + rng.randrange(10)
            if rng.randrange(2):
                steps.append(Read(key, state.get(key, ())))
            else:
                value = number * 4 + place
                state[key] = (*state.get(key, ()), value)
                steps.append(Append(key, value))
        start_ns = number * 10
        history.append(
            Lists(
                process=number % 10,
                result=Result.OK,
                level=level,
                steps=tuple(steps),
                invoke_ns=start_ns - rng.randrange(40),
                return_ns=start_ns + rng.randrange(1, 40),
            )
        )
    return history


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("seed", range(20))
def test_one_copy_is_sound_and_stops_being_so_where_a_read_is_changed(
    seed: int, level: Level
) -> None:
    history = serial_history(300, seed=seed, level=level)
    assert anomalies(history, level) == set()
    rng = random.Random(seed)
    while True:  # until there is a read of a list that somebody else has appended to
        number = rng.randrange(len(history))
        old = next((s for s in history[number].steps if isinstance(s, Read) and s.values), None)
        if old is not None and not any(isinstance(s, Append) for s in history[number].steps):
            break
    changed = Read(old.key, ())
    steps = tuple(changed if s is old else s for s in history[number].steps)
    before = history[number]
    history[number] = Lists(
        process=before.process, result=before.result, invoke_ns=10**9, return_ns=10**9 + 1,
        level=level, steps=steps,
    )  # fmt: skip
    assert anomalies(history, level) & {"stale read", "internal", "lost append"}


def test_long_history_is_judged_whole() -> None:
    """A hundred thousand transactions, with the anomaly at the end: no recursion, no squares."""
    history = serial_history(100_000, seed=1, level=SER)
    last = next(s.key for one in history[::-1] for s in one.steps if isinstance(s, Append))
    history[-1] = Lists(
        process=0, result=Result.OK, invoke_ns=10**9, return_ns=10**9 + 1, level=SER,
        steps=(Read(last, ()),),
    )  # fmt: skip
    found = anomalies(history)
    assert "stale read" in found
    assert any(anomaly.startswith("G-") for anomaly in found)
