"""What a figure's name says: its unit, whether more of it is better, how it is printed. Pure."""

import math
import re
from typing import Final

from bench.pagefault.report import figure

TINY: Final = 0.01  # three decimals would lose digits

_COUNTS: Final = (
    r"(^|_)(errors|lost|violations|failures|failed|failed_statements|failed_transactions)$"
)
# The first that fits decides. What a client asked for, or what merely describes a run, is neither.
_BETTER: Final = (
    (r"^(seconds|transactions|clients|rate|scale|driver_.*|cpu_seconds|others_cores)$", 0),
    (r"(^|_)(tps|tpmc|qps|tpm|speedup)$", 1),
    (r"per_(s|second|min|minute|core_s|core_second)$", 1),
    (r"(mb|mib|pages|rows)_s$", 1),
    (r"per_(transaction|query|statement|commit)$", -1),
    (r"_(ns|us|ms|s|seconds|minutes|bytes|kb|mb|mib|percent|cores)$", -1),
    (_COUNTS, -1),
    (r"(^|_)gap$", -1),
)
_LEADING: Final = ("tps", "gap_seconds", "p99_ms")  # what a comparison is first of all about


def direction(name: str) -> int:
    """1: more is better; -1: less is; 0: neither, or not known from its name."""
    return next((better for pattern, better in _BETTER if re.search(pattern, name)), 0)


def is_count(name: str) -> bool:
    """Whether it counts what should not happen at all, so that all rounds together matter."""
    return re.search(_COUNTS, name) is not None


def is_leading(name: str) -> bool:
    """Whether it is drawn and comes first, rather than being told in a table alone."""
    return name in _LEADING


def order(name: str) -> tuple[int, str]:
    """A key to sort by: the leading figures first."""
    return (_LEADING.index(name) if name in _LEADING else len(_LEADING), name)


def printed(value: float) -> str:
    """Four significant digits, as everywhere in this project; of what is tiny two."""
    if value == 0:
        return "0"
    if abs(value) >= TINY:
        return figure(value)
    return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"


def printed_ratio(ratio: float) -> str:
    """As in `1.08`; where one of the two had none there is no ratio."""
    if ratio >= 1e6:  # noqa: PLR2004  # more than any two systems differ: see RATIO_MAX
        return "the other had none"
    if ratio <= 1e-6:  # noqa: PLR2004  # likewise
        return "the other alone had any"
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:.1f}"  # noqa: PLR2004  # three digits
