"""What a report says of one part: its plots, its medians, its ratios a round. Pure."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from bench.results import figures
from bench.results.comparison import (
    Comparison,
    Setting,
    figures_of,
    rounds_of,
    setting_of,
    settings_of,
    summary_text,
    targets_of,
)
from bench.results.record import ResultSet, Trial
from bench.results.statistics import summary

from . import plots
from .content import Block, Heading, Paragraph, Picture, Table

COLUMNS_MAX: Final = 5  # figures beside each other; more do not fit a page
ROUNDS_MAX: Final = 12  # ratios told one by one


def part_blocks(result: ResultSet, part: str, comparisons: Sequence[Comparison]) -> Iterator[Block]:
    """All of one part; of comparisons only those that may be printed."""
    trials = [trial for trial in result.trials if trial.part == part]
    names = targets_of(result.trials)
    mine = [one for one in comparisons if one.setting.part == part]
    yield Heading(part)
    yield from _pictures(part, trials, names, mine)
    for setting in settings_of(trials):
        beside = [trial for trial in trials if setting_of(trial) == setting]
        yield Heading(f"{part}: {setting.title}", level=3)
        yield from _medians(beside)
        yield from _ratios([one for one in mine if one.setting == setting])
        yield from _of_setting(setting, beside, names)


def _pictures(
    part: str, trials: Sequence[Trial], names: Sequence[str], mine: Sequence[Comparison]
) -> Iterator[Picture]:
    for name in (name for name in figures_of(trials) if figures.is_leading(name)):
        yield from _comparison_bars(part, name, names, mine)
        if name == "gap_seconds":
            yield _gaps(part, trials, names, name)
    yield from _scaling(part, trials, names)


def _comparison_bars(
    part: str, figure: str, names: Sequence[str], mine: Sequence[Comparison]
) -> Iterator[Picture]:
    shown = [one for one in mine if one.figure == figure]
    if not shown:
        return
    better = "more" if figures.direction(figure) > 0 else "less"
    caption = (
        f"{part}: {figure} as many times the peer's, {better} is better; the line through a bar is"
        " the middle half of the rounds."
    )
    yield Picture(_slug(part, "ratio", figure), plots.ratios(shown, names, caption), caption)


def _gaps(part: str, trials: Sequence[Trial], names: Sequence[str], figure: str) -> Picture:
    beside = [trial for trial in trials if figure in trial.figures]
    caption = (
        f"{part}: the longest time without an acknowledged write; a point a round, a bar at the"
        " median, on a logarithmic scale."
    )
    return Picture(_slug(part, "gaps"), plots.strips(beside, names, figure, caption), caption)


def _scaling(part: str, trials: Sequence[Trial], names: Sequence[str]) -> Iterator[Picture]:
    for workload in dict.fromkeys(trial.workload for trial in trials):
        beside = [
            trial for trial in trials if trial.workload == workload and "tps" in trial.figures
        ]
        if len({trial.clients for trial in beside}) > 1:
            caption = (
                f"{part}: {workload}, transactions a second by clients; medians, and bars for the"
                " middle half of the rounds."
            )
            svg = plots.scaling(beside, names, "tps", caption)
            yield Picture(_slug(part, workload, "scaling"), svg, caption)


def _of_setting(
    setting: Setting, trials: Sequence[Trial], names: Sequence[str]
) -> Iterator[Picture]:
    place = (setting.part, setting.workload, *((str(setting.clients),) if setting.clients else ()))
    if any(trial.series for trial in trials):
        told = ", what happened marked" if any(trial.marks for trial in trials) else ""
        caption = (
            f"{setting.part}: {setting.title}, transactions in each second{told}; of each target"
            " the round in the middle."
        )
        svg = plots.over_time(trials, names, caption)
        yield Picture(_slug(*place, "time"), svg, caption)
    if any(count for trial in trials for _, count in trial.histogram):
        caption = (
            f"{setting.part}: {setting.title}, latencies of all rounds; the lines are p50, p95, p99"
            " and p99.9, from left to right."
        )
        svg = plots.latencies(trials, names, caption)
        yield Picture(_slug(*place, "latency"), svg, caption)


def _medians(trials: Sequence[Trial]) -> Iterator[Table]:
    names = figures_of(trials)
    for start in range(0, len(names), COLUMNS_MAX):
        shown = names[start : start + COLUMNS_MAX]
        rows = []
        for target in targets_of(trials):
            found = [list(rounds_of(trials, target, name).values()) for name in shown]
            cells = [summary_text(summary(values)) if values else "-" for values in found]
            rounds = max(len(values) for values in found)
            if rounds:
                rows.append((target, *cells, str(rounds)))
        numbers = frozenset(range(1, len(shown) + 2))
        yield Table(("target", *shown, "rounds"), rows, numbers)


def _ratios(mine: Sequence[Comparison]) -> Iterator[Block]:
    shown = [one for one in mine if figures.is_leading(one.figure)] or list(mine)[:COLUMNS_MAX]
    if not shown:
        return
    rows = [
        (f"{one.target} / {one.peer}", one.figure, one.words, _told(one.ratios)) for one in shown
    ]
    yield Table(("ratio", "figure", "what may be said", "rounds"), rows)
    if any(one.noise.is_too_much for one in shown):
        yield Paragraph(f"Noisy: {shown[0].noise.sentence}")


def _told(ratios: Sequence[float]) -> str:
    told = " ".join(figures.printed_ratio(ratio) for ratio in ratios[:ROUNDS_MAX])
    more = len(ratios) - ROUNDS_MAX
    return f"{told} and {more} more" if more > 0 else told


def _slug(*words: str) -> str:
    """A name for a file, of whatever the words are."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") or "x" for word in words)
