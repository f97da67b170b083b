"""The random choices of the standard's clauses 2.1.6 and 4.3.2. Pure.

NURand makes some customers and items much more wanted than others. Its constants C are the run's
and, for last names, the population's; the two must lie 65 to 119 apart, but not 96 or 112.
"""

import random
from dataclasses import dataclass, field
from typing import Final

C_LAST_LOADED: Final = 157
C_LAST_RUN: Final = 223
C_CUSTOMER: Final = 259
C_ITEM: Final = 7_911
NAMES_MAX: Final = 1_000

SYLLABLES: Final = (
    "BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING",
)  # fmt: skip

_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_POOL_CHARACTERS: Final = 1 << 16
_ORIGINAL: Final = "ORIGINAL"


def nurand(rng: random.Random, a: int, low: int, high: int, c: int) -> int:
    """One of low to high, not uniformly."""
    return ((rng.randint(0, a) | rng.randint(low, high)) + c) % (high - low + 1) + low


def last_name(number: int) -> str:
    """Three syllables, for the three digits."""
    return SYLLABLES[number // 100] + SYLLABLES[number // 10 % 10] + SYLLABLES[number % 10]


def last_name_number(rng: random.Random, customers: int, c: int) -> int:
    """A name that somebody of a district has: the first customers have all names in turn."""
    return nurand(rng, 255, 0, min(customers, NAMES_MAX) - 1, c)


@dataclass(slots=True)
class Texts:
    """Random texts, cut from one long one: a hundred million characters are needed for a table."""

    rng: random.Random
    _pool: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pool = "".join(self.rng.choices(_CHARACTERS, k=_POOL_CHARACTERS))

    def below(self, end: int) -> int:
        """0 to end - 1, in a third of the time that randrange takes."""
        return int(self.rng.random() * end)

    def text(self, low: int, high: int) -> str:
        """Letters and digits, so many."""
        length = low + self.below(high - low + 1)
        start = self.below(_POOL_CHARACTERS - length)
        return self._pool[start : start + length]

    def digits(self, count: int) -> str:
        """So many digits."""
        return f"{self.below(10**count):0{count}}"

    def data(self) -> str:
        """26 to 50 characters, with ORIGINAL in every tenth."""
        text = self.text(26, 50)
        if self.below(10):
            return text
        start = self.below(len(text) - len(_ORIGINAL) + 1)
        return text[:start] + _ORIGINAL + text[start + len(_ORIGINAL) :]

    def address(self) -> str:
        """Two streets, a city, a state, a zip code: as columns of COPY."""
        state = self.text(2, 2).upper()
        return "\t".join(
            (self.text(10, 20), self.text(10, 20), self.text(10, 20), state,
             f"{self.digits(4)}11111")
        )  # fmt: skip
