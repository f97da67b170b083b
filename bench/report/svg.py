"""Just enough SVG for plots: elements, scales, ticks. Pure.

An own writer rather than matplotlib: its output depends on nothing but the results, so a test can
say whether committed plots are current, and it follows the reader's light or dark scheme.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 760
CHAR_WIDTH: Final = 6.6  # of the plots' font at 12 px, about; labels must fit without measuring
COLOURS: Final = 8  # beyond so many lines a plot cannot be read anyhow

# Okabe and Ito's palette, which colour-blind people can tell apart; lighter ones on dark ground.
_LIGHT: Final = (
    "#0072b2", "#d55e00", "#008f68", "#b0528a", "#8a6d00", "#555555", "#6a3d9a", "#2b8fc4",
)  # fmt: skip
_DARK: Final = (
    "#5ab4f0", "#ff9248", "#3fd0a4", "#e79cc8", "#e8cf5a", "#bbbbbb", "#c3a3f0", "#a6dcff",
)  # fmt: skip

_LOG_STEPS: Final = (  # within a power of ten; the first that gives enough ticks is taken
    (1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
)  # fmt: skip


def style() -> str:
    """What all plots share."""
    return (
        ".plot{font:12px system-ui,sans-serif;--ink:#222;--faint:#ddd;--ground:#fff;"
        f"{_variables(_LIGHT)}}}"
        "@media(prefers-color-scheme:dark){.plot{--ink:#ddd;--faint:#444;--ground:#16181c;"
        f"{_variables(_DARK)}}}}}"
        ".plot text{fill:var(--ink);stroke:var(--ground);stroke-width:3px;paint-order:stroke}"
        ".plot .end{text-anchor:end}.plot .middle{text-anchor:middle}"
        ".plot .grid{stroke:var(--faint)}.plot .axis{stroke:var(--ink)}"
        ".plot .ground{fill:var(--ground)}.plot .line{fill:none;stroke-width:2}"
        ".plot .spread{stroke-width:2}.plot .mark{stroke-dasharray:4 3;stroke-width:1.5}"
        ".plot .area{fill-opacity:.3}.plot .bar{fill-opacity:.75}"
        + "".join(
            f".plot .s{at}{{stroke:var(--c{at})}}.plot .f{at}{{fill:var(--c{at})}}"
            for at in range(COLOURS)
        )
    )


def picture(height: float, title: str, body: Sequence[str]) -> str:
    """A whole plot; the title is what a screen reader says, and a tooltip."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" role="img" width="{WIDTH}"'
        f' height="{number(height)}" viewBox="0 0 {WIDTH} {number(height)}">'
        f"<title>{text_of(title)}</title>"
        f'<rect class="ground" width="{WIDTH}" height="{number(height)}"/>'
        + "".join(body)
        + "</svg>"
    )


def standalone(svg: str) -> str:
    """The same as a file of its own, which brings its style along."""
    head, title, rest = svg.partition("<title>")
    return f"{head}<style>{style()}</style>{title}{rest}\n"


def text_of(value: str) -> str:
    """Escaped, and without the characters that XML does not allow."""
    return escape("".join(char if char.isprintable() else " " for char in value))


def text(x: float, y: float, value: str, kind: str = "") -> str:
    """Words at a place; the kind says where they are anchored."""
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{number(x)}" y="{number(y)}"{css}>{text_of(value)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight one."""
    ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
    return f'<line class="{kind}" {ends}/>'


def path(points: Sequence[tuple[float, float]], kind: str, *, is_closed: bool = False) -> str:
    """Lines from point to point."""
    steps = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f'<path class="{kind}" d="M{steps}{"Z" if is_closed else ""}"/>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A rectangle."""
    size = f'width="{number(width)}" height="{number(height)}"'
    return f'<rect class="{kind}" x="{number(x)}" y="{number(y)}" {size}/>'


def dot(x: float, y: float, series: int, title: str = "") -> str:
    """A point; each series has a shape of its own as well as a colour."""
    kind = f"f{series % COLOURS}"
    told = f"<title>{text_of(title)}</title>" if title else ""
    match series % 4:
        case 0:
            return f'<circle class="{kind}" cx="{number(x)}" cy="{number(y)}" r="4">{told}</circle>'
        case 1:
            corners = ((-4, -4), (4, -4), (4, 4), (-4, 4))
        case 2:
            corners = ((0, -5), (5, 4), (-5, 4), (0, -5))
        case _:
            corners = ((0, -5), (5, 0), (0, 5), (-5, 0))
    steps = " ".join(f"{number(x + dx)},{number(y + dy)}" for dx, dy in corners)
    return f'<path class="{kind}" d="M{steps}Z">{told}</path>'


def legend(entries: Sequence[tuple[int, str]], x: float, y: float) -> tuple[list[str], float]:
    """Series and their names, in as many lines as they need; and where the last line is."""
    found: list[str] = []
    at = x
    for series, name in entries:
        width = 24 + CHAR_WIDTH * len(name)
        if at + width > WIDTH and at > x:
            at, y = x, y + 18
        found += [dot(at + 6, y - 4, series), text(at + 16, y, name)]
        at += width
    return found, y


def number(value: float) -> str:
    """A coordinate: short, and the same on every machine."""
    return f"{round(value, 1) + 0:g}"  # adding 0 turns -0 into 0


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places. Invariant: low < high, and a logarithmic one's low is above 0."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __post_init__(self) -> None:
        assert self.low < self.high, "an empty scale"
        assert not self.is_log or self.low > 0, "a logarithm of nothing"

    def __call__(self, value: float) -> float:
        """Where a value is; what is outside is at the edge."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, a few of them."""
        return _log_ticks(self.low, self.high) if self.is_log else _ticks(self.low, self.high)


def scale_from_zero(highest: float, start: float, end: float) -> Scale:
    """A linear one that ends a little above the highest value."""
    return Scale(0, highest * 1.05 if highest > 0 else 1, start, end)


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A logarithmic one around all values that are above 0."""
    fit = [value for value in values if value > 0] or [1.0]
    return Scale(min(fit) / 1.15, max(fit) * 1.15, start, end, is_log=True)


def tick_label(value: float) -> str:
    """As short as can be: `0.05`, `250`, `12k`, `3M`."""
    for least, unit, suffix in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / unit:g}{suffix}"
    return f"{value:.4g}"


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * by for by in (1, 2, 5, 10) if power * by >= rough)
    return [step * at for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in _LOG_STEPS:
        found = [by * 10.0**power for power in powers for by in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:  # noqa: PLR2004  # fewer do not show a scale
            return found
    return _ticks(low, high)


def _variables(colours: Sequence[str]) -> str:
    return "".join(f"--c{at}:{colour};" for at, colour in enumerate(colours))
