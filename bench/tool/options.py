"""What one run of the tool was asked for. Pure."""

from dataclasses import dataclass
from pathlib import Path

SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The choices of a run; what is None is each part's own affair."""

    is_quick: bool = False
    targets: tuple[str, ...] | None = None
    workloads: tuple[str, ...] | None = None  # of failover: the blows
    clients: tuple[int, ...] | None = None
    rounds: int | None = None
    seconds: float | None = None  # of one trial
    seed: int = SEED
    dsn: str | None = None  # one more target
    is_noise_allowed: bool = False
    large_mb: int | None = None  # of the large database of `replicas`

    def chosen_targets(self, usual: tuple[str, ...]) -> tuple[str, ...]:
        """Those that were asked for, else the usual ones; and what the DSN names."""
        named = self.targets or usual
        if self.dsn is not None and "dsn" not in named:
            named = (*named, "dsn")
        return named

    def was_asked_for(self, target: str) -> bool:
        """Whether its absence is more than a remark."""
        return target in (self.targets or ()) or (target == "dsn" and self.dsn is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where a run's results go."""

    directory: Path
    makes_report: bool = True
