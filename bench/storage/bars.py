"""What storage nodes promise, and which of it a run has measured. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from bench.pagefault.report import Bar, Measurement, Outcome, Report

BARS: Final = (
    Bar(name="materialise_wal_mb_per_core_s", target=60, at_least=True),
    Bar(name="copy_2gb_ratio", target=1.5, at_least=False),
    Bar(name="getpage_p50_ms", target=0.4, at_least=False),
    Bar(name="getpage_p99_ms", target=2, at_least=False),
    Bar(name="range_mb_per_s", target=400, at_least=True),
    Bar(name="getpage_during_cut_p99_ms", target=5, at_least=False),
    Bar(name="store_ratio_one_cut", target=0.6, at_least=False),
    Bar(name="store_ratio_ten_cuts", target=2, at_least=False),
    Bar(name="idle_engines", target=0, at_least=False),
    Bar(name="idle_core_percent", target=0.1, at_least=False),
    Bar(name="cut_10000_pages_ms", target=500, at_least=False),
)


def judged(outcomes: Sequence[Outcome]) -> list[tuple[Bar, Measurement]]:
    """The bars that were measured, in their own order."""
    found = {m.name: m for outcome in outcomes for m in outcome.measurements}
    return [(bar, found[bar.name]) for bar in BARS if bar.name in found]


def is_passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether no bar is missed."""
    return all(bar.is_met(measurement.value) for bar, measurement in judged(outcomes))


def as_json(facts: Mapping[str, object], outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Everything, rounds included, in JSON's types."""
    bars = [
        {
            "name": bar.name,
            "value": measurement.value,
            "target": bar.target,
            "condition": bar.condition,
            "ok": bar.is_met(measurement.value),
        }
        for bar, measurement in judged(outcomes)
    ]
    return {**Report(facts, list(outcomes)).as_json(), "bars": bars}
