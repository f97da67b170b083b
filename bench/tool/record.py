"""What a run has found so far; can be written at any moment."""

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.results.record import Judgement, ResultSet, TargetFacts, Trial
from bench.targets.target import Target


@dataclass(slots=True, kw_only=True)
class Record:
    """Grows from trial to trial."""

    command: list[str]
    commit: str
    seed: int
    is_quick: bool
    machine: dict[str, Any]
    started_at: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    start_s: float = field(default_factory=time.monotonic)
    targets: dict[str, TargetFacts] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unmeasured: int = 0  # of the failures: those that make a run fail

    def seen(self, target: Target, **facts: object) -> None:
        """Remember what a target is."""
        self.described(target.name, target.description, {**target.facts, **facts})

    def described(self, name: str, description: str, facts: Mapping[str, object]) -> None:
        """Remember it of something that is no target of the catalogue."""
        before = self.targets.get(name)
        known = before.facts if before is not None else {}
        self.targets[name] = TargetFacts(name, description, {**known, **facts})

    def of_part(self, part: str) -> list[Trial]:
        """The trials of one part, in the order in which they were made."""
        return [trial for trial in self.trials if trial.part == part]

    def result(self) -> ResultSet:
        """As of now."""
        return ResultSet(
            command=self.command,
            commit=self.commit,
            started_at=self.started_at,
            seconds=round(time.monotonic() - self.start_s, 1),
            seed=self.seed,
            is_quick=self.is_quick,
            machine=self.machine,
            targets=list(self.targets.values()),
            trials=list(self.trials),
            judgements=list(self.judgements),
            failures=list(self.failures),
        )
