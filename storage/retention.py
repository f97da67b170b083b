"""Which cuts of a branch may go. Pure; the keeper of a branch asks now and then.

Point-in-time recovery starts from the newest cut before the moment that is wanted, and replays from
there. So what a kept cut buys is less replay, and the older a moment, the less often it is wanted:

    age up to an hour    every cut
    up to a day          one a minute
    up to the window     one in ten minutes; a week by default
    older                one, the newest: from it the beginning of the window is reached

Time is divided into slots at fixed moments (multiples of the spacing), and of each the oldest cut
stays. Each spacing is a multiple of the one before, so what a coarser one keeps, the finer one has
kept.

Promise: a moment within the window for which there ever was a cut at most X before has a kept cut
at most X + spacing before, where the spacing is that of the moment's age.

Besides, the newest cut always stays, and so do pinned ones: for branches that begin there and for
computes that run on it. A pin at a position keeps the newest cut at or before it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from fabric.ids import CutSeq
from fabric.lsn import Lsn

from .cut import Cut

HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S


@dataclass(frozen=True, slots=True)
class Spacing:
    """Up to an age, cuts may be so far apart; 0: all of them stay."""

    age_s: float
    spacing_s: float


# 360 cuts of the last hour, if there is one every 10 s, 1,380 of the day, 864 of the week.
SPACINGS: Final = (Spacing(HOUR_S, 0), Spacing(DAY_S, 60), Spacing(float("inf"), 600))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """How far back one can go, and how densely cuts are kept."""

    window_s: float = 7 * DAY_S
    spacings: Sequence[Spacing] = SPACINGS

    def __post_init__(self) -> None:
        if self.window_s < 0:
            raise ValueError(f"a window of {self.window_s} s reaches into the future")
        if not self.spacings or self.spacings[-1].age_s < self.window_s:
            raise ValueError("the last spacing has to hold up to the end of the window")
        for near, far in pairwise(self.spacings):
            if near.age_s >= far.age_s or near.spacing_s > far.spacing_s:
                raise ValueError("ages and spacings have to ascend")
            if near.spacing_s and far.spacing_s % near.spacing_s:
                raise ValueError("each spacing is a multiple of the one before")

    def spacing_s(self, age_s: float) -> float:
        """Return how far apart cuts of an age may be."""
        return next(one.spacing_s for one in self.spacings if age_s <= one.age_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What somebody needs, whatever its age."""

    lsns: Collection[Lsn] = ()  # of each the newest cut at or before it
    seqs: Collection[CutSeq] = ()


def cuts_to_drop(
    cuts: Sequence[Cut], *, now_s: float, settings: RetentionSettings, pins: Pins
) -> list[CutSeq]:
    """Return which of a branch's cuts, given ascending, may go."""
    pinned = {*pins.seqs, *_pinned_by_lsn(cuts, pins.lsns)}
    times_s = _ascending_times(cuts, now_s)
    begin_s = now_s - settings.window_s
    base = max((index for index, time_s in enumerate(times_s) if time_s <= begin_s), default=0)
    dropped: list[CutSeq] = []
    kept_s: float | None = None  # of the last one that stays, from where the window begins
    for index, (cut, time_s) in enumerate(zip(cuts, times_s, strict=True)):
        is_newest = index == len(cuts) - 1
        spacing_s = settings.spacing_s(min(now_s - time_s, settings.window_s))
        is_spare = index < base or (kept_s is not None and _same_slot(kept_s, time_s, spacing_s))
        if is_spare and not is_newest and cut.seq not in pinned:
            dropped.append(cut.seq)
        elif index >= base:
            kept_s = time_s
    return dropped


def _same_slot(first_s: float, second_s: float, spacing_s: float) -> bool:
    return bool(spacing_s) and first_s // spacing_s == second_s // spacing_s


def _pinned_by_lsn(cuts: Sequence[Cut], lsns: Collection[Lsn]) -> set[CutSeq]:
    pinned: set[CutSeq] = set()
    for lsn in lsns:
        before = [cut for cut in cuts if cut.lsn <= lsn]
        if before:
            pinned.add(before[-1].seq)
    return pinned


def _ascending_times(cuts: Sequence[Cut], now_s: float) -> list[float]:
    """Return when cuts were taken, as if the clock had never been set back or been ahead."""
    times_s: list[float] = []
    time_s = now_s
    for cut in reversed(cuts):
        time_s = min(time_s, cut.taken_at_s)
        times_s.append(time_s)
    return times_s[::-1]
