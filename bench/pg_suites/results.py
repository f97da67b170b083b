"""What pg_regress and pg_isolation_regress print, as names of tests that passed and failed. Pure.

Up to 15 a line is `test boolean ... ok 123 ms`, or `     boolean  ... FAILED  123 ms` inside of a
parallel group; some lines of older releases say `failed (ignored)`. From 16 on it is TAP: `ok 2
+ boolean 123 ms`, `not ok 3 - char 45 ms`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

_PLAIN = re.compile(r"^(?:test | {5})(\S+)\s+\.\.\. (ok|FAILED|failed)\b", re.MULTILINE)
_TAP = re.compile(r"^(not ok|ok) +\d+ +[-+] (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """One run of one suite."""

    passed: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def total(self) -> int:
        """How many tests were run."""
        return len(self.passed) + len(self.failed)

    def unexplained(self, known: Collection[str]) -> tuple[str, ...]:
        """What failed that is not known to differ."""
        return tuple(name for name in self.failed if name not in known)


def parse_results(text: str) -> SuiteResult:
    """Read everything that was printed; without a line of a test the result is empty."""
    found = [(name, verdict == "ok") for name, verdict in _PLAIN.findall(text)]
    found += [(name, verdict == "ok") for verdict, name in _TAP.findall(text)]
    return SuiteResult(
        passed=tuple(name for name, is_ok in found if is_ok),
        failed=tuple(name for name, is_ok in found if not is_ok),
    )
