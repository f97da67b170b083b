"""A picture of a run: operations, latencies, what was broken when, who was the primary. Pure.

SVG of a few thousand elements, written by hand; opens in every browser.

    rate       acknowledged operations in each quarter of a second; unknown and failed ones above
    latency    median and slowest of the same, on a logarithmic scale
    faults     one row a component: lasting faults as bars, kills as marks
    red        nothing was acknowledged
    dashed     the first operation that another primary, or the same in another epoch, acknowledged
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from .history import Operation, Result
from .nemesis import Happening

BIN_S: Final = 0.25
GAP_S: Final = 0.5  # a pause that is shown
LEFT, WIDTH, MARGIN = 150, 1150, 20
RATE_HEIGHT, LATENCY_HEIGHT, ROW_HEIGHT, SPACE = 160, 140, 18, 40
LATENCY_MS: Final = (0.1, 10_000.0)
TICKS_MAX: Final = 20
COLOURS: Final = {
    "kill": "#c0392b",
    "delete": "#6c3483",
    "pause": "#d68910",
    "cut": "#2471a3",
    "cut there": "#5499c7",
    "cut back": "#7fb3d5",
    "slow": "#a9cce3",
    "fill": "#839192",
}
RESULT_COLOURS: Final = {
    Result.OK: "#27ae60",
    Result.UNKNOWN: "#e67e22",
    Result.FAIL: "#b2babb",
}


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without any acknowledgement."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """How long it was."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Primary:
    """Whose first acknowledgement came when."""

    server: str
    first_ns: int


def gaps(operations: Sequence[Operation], *, at_least_s: float = GAP_S) -> list[Gap]:
    """Pauses between acknowledgements."""
    times = sorted(one.return_ns for one in operations if one.result is Result.OK)
    found = [Gap(a, b) for a, b in itertools.pairwise(times)]
    return [gap for gap in found if gap.seconds >= at_least_s]


def primaries(operations: Sequence[Operation]) -> list[Primary]:
    """All servers that acknowledged something, in order."""
    first: dict[str, int] = {}
    for one in operations:
        if one.result is Result.OK:
            first[one.server] = min(first.get(one.server, one.return_ns), one.return_ns)
    return sorted((Primary(s, at) for s, at in first.items()), key=lambda p: p.first_ns)


def timeline_svg(
    operations: Sequence[Operation],
    happenings: Sequence[Happening],
    *,
    start_ns: int,
    end_ns: int,
    title: str,
) -> str:
    """The whole picture."""
    scale = _Scale(start_ns, max(end_ns, start_ns + 1))
    names = sorted({(h.kind, h.name) for h in happenings})
    faults_top = MARGIN + RATE_HEIGHT + LATENCY_HEIGHT + 2 * SPACE
    bottom = faults_top + ROW_HEIGHT * len(names)
    body = [
        _text(LEFT, MARGIN - 5, title, size=13),
        *(_gap(scale, gap, bottom) for gap in gaps(operations)),
        *_rates(scale, operations),
        *_latencies(scale, operations),
        *_faults(scale, happenings, names, faults_top),
        *(_primary(scale, primary, bottom) for primary in primaries(operations)),
        *_seconds(scale, bottom + 15),
    ]
    height = bottom + SPACE
    total = LEFT + WIDTH + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" '
            f'width="{total}" height="{height}" font-family="sans-serif">',
            f'<rect width="{total}" height="{height}" fill="white"/>',
            *body,
            "</svg>\n",
        ]
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """From times to places."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def x(self, at_ns: float) -> float:
        part = (at_ns - self.start_ns) / (self.end_ns - self.start_ns)
        return LEFT + WIDTH * min(1.0, max(0.0, part))

    def bins(self, operations: Sequence[Operation]) -> list[list[Operation]]:
        count = max(1, math.ceil(self.seconds / BIN_S))
        found: list[list[Operation]] = [[] for _ in range(count)]
        for one in operations:
            place = int((one.return_ns - self.start_ns) / 1e9 / BIN_S)
            if 0 <= place < count:
                found[place].append(one)
        return found

    def bin_x(self, number: int) -> float:
        return self.x(self.start_ns + number * BIN_S * 1e9)


def _rates(scale: _Scale, operations: Sequence[Operation]) -> Iterator[str]:
    bins = scale.bins(operations)
    most = max((len(ones) for ones in bins), default=0) or 1
    base = MARGIN + RATE_HEIGHT
    yield _text(5, base - 5, f"0 to {most / BIN_S:.0f} operations/s")
    for number, ones in enumerate(bins):
        top = float(base)
        for result, colour in RESULT_COLOURS.items():
            height = sum(one.result is result for one in ones) / most * (RATE_HEIGHT - 10)
            if height:
                top -= height
                yield _rect(
                    scale.bin_x(number), top, scale.bin_x(number + 1), top + height, colour=colour
                )
    yield _line(LEFT, base, LEFT + WIDTH, base)


def _latencies(scale: _Scale, operations: Sequence[Operation]) -> Iterator[str]:
    base = MARGIN + RATE_HEIGHT + SPACE + LATENCY_HEIGHT
    low, high = (math.log10(limit) for limit in LATENCY_MS)

    def y(ms: float) -> float:
        part = (math.log10(min(max(ms, LATENCY_MS[0]), LATENCY_MS[1])) - low) / (high - low)
        return base - part * LATENCY_HEIGHT

    for power in range(round(low), round(high) + 1):
        yield _line(LEFT, y(10.0**power), LEFT + WIDTH, y(10.0**power), colour="#e5e7e9")
        yield _text(LEFT - 60, y(10.0**power) + 4, f"{10.0**power:g} ms")
    for number, ones in enumerate(scale.bins(operations)):
        latencies = [(o.return_ns - o.invoke_ns) / 1e6 for o in ones if o.result is Result.OK]
        if latencies:
            x = (scale.bin_x(number) + scale.bin_x(number + 1)) / 2
            yield _circle(x, y(max(latencies)), "#e74c3c")
            yield _circle(x, y(statistics.median(latencies)), "#2c3e50")


def _faults(
    scale: _Scale, happenings: Sequence[Happening], names: Sequence[tuple[str, str]], top: int
) -> Iterator[str]:
    for row, (kind, name) in enumerate(names):
        yield _text(5, top + row * ROW_HEIGHT + 13, f"{kind} {name}")
    for happening in happenings:
        y = top + names.index((happening.kind, happening.name)) * ROW_HEIGHT
        left = scale.x(happening.start_ns)
        right = max(scale.x(happening.end_ns), left + 4)
        hint = f"{happening.action} {(happening.end_ns - happening.start_ns) / 1e9:.2f} s"
        yield _rect(
            left, y + 2, right, y + ROW_HEIGHT - 2, colour=COLOURS[happening.action], hint=hint
        )


def _gap(scale: _Scale, gap: Gap, bottom: float) -> str:
    left, right = scale.x(gap.start_ns), scale.x(gap.end_ns)
    return _rect(
        left, MARGIN, right, bottom, colour="#fadbd8", hint=f"{gap.seconds:.2f} s"
    ) + _text(left, MARGIN + 10, f"{gap.seconds:.1f} s", colour="#943126")


def _primary(scale: _Scale, primary: Primary, bottom: float) -> str:
    x = scale.x(primary.first_ns)
    line = _line(x, MARGIN, x, bottom, colour="#7d3c98", dashed=True)
    return line + _text(x + 2, MARGIN + RATE_HEIGHT + 12, primary.server, colour="#7d3c98")


def _seconds(scale: _Scale, y: float) -> Iterator[str]:
    step = max(1, math.ceil(scale.seconds / TICKS_MAX))
    for second in range(0, math.floor(scale.seconds) + 1, step):
        yield _text(scale.x(scale.start_ns + second * 1e9), y, f"{second} s")


def _rect(
    left: float, top: float, right: float, bottom: float, *, colour: str, hint: str = ""
) -> str:
    told = f"<title>{escape(hint)}</title>" if hint else ""
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" fill="{colour}">{told}</rect>'
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, *, colour: str = "#566573", dashed: bool = False
) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'
    )


def _circle(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>'


def _text(x: float, y: float, text: str, *, size: int = 11, colour: str = "#17202a") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
