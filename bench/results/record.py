"""The form of a result file. Pure.

A *trial* is one measurement of one target in one round. Trials of the same part, workload, clients
and round that differ in their target ran one after the other, and are what ratios are made of.
Figures end with their unit: `tps`, `p99_ms`, `gap_seconds`, `cpu_seconds`.
"""

from typing import Any, Final

import msgspec

FORMAT: Final = 1


class Mark(msgspec.Struct, frozen=True):
    """Something that happened while a trial ran, such as a blow."""

    at_seconds: float  # since the trial began to count
    text: str


class Point(msgspec.Struct, frozen=True):
    """One second of a trial."""

    transactions: int
    errors: int
    worst_ms: float


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    part: str  # tps, failover, coldstart, replicas, lag, storage, gateway
    target: str
    workload: str  # or what was done: a blow, a size
    round: int  # from 0
    order: int  # which of its round, from 0
    clients: int = 0
    settings: dict[str, Any] = {}
    figures: dict[str, float]
    histogram: list[
        tuple[int, int]
    ] = []  # (upper end of a bucket in microseconds, count), ascending
    series: list[Point] = []
    marks: list[Mark] = []
    others_cores: float = 0.0  # kept busy by other programs meanwhile


class Judgement(msgspec.Struct, frozen=True):
    """A bar, and what was measured."""

    name: str
    value: float
    condition: str  # as in `>=0.98`
    is_met: bool


class TargetFacts(msgspec.Struct, frozen=True):
    """What a target was."""

    name: str
    description: str
    facts: dict[str, Any]


class ResultSet(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one run."""

    format: int = FORMAT
    command: list[str]
    commit: str  # with `+` when files differ from it
    started_at: str  # ISO 8601, UTC
    seconds: float
    seed: int
    is_quick: bool
    machine: dict[str, Any]
    targets: list[TargetFacts]
    trials: list[Trial]
    judgements: list[Judgement] = []
    failures: list[str] = []  # what could not be measured, a sentence each
