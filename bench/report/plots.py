"""The plots of a report, each made of trials or comparisons. Pure.

A target has the same colour and shape in all plots of a report: its place in `names`.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from bench.results import figures
from bench.results.comparison import Comparison, rounds_of
from bench.results.record import Trial
from bench.results.statistics import merged, percentile_us, summary

from . import svg
from .svg import CHAR_WIDTH, COLOURS, WIDTH, Scale

LEFT: Final = 64
RIGHT: Final = WIDTH - 16
GAP: Final = 30  # between the legend and what is drawn, for the axis' name
HEIGHT: Final = 220  # of what is drawn in
PERCENTILES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999))
BIN_DECADES: Final = 0.04  # of a latency histogram: 10% wide, wider than any bucket of a result
PANEL: Final = 84
ROW: Final = 22
LABEL_CHARS: Final = 54


def over_time(trials: Sequence[Trial], names: Sequence[str], title: str) -> str:
    """Transactions of each second, one line a target, with what happened marked."""
    lines = {name: representative(trials, name) for name in names}
    shown = {name: trial for name, trial in lines.items() if trial is not None}
    longest = max(len(trial.series) for trial in shown.values())
    highest = max(point.transactions for trial in shown.values() for point in trial.series)
    body, top = _legend(list(shown), names)
    across = Scale(0, max(longest, 1), LEFT, RIGHT)
    up = svg.scale_from_zero(highest, top + GAP + HEIGHT, top + GAP)
    body += _axes(across, up, "seconds", "transactions in each second")
    for name, trial in shown.items():
        series = names.index(name) % COLOURS
        points = [
            (across(at + 0.5), up(point.transactions)) for at, point in enumerate(trial.series)
        ]
        body.append(svg.path(points, f"line s{series}"))
        body += [svg.dot(x, y, names.index(name)) for x, y in points[:: max(1, len(points) // 12)]]
    body += _marks(shown, names, across, up)
    return svg.picture(up.start + 40, title, body)


def latencies(trials: Sequence[Trial], names: Sequence[str], title: str) -> str:
    """One panel a target: how its latencies are distributed, and where its percentiles are."""
    histograms = {
        name: merged(trial.histogram for trial in trials if trial.target == name) for name in names
    }
    shown = {name: found for name, found in histograms.items() if any(n for _, n in found)}
    uppers_ms = [upper / 1000 for found in shown.values() for upper, count in found if count]
    across = svg.log_scale(uppers_ms, LEFT, RIGHT)
    body: list[str] = []
    for at, (name, found) in enumerate(shown.items()):
        body += _panel(found, name, names.index(name), across, 28 + at * PANEL)
    bottom = 20 + len(shown) * PANEL
    body += _bottom(across, bottom, 20, "milliseconds")
    return svg.picture(bottom + 40, title, body)


def scaling(trials: Sequence[Trial], names: Sequence[str], figure: str, title: str) -> str:
    """Clients against the median of a figure, with the middle half of its rounds as bars."""
    body, top = _legend({trial.target for trial in trials}, names)
    counts = sorted({trial.clients for trial in trials})
    highest = max(trial.figures.get(figure, 0) for trial in trials)
    across = Scale(-0.3, len(counts) - 0.7, LEFT, RIGHT)
    up = svg.scale_from_zero(highest, top + GAP + HEIGHT, top + GAP)
    labels = {float(at): f"{count}" for at, count in enumerate(counts)}
    body += _axes(across, up, "clients", figure, labels=labels)
    for series, name in enumerate(names):
        points = []
        for at, count in enumerate(counts):
            beside = [trial for trial in trials if trial.clients == count]
            rounds = list(rounds_of(beside, name, figure).values())
            if not rounds:
                continue
            told = summary(rounds)
            x = across(at) + 5 * (series - (len(names) - 1) / 2)  # so that bars do not hide bars
            points.append((x, up(told.median)))
            body.append(_spread_up(x, up(told.low), up(told.high), series))
            body.append(svg.dot(x, up(told.median), series, f"{name} {told.median:g}"))
        if points:
            body.append(svg.path(points, f"line s{series % COLOURS}"))
    return svg.picture(up.start + 40, title, body)


def ratios(comparisons: Sequence[Comparison], names: Sequence[str], title: str) -> str:
    """Bars from 1 to the median ratio, with the middle half of the rounds' ratios."""
    labels = [f"{one.setting.title}: {one.target} / {one.peer}" for one in comparisons]
    left = _label_width(labels)
    spreads = [summary(one.ratios) for one in comparisons]
    edges = [edge for told in spreads for edge in (told.low, told.high, told.median)]
    across = svg.log_scale([1.0, *_drawable(edges)], left, RIGHT)
    bottom = 16 + ROW * len(comparisons)
    body = _bottom(across, bottom, 8, f"{comparisons[0].figure}, as many times the peer's")
    for at, (one, told, label) in enumerate(zip(comparisons, spreads, labels, strict=True)):
        y = 16 + ROW * at
        series = names.index(one.target)
        body.append(svg.text(left - 8, y + 14, _short(label), "end"))
        low, high = sorted((across(1.0), across(told.median)))
        body.append(svg.box(low, y + 3, max(high - low, 1), ROW - 8, f"bar f{series % COLOURS}"))
        middle = y + ROW / 2 - 1
        body.append(svg.line(across(told.low), middle, across(told.high), middle, "axis spread"))
        body.append(svg.dot(across(told.median), middle, series, f"{told.median:.3f}"))
    body.append(svg.line(across(1.0), 8, across(1.0), bottom, "axis"))
    return svg.picture(bottom + 40, title, body)


def strips(trials: Sequence[Trial], names: Sequence[str], figure: str, title: str) -> str:
    """One row for each workload and target: a point a round, and a bar at the median.

    The values lie on a logarithmic scale across, because the names of rows need the room.
    """
    rows = [
        (f"{workload}: {name}", name, values)
        for workload in dict.fromkeys(trial.workload for trial in trials)
        for name in names
        if (values := _values(trials, workload, name, figure))
    ]
    left = _label_width([label for label, _, _ in rows])
    across = svg.log_scale([value for _, _, values in rows for value in values], left, RIGHT)
    bottom = 16 + ROW * len(rows)
    body = _bottom(across, bottom, 8, figure)
    for at, (label, name, values) in enumerate(rows):
        y = 16 + ROW * at + ROW / 2
        series = names.index(name)
        body.append(svg.text(left - 8, y + 4, _short(label), "end"))
        body += [svg.dot(across(value), y, series, figures.printed(value)) for value in values]
        middle = across(statistics.median(values))
        body.append(svg.line(middle, y - 9, middle, y + 9, "axis spread"))
    return svg.picture(bottom + 40, title, body)


def representative(trials: Sequence[Trial], name: str) -> Trial | None:
    """The round of a target with a series whose transactions are in the middle."""
    found = sorted(
        (trial for trial in trials if trial.target == name and trial.series),
        key=lambda trial: (sum(point.transactions for point in trial.series), trial.round),
    )
    return found[(len(found) - 1) // 2] if found else None


def _marks(shown: Mapping[str, Trial], names: Sequence[str], across: Scale, up: Scale) -> list[str]:
    body = []
    for name, trial in shown.items():
        series = names.index(name)
        for mark in trial.marks:
            x = across(mark.at_seconds)
            body.append(svg.line(x, up.end, x, up.start, f"mark s{series % COLOURS}"))
            y = up.end + 10 + 13 * (series % 6)
            kind = "end" if x > (LEFT + RIGHT) / 2 else ""
            body.append(svg.text(x - 4 if kind else x + 4, y, _short(mark.text), kind))
    return body


def _legend(shown: Collection[str], names: Sequence[str]) -> tuple[list[str], float]:
    entries = [(at, _short(name)) for at, name in enumerate(names) if name in shown]
    return svg.legend(entries, LEFT, 16)


def _panel(
    histogram: Sequence[tuple[int, int]], name: str, series: int, across: Scale, top: float
) -> list[str]:
    height = PANEL - 34
    base = top + PANEL - 12
    bins: dict[int, int] = {}
    for upper_us, count in histogram:
        at = math.floor(math.log10(max(upper_us, 1) / 1000) / BIN_DECADES)
        bins[at] = bins.get(at, 0) + count
    highest = max(bins.values())
    points: list[tuple[float, float]] = []
    for at in range(min(bins), max(bins) + 1):
        y = base - height * bins.get(at, 0) / highest
        edges = (10 ** (at * BIN_DECADES), 10 ** ((at + 1) * BIN_DECADES))
        points += [(across(edge), y) for edge in edges]
    points = [(points[0][0], base), *points, (points[-1][0], base)]
    kind = series % COLOURS
    body = [
        svg.path(points, f"area s{kind} f{kind}", is_closed=True),
        svg.line(LEFT, base, RIGHT, base, "axis"),
    ]
    told = []
    for label, share in PERCENTILES:
        value_ms = percentile_us(histogram, share) / 1000
        x = across(value_ms)
        body.append(svg.line(x, base - height, x, base + 4, f"mark s{kind}"))
        told.append(f"{label} {figures.printed(value_ms)}")
    body += [
        svg.dot(LEFT + 4, top - 4, series),
        svg.text(LEFT + 14, top, f"{_short(name)}: {', '.join(told)}"),
    ]
    return body


def _axes(
    across: Scale,
    up: Scale,
    across_name: str,
    up_name: str,
    *,
    labels: Mapping[float, str] | None = None,
) -> list[str]:
    body = []
    for value in up.ticks():
        body.append(svg.line(across.start, up(value), across.end, up(value), "grid"))
        body.append(svg.text(across.start - 6, up(value) + 4, svg.tick_label(value), "end"))
    if labels is None:
        labels = {value: svg.tick_label(value) for value in across.ticks()}
    for value, label in labels.items():
        body.append(svg.text(across(value), up.start + 16, label, "middle"))
    body += [
        svg.line(across.start, up.start, across.end, up.start, "axis"),
        svg.text((across.start + across.end) / 2, up.start + 32, across_name, "middle"),
        svg.text(across.start, up.end - 4, up_name),
    ]
    return body


def _bottom(across: Scale, bottom: float, top: float, name: str) -> list[str]:
    """An axis across below everything, with lines up."""
    body = []
    for value in across.ticks():
        x = across(value)
        body.append(svg.line(x, top, x, bottom, "grid"))
        body.append(svg.text(x, bottom + 16, svg.tick_label(value), "middle"))
    body += [
        svg.line(across.start, bottom, across.end, bottom, "axis"),
        svg.text((across.start + across.end) / 2, bottom + 32, name, "middle"),
    ]
    return body


def _spread_up(x: float, low: float, high: float, series: int) -> str:
    return svg.line(x, low, x, high, f"spread s{series % COLOURS}")


def _values(trials: Sequence[Trial], workload: str, name: str, figure: str) -> list[float]:
    beside = [trial for trial in trials if trial.workload == workload]
    return [
        trial.figures[figure]
        for trial in beside
        if trial.target == name and figure in trial.figures
    ]


def _drawable(values: Sequence[float]) -> list[float]:
    """Ratios that stand for "none" would leave no room for the others."""
    return [min(max(value, 1e-3), 1e3) for value in values]


def _label_width(labels: Sequence[str]) -> float:
    return 24 + CHAR_WIDTH * max(len(_short(label)) for label in labels)


def _short(label: str) -> str:
    return label if len(label) <= LABEL_CHARS else label[: LABEL_CHARS - 1] + "…"
