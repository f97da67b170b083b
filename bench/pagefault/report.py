"""Figures, the bars they are held against, and how both are printed. Pure.

A *measurement* is one quantity over several rounds; its value is the median, because the machine is
shared and the slow rounds are somebody else's. A *bar* is a promise about the value of the
measurement of the same name. A bar that was not measured is neither met nor missed.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What the value of a measurement has to be: at least the target, or at most."""

    name: str
    target: float
    at_least: bool

    def is_met(self, value: float) -> bool:
        """Whether the promise is kept."""
        return value >= self.target if self.at_least else value <= self.target

    @property
    def condition(self) -> str:
        """As it is printed: `>=0.98`."""
        return f"{'>=' if self.at_least else '<='}{self.target:g}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One quantity, measured once a round."""

    name: str
    unit: str
    rounds: tuple[float, ...]

    def __post_init__(self) -> None:
        assert self.rounds, f"{self.name} was never measured"

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """Where the middle half of the rounds lies; with few rounds all of them."""
        ordered = sorted(self.rounds)
        quarter = len(ordered) // 4
        return ordered[quarter], ordered[-1 - quarter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one benchmark found out, and with which settings."""

    benchmark: str
    settings: Mapping[str, object]
    measurements: Sequence[Measurement]


def with_facts(outcome: Outcome, **facts: object) -> Outcome:
    """The same outcome with more among its settings."""
    return replace(outcome, settings={**outcome.settings, **facts})


@dataclass(slots=True)
class Report:
    """All outcomes of a run, and what they are held against."""

    facts: Mapping[str, object]  # machine, versions, arguments
    bars: Sequence[Bar]
    outcomes: list[Outcome] = field(default_factory=list)

    def judged(self) -> list[tuple[Bar, Measurement]]:
        """The bars that were measured, in their own order."""
        found = {
            measurement.name: measurement
            for outcome in self.outcomes
            for measurement in outcome.measurements
        }
        return [(bar, found[bar.name]) for bar in self.bars if bar.name in found]

    @property
    def is_passed(self) -> bool:
        """Whether no bar is missed."""
        return all(bar.is_met(measurement.value) for bar, measurement in self.judged())

    def as_json(self) -> dict[str, object]:
        """Everything, rounds included, in JSON's types."""
        return {
            **self.facts,
            "bars": [
                {
                    "name": bar.name,
                    "value": measurement.value,
                    "target": bar.target,
                    "condition": bar.condition,
                    "ok": bar.is_met(measurement.value),
                }
                for bar, measurement in self.judged()
            ],
            "benchmarks": {outcome.benchmark: _outcome_json(outcome) for outcome in self.outcomes},
        }


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    return {
        "settings": dict(outcome.settings),
        "measurements": {
            measurement.name: {
                "unit": measurement.unit,
                "median": measurement.value,
                "middle_half": list(measurement.spread),
                "rounds": list(measurement.rounds),
            }
            for measurement in outcome.measurements
        },
    }


def bar_line(bar: Bar, measurement: Measurement) -> str:
    """For people and for programs that look for lines starting with BAR."""
    verdict = "ok" if bar.is_met(measurement.value) else "MISSED"
    return f"BAR {bar.name} {figure(measurement.value)} {bar.condition} {verdict}"


def table(outcome: Outcome) -> list[str]:
    """One line a measurement: name, median, middle half, unit, rounds."""
    told = ", ".join(f"{name} {value}" for name, value in outcome.settings.items())
    lines = [f"{outcome.benchmark} ({told})"]
    for measurement in outcome.measurements:
        low, high = measurement.spread
        lines.append(
            f"  {measurement.name:34} {figure(measurement.value):>10} "
            f"{f'({figure(low)} to {figure(high)})':24} {measurement.unit:8}"
            f" rounds {len(measurement.rounds)}"
        )
    return lines


def figure(value: float) -> str:
    """Four significant digits, and no exponent."""
    magnitude = abs(value)
    decimals = 0 if magnitude >= 1000 else 1 if magnitude >= 100 else 2 if magnitude >= 10 else 3  # noqa: PLR2004  # powers of ten
    return f"{value:.{decimals}f}"
