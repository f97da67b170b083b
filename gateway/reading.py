"""What a session wants of its reads: the values of `seawall.read`. Pure.

    primary            everything goes to the primary
    auto               a read goes to a replica that has all that this session has seen
    replica(max_lag)   a read goes to a replica that is at most that far behind, seen or not

Where no replica is good enough the primary answers.
"""

import re
from dataclasses import dataclass
from typing import Final

LAG_MS_MAX: Final = 86_400_000
_REPLICA: Final = re.compile(r"replica(?:\s*\(\s*(\d{1,9})\s*(ms|s|min)?\s*\))?")
_UNIT_MS: Final = {None: 1, "ms": 1, "s": 1000, "min": 60_000}
LAG_MS_DEFAULT: Final = 10_000
READ_VARIABLE: Final = "seawall.read"
POSITION_VARIABLE: Final = "seawall.position"


@dataclass(frozen=True, slots=True)
class ReadMode:
    """`lag_ms_max` is None: a replica must have the session's floor."""

    uses_replicas: bool
    lag_ms_max: int | None = None

    def __str__(self) -> str:
        if not self.uses_replicas:
            return "primary"
        return "auto" if self.lag_ms_max is None else f"replica({self.lag_ms_max}ms)"


PRIMARY_ONLY: Final = ReadMode(uses_replicas=False)
AUTO: Final = ReadMode(uses_replicas=True)


def parse_read_mode(text: str) -> ReadMode:
    """Read a value; ValueError with a sentence for the user."""
    value = text.strip().lower()
    if value == "primary":
        return PRIMARY_ONLY
    if value == "auto":
        return AUTO
    match = _REPLICA.fullmatch(value)
    if match is None:
        raise ValueError(
            f"{READ_VARIABLE} must be primary, auto, or replica(LAG) as in replica(500ms), "
            f"not {text[:60]!r}"
        )
    if match[1] is None:
        return ReadMode(uses_replicas=True, lag_ms_max=LAG_MS_DEFAULT)
    lag_ms = min(int(match[1]) * _UNIT_MS[match[2]], LAG_MS_MAX)
    return ReadMode(uses_replicas=True, lag_ms_max=lag_ms)
