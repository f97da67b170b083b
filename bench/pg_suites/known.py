"""Which tests of PostgreSQL's are known to differ on a compute of ours, and why. Pure data.

The one list that `make pg-suites` excuses failures by. What it says to users stands, with more
words, in docs/compatibility.md: a test compares the two.
"""

from collections.abc import Mapping
from typing import Final

KNOWN: Final[Mapping[str, Mapping[str, str]]] = {
    "regression": {},
    "isolation": {},
}
"""By suite: the name of a test, and the reason in a sentence."""
