"""Which cuts are kept: by age, the newest, and what is pinned.

In scope: all of storage/retention.py, over random histories and clocks. Out of scope: dropping.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.ids import CutSeq
from fabric.lsn import Lsn, Tli
from storage.cut import Cut
from storage.retention import DAY_S, HOUR_S, Pins, RetentionSettings, Spacing, cuts_to_drop

DEFAULT = RetentionSettings()
NO_PINS = Pins()
NOW_S = 1_800_000_000.0


def cuts_at(times_s: list[float]) -> list[Cut]:
    return [
        Cut(seq=CutSeq(n), tli=Tli(1), lsn=Lsn(n * 100), redo=Lsn(n * 100), taken_at_s=time_s)
        for n, time_s in enumerate(times_s, 1)
    ]


def kept(cuts: list[Cut], now_s: float, pins: Pins = NO_PINS) -> list[Cut]:
    gone = cuts_to_drop(cuts, now_s=now_s, settings=DEFAULT, pins=pins)
    assert gone == sorted(set(gone))
    left = set(gone)
    return [cut for cut in cuts if cut.seq not in left]


ages = st.lists(st.floats(0, 9 * DAY_S), max_size=60).map(lambda found: sorted(found, reverse=True))
dense = st.tuples(st.floats(0, 8 * DAY_S), st.integers(1, 120), st.floats(1, 90)).map(
    lambda found: [found[0] + found[2] * n for n in reversed(range(found[1]))]
)
histories = (ages | dense).map(lambda found: cuts_at([NOW_S - age for age in found]))
moments = st.floats(0, 7 * DAY_S)
bounded = settings(max_examples=150, deadline=None)


@bounded
@given(histories, moments)
def test_a_moment_of_the_window_stays_as_near_to_a_cut_as_its_age_demands(
    cuts: list[Cut], age_s: float
) -> None:
    moment_s = NOW_S - age_s
    before = [cut for cut in cuts if cut.taken_at_s <= moment_s]
    if before:
        start_s = max(cut.taken_at_s for cut in kept(cuts, NOW_S) if cut.taken_at_s <= moment_s)
        lost_s = before[-1].taken_at_s - start_s
        spacing_s = DEFAULT.spacing_s(NOW_S - before[-1].taken_at_s)
        assert lost_s < spacing_s or lost_s == 0


@bounded
@given(histories, st.lists(st.floats(0, 2 * DAY_S), max_size=5), moments)
def test_the_promise_holds_after_many_rounds_of_dropping(
    cuts: list[Cut], pauses_s: list[float], age_s: float
) -> None:
    now_s, left = NOW_S, cuts
    for pause_s in pauses_s:
        left = kept(left, now_s)
        now_s += pause_s
    left = kept(left, now_s)
    before = [cut for cut in cuts if cut.taken_at_s <= now_s - age_s]
    if before:
        nearest_s = max(cut.taken_at_s for cut in left if cut.taken_at_s <= now_s - age_s)
        assert before[-1].taken_at_s - nearest_s <= 600


@bounded
@given(histories)
def test_dropping_twice_drops_nothing_more(cuts: list[Cut]) -> None:
    left = kept(cuts, NOW_S)
    assert kept(left, NOW_S) == left


@bounded
@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30),
    st.floats(-1e12, 1e12),
    st.lists(st.integers(0, 4000), max_size=4),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_the_newest_and_what_is_pinned_stays_whatever_the_clocks_say(
    times_s: list[float], now_s: float, lsns: list[int], seqs: list[int]
) -> None:
    cuts = cuts_at(times_s)
    pins = Pins(lsns=[Lsn(lsn) for lsn in lsns], seqs=[CutSeq(seq) for seq in seqs])
    left = kept(cuts, now_s, pins)
    assert cuts[-1] in left
    assert all(cut in left for cut in cuts if cut.seq in seqs)
    for lsn in lsns:
        assert [cut for cut in cuts if cut.lsn <= lsn][-1:] == [
            cut for cut in left if cut.lsn <= lsn
        ][-1:]


def test_a_week_of_cuts_every_ten_seconds_becomes_some_thousands() -> None:
    cuts = cuts_at([NOW_S - 10.0 * n for n in reversed(range(int(8 * DAY_S / 10)))])
    left = kept(cuts, NOW_S)
    young = [cut for cut in left if cut.taken_at_s >= NOW_S - HOUR_S]
    day = [cut for cut in left if HOUR_S < NOW_S - cut.taken_at_s <= DAY_S]
    assert len(young) == 361
    assert 1380 <= len(day) <= 1382
    assert len(left) - len(young) - len(day) == pytest.approx(6 * 144, abs=2)
    assert NOW_S - left[0].taken_at_s == pytest.approx(7 * DAY_S, abs=10)


def test_a_quiet_branch_keeps_the_cut_that_the_window_begins_with() -> None:
    cuts = cuts_at([NOW_S - age * DAY_S for age in (300, 200, 100)] + [NOW_S - 60])
    assert [cut.seq for cut in kept(cuts, NOW_S)] == [3, 4]


def test_a_clock_that_was_ahead_for_a_while_costs_no_cut_of_the_last_hour() -> None:
    times_s = [NOW_S - 300, NOW_S + 30 * DAY_S, NOW_S + 31 * DAY_S, NOW_S - 200, NOW_S - 100]
    assert len(kept(cuts_at(times_s), NOW_S)) == 5


def test_no_cuts_are_no_problem() -> None:
    assert cuts_to_drop([], now_s=NOW_S, settings=DEFAULT, pins=Pins(lsns=[Lsn(5)])) == []


@pytest.mark.parametrize(
    ("window_s", "spacings"),
    [
        (-1.0, DEFAULT.spacings),
        (DAY_S, ()),
        (DAY_S, (Spacing(HOUR_S, 0),)),
        (HOUR_S, (Spacing(HOUR_S, 60), Spacing(DAY_S, 90))),
        (HOUR_S, (Spacing(HOUR_S, 60), Spacing(DAY_S, 0))),
        (HOUR_S, (Spacing(DAY_S, 0), Spacing(HOUR_S, 60))),
    ],
)
def test_settings_that_keep_no_promise_are_refused(
    window_s: float, spacings: tuple[Spacing, ...]
) -> None:
    with pytest.raises(ValueError, match=r"window|spacing|ages"):
        RetentionSettings(window_s=window_s, spacings=spacings)
