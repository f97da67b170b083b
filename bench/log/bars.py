"""What the log promises, and which of it a run has measured. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from bench.pagefault.report import Bar, Measurement, Outcome

CLIENTS: Final = (1, 8, 32)

BARS: Final = (
    Bar(name="tps_ratio_1_client", target=1.0, at_least=True),
    Bar(name="tps_ratio_8_clients", target=1.25, at_least=True),
    Bar(name="tps_ratio_32_clients", target=1.25, at_least=True),
    Bar(name="wal_bytes_ratio", target=0.4, at_least=False),
    Bar(name="commit_latency_ratio", target=1.5, at_least=False),
    Bar(name="copy_p99_over_idle_p50", target=10.0, at_least=False),
    Bar(name="copy_longest_stall_s", target=1.0, at_least=False),
    Bar(name="election_ms", target=500, at_least=False),
    Bar(name="ingest_resumed_s", target=1.0, at_least=False),
    Bar(name="errors_when_a_follower_dies", target=0, at_least=False),
    Bar(name="node_memory_mib", target=200, at_least=False),
    Bar(name="restart_with_1gb_s", target=2.0, at_least=False),
)


def tps_ratio_name(clients: int) -> str:
    """The name of the bar for so many clients."""
    return f"tps_ratio_{clients}_client{'' if clients == 1 else 's'}"


def judged(outcomes: Sequence[Outcome]) -> list[tuple[Bar, Measurement]]:
    """The bars that were measured, in their own order."""
    found = {m.name: m for outcome in outcomes for m in outcome.measurements}
    return [(bar, found[bar.name]) for bar in BARS if bar.name in found]


def is_passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether no bar is missed."""
    return all(bar.is_met(measurement.value) for bar, measurement in judged(outcomes))


def as_json(facts: Mapping[str, object], outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Everything, rounds included, in JSON's types."""
    return {
        **facts,
        "bars": [
            {
                "name": bar.name,
                "value": measurement.value,
                "target": bar.target,
                "condition": bar.condition,
                "ok": bar.is_met(measurement.value),
            }
            for bar, measurement in judged(outcomes)
        ],
        "benchmarks": {outcome.benchmark: _outcome_json(outcome) for outcome in outcomes},
    }


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    return {
        "settings": dict(outcome.settings),
        "measurements": {
            m.name: {"unit": m.unit, "median": m.value, "rounds": list(m.rounds)}
            for m in outcome.measurements
        },
    }
