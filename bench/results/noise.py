"""Whether the machine did too much else for a comparison to be printed. Pure.

Processor time that other programs took while a trial ran is measured, not guessed. Such a trial
says something about the other programs. Ratios of one round suffer less, but no ratio tells how
much less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .record import Trial

# On two cores the servers and the load need one each: what others take beyond this they take from
# one of the two. It is what bench/README.md calls figures that are worth little.
NOISY_CORES: Final = 0.2
NOISY_SHARE: Final = 0.1  # and on machines with more cores, this share of them
TRIALS_SHARE_MAX: Final = 0.25  # more, and the middle half that is printed holds noisy rounds


@dataclass(frozen=True, slots=True)
class Noise:
    """How busy others were during some trials."""

    limit_cores: float
    trials: int
    noisy: int
    worst_cores: float

    @property
    def is_too_much(self) -> bool:
        """Whether a comparison of these trials is refused."""
        return self.noisy > self.trials * TRIALS_SHARE_MAX

    @property
    def sentence(self) -> str:
        """What was seen, for people."""
        if not self.noisy:
            return (
                f"Other programs never took more than {self.worst_cores:.2f} cores during any of"
                f" {_count(self.trials)} (limit {self.limit_cores:.2f})."
            )
        return (
            f"Other programs took more than {self.limit_cores:.2f} cores during {self.noisy} of"
            f" {_count(self.trials)}, at worst {self.worst_cores:.2f}."
        )

    @property
    def refusal(self) -> str:
        """Why a comparison is not printed, and what to do; empty: it may be."""
        if not self.is_too_much:
            return ""
        return (
            f"not compared: {self.sentence[:-1].lower()}; measure again on a quiet machine,"
            " or say --noisy"
        )


def judge(trials: Sequence[Trial], cores: object) -> Noise:
    """Of the trials of one comparison; `cores` is what the machine says it has."""
    limit = limit_cores(cores)
    return Noise(
        limit,
        len(trials),
        sum(trial.others_cores > limit for trial in trials),
        max((trial.others_cores for trial in trials), default=0.0),
    )


def limit_cores(cores: object) -> float:
    """How many cores others may take; the number comes from a file and may be anything."""
    number = cores if isinstance(cores, int | float) else 0
    return max(NOISY_CORES, NOISY_SHARE * number)


def _count(trials: int) -> str:
    return f"{trials} trial{'s' if trials != 1 else ''}"
