"""Targets of one run beside each other, or two runs of the same targets. Pure.

Within a run every Seawall is held against every peer, round by round. Between two files the same
target is held against itself. A comparison during which the machine was too noisy has a refusal,
and is printed only by somebody who says that it may.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from . import figures
from .noise import Noise, judge
from .record import ResultSet, Trial
from .statistics import (
    ALPHA,
    RATIO_MAX,
    Difference,
    Summary,
    paired_difference,
    ratio,
    ratios_by_round,
    summary,
    unpaired_difference,
)

OURS: Final = "seawall"  # what the names of our own targets begin with
PERCENT_RATIO_MAX: Final = 2.0  # beyond it people say "three times", not "200%"

Rounds = dict[int, float]


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """What was done to all targets alike."""

    part: str
    workload: str
    clients: int

    @property
    def title(self) -> str:
        """As in `tpcb, 8 clients`."""
        if not self.clients:
            return self.workload
        return f"{self.workload}, {self.clients} client{'s' if self.clients != 1 else ''}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one target beside another's."""

    setting: Setting
    figure: str
    target: str
    peer: str  # or the same target in the other file
    value: Summary
    peer_value: Summary
    means: tuple[float, float]  # over all rounds, the target's first
    ratios: tuple[float, ...]  # a round each; none between files
    difference: Difference
    noise: Noise

    @property
    def ratio(self) -> float:
        """The median ratio; of what should not happen at all, that of the averages."""
        if figures.is_count(self.figure):
            return ratio(*self.means)
        return self.difference.ratio

    @property
    def is_worse(self) -> bool:
        """Whether the target's ratio to its peer is on the wrong side of 1."""
        return figures.direction(self.figure) * (self.ratio - 1) < 0

    @property
    def badness(self) -> float:
        """How many times worse, at least 1; to sort by."""
        return max(self.ratio, 1 / self.ratio) if self.is_worse else 1.0

    @property
    def words(self) -> str:
        """What may be said about it."""
        if figures.is_count(self.figure):
            mine, other = (figures.printed(mean) for mean in self.means)
            chance = "" if self.difference.is_seen else "; no difference seen"
            return f"{mine} a round on average against {other} ({_p(self.difference)}{chance})"
        return words(self.difference, figures.direction(self.figure))


def settings_of(trials: Iterable[Trial]) -> list[Setting]:
    """What was done, in the order in which it was done first."""
    return list(dict.fromkeys(setting_of(trial) for trial in trials))


def setting_of(trial: Trial) -> Setting:
    """What was done in it."""
    return Setting(trial.part, trial.workload, trial.clients)


def targets_of(trials: Iterable[Trial]) -> list[str]:
    """Who was measured, ours first, in the order in which they were measured first."""
    names = dict.fromkeys(trial.target for trial in trials)
    return sorted(names, key=lambda name: not is_ours(name))


def figures_of(trials: Iterable[Trial]) -> list[str]:
    """What was measured, the leading figures first."""
    return sorted({name for trial in trials for name in trial.figures}, key=figures.order)


def is_ours(target: str) -> bool:
    """Whether it is a Seawall."""
    return target.startswith(OURS)


def pairs(targets: Sequence[str]) -> list[tuple[str, str]]:
    """Who is held against whom: each of ours against each peer; without either, all against one."""
    ours = [name for name in targets if is_ours(name)]
    peers = [name for name in targets if not is_ours(name)]
    if ours and peers:
        return [(mine, peer) for mine in ours for peer in peers]
    return [(name, targets[0]) for name in targets[1:]]


def rounds_of(trials: Iterable[Trial], target: str, name: str) -> Rounds:
    """One figure of one target, by round."""
    return {
        trial.round: trial.figures[name]
        for trial in trials
        if trial.target == target and name in trial.figures
    }


def within(result: ResultSet) -> list[Comparison]:
    """Every comparison that the rounds of one run allow."""
    found = []
    for setting in settings_of(result.trials):
        trials = [trial for trial in result.trials if setting_of(trial) == setting]
        for name in figures_of(trials):
            for target, peer in pairs(targets_of(trials)):
                seen = [trial for trial in trials if trial.target in (target, peer)]
                noise = judge(seen, result.machine.get("cores"))
                one = _paired(setting, name, (target, peer), seen, noise)
                found += [one] if one is not None else []
    return found


def between(first: ResultSet, second: ResultSet) -> list[Comparison]:
    """What of the first run is otherwise in the second: ratios are the second's by the first's."""
    found = []
    before = settings_of(first.trials)
    for setting in [one for one in settings_of(second.trials) if one in before]:
        old = [trial for trial in first.trials if setting_of(trial) == setting]
        new = [trial for trial in second.trials if setting_of(trial) == setting]
        for name in figures_of(new):
            for target in targets_of(new):
                one = _unpaired(setting, name, target, (old, first), (new, second))
                found += [one] if one is not None else []
    return found


def losses(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Where a Seawall is behind a peer, the worst first; refused comparisons are not among them."""
    behind = [
        one for one in comparisons if one.is_worse and is_ours(one.target) and not is_ours(one.peer)
    ]
    return sorted(behind, key=lambda one: (-one.badness, one.setting, one.figure, one.target))


def words(difference: Difference, direction: int) -> str:
    """As in `better by 12% (8 to 15%, p=0.031)`."""
    if not difference.is_seen:
        size = size_of(difference)
        if difference.is_too_short:
            return f"no difference seen (rounds too few: {difference.rounds_needed} needed): {size}"
        return f"no difference seen: {size}"
    is_more = difference.ratio > 1
    if direction:
        word = "better" if is_more == (direction > 0) else "worse"
    else:
        word = "more" if is_more else "less"
    if not 1 / PERCENT_RATIO_MAX <= difference.ratio <= PERCENT_RATIO_MAX:
        return f"{word}: {size_of(difference)}"
    percent = f"{_percent(difference.ratio):.1f}%"
    if difference.interval is None:
        return f"{word} by {percent} ({_p(difference)})"
    # Seen to be different by ranks, but the interval may reach across 1 where rounds are tied.
    low, high = sorted(_towards(edge, is_more=is_more) for edge in difference.interval)
    return f"{word} by {percent} ({low:.1f} to {high:.1f}%, {_p(difference)})"


def size_of(difference: Difference) -> str:
    """The ratio with its interval and p."""
    told = f"ratio {figures.printed_ratio(difference.ratio)}"
    if difference.interval is None:
        return f"{told} ({_p(difference)})"
    low, high = (figures.printed_ratio(edge) for edge in difference.interval)
    return f"{told} ({low} to {high}, {_p(difference)})"


def summary_text(value: Summary) -> str:
    """The median and where the middle half lies."""
    low, high = figures.printed(value.low), figures.printed(value.high)
    return f"{figures.printed(value.median)} ({low} to {high})"


def heads(first: ResultSet, second: ResultSet, *, names: tuple[str, str]) -> list[str]:
    """What two files are, and why one might not say much about the other."""
    found = [
        f"{name}: commit {one.commit}, started {one.started_at}, seed {one.seed}"
        + (", quick" if one.is_quick else "")
        for name, one in zip(names, (first, second), strict=True)
    ]
    for fact in ("cpu", "cores", "memory_mib", "kernel"):
        old, new = (one.machine.get(fact) for one in (first, second))
        if old != new:
            found.append(f"The machines differ, and so may all figures: {fact} {old} and {new}.")
    for setting in settings_of(second.trials):
        old, new = (
            [trial.settings for trial in one.trials if setting_of(trial) == setting][:1]
            for one in (first, second)
        )
        if old and old != new:
            found.append(f"{setting.part} {setting.title} was not done with the same settings.")
    return found


def printed(
    comparisons: Sequence[Comparison], *, names: tuple[str, str], is_noise_allowed: bool
) -> list[str]:
    """Lines for a terminal; what is refused for its noise is one line with the reason."""
    lines: list[str] = []
    last: Setting | None = None
    refused: set[Setting] = set()
    for one in comparisons:
        if one.setting != last:
            lines.append(f"{one.setting.part} {one.setting.title}")
            last = one.setting
        if one.noise.is_too_much and not is_noise_allowed:
            if one.setting not in refused:
                lines.append(f"  {one.noise.refusal}")
                refused.add(one.setting)
            continue
        lines.append(_line(one, names))
    return [*lines, *_caution(comparisons)]


def _caution(comparisons: Sequence[Comparison]) -> list[str]:
    number = len(comparisons)
    by_chance = number * ALPHA
    if by_chance < 1:
        return []
    return [f"Of {number} comparisons, about {by_chance:.0f} seem different by chance alone."]


def _line(one: Comparison, names: tuple[str, str]) -> str:
    who = one.target if one.target == one.peer else f"{one.target} / {one.peer}"
    mine, other = (summary_text(value) for value in (one.value, one.peer_value))
    if one.target == one.peer:
        mine, other = f"{names[1]} {mine}", f"{names[0]} {other}"
    rounds = " ".join(figures.printed_ratio(each) for each in one.ratios)
    told = f"; rounds {rounds}" if rounds and not figures.is_count(one.figure) else ""
    noisy = " [noisy]" if one.noise.is_too_much else ""
    return f"  {who}, {one.figure}: {mine}; {other}; {one.words}{told}{noisy}"


def _paired(
    setting: Setting, name: str, pair: tuple[str, str], trials: Sequence[Trial], noise: Noise
) -> Comparison | None:
    target, peer = pair
    mine, others = rounds_of(trials, target, name), rounds_of(trials, peer, name)
    ratios = tuple(ratios_by_round(_not_negative(mine), _not_negative(others)).values())
    if not ratios:
        return None
    return Comparison(
        setting,
        name,
        target,
        peer,
        summary(list(mine.values())),
        summary(list(others.values())),
        (fmean(mine.values()), fmean(others.values())),
        ratios,
        paired_difference(ratios),
        noise,
    )


def _unpaired(
    setting: Setting,
    name: str,
    target: str,
    old: tuple[Sequence[Trial], ResultSet],
    new: tuple[Sequence[Trial], ResultSet],
) -> Comparison | None:
    before, after = (
        list(_not_negative(rounds_of(trials, target, name)).values()) for trials, _ in (old, new)
    )
    if not before or not after:
        return None
    # Each machine has its own limit; the stricter of two judgements counts.
    judged = [
        judge([one for one in trials if one.target == target], result.machine.get("cores"))
        for trials, result in (old, new)
    ]
    return Comparison(
        setting,
        name,
        target,
        target,
        summary(after),
        summary(before),
        (fmean(after), fmean(before)),
        (),
        unpaired_difference(after, before),
        max(judged, key=lambda noise: (noise.is_too_much, noise.worst_cores)),
    )


def _not_negative(rounds: Rounds) -> Rounds:
    """There is no ratio of what is below 0."""
    return {at: value for at, value in rounds.items() if 0 <= value < RATIO_MAX * RATIO_MAX}


def _percent(times: float) -> float:
    return abs(times - 1) * 100


def _towards(times: float, *, is_more: bool) -> float:
    """Percent in the direction that is spoken of."""
    return (times - 1) * 100 if is_more else (1 - times) * 100


def _p(difference: Difference) -> str:
    return "p<0.001" if difference.p < 0.001 else f"p={difference.p:.3f}"  # noqa: PLR2004  # three digits
