"""The choices of YCSB: which record is wanted how often. Pure.

By Gray et al., "Quickly generating billion-record synthetic databases" (SIGMOD 1994), with YCSB's
constant 0.99: of a thousand records the first takes 13 % of all requests.
"""

import random
from dataclasses import dataclass, field
from typing import Final

THETA: Final = 0.99
# YCSB draws from ten billion items, whose zeta it has worked out beforehand, and hashes what it
# draws: the skew is the same for every number of records, and popular ones lie apart.
SCRAMBLED_ITEMS: Final = 10_000_000_000
SCRAMBLED_ZETA: Final = 26.46902820178302

_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 1099511628211
_BITS_64: Final = (1 << 64) - 1


def fnv_hash(value: int) -> int:
    """FNV-1a of the eight bytes of a number, in 63 bits, as YCSB has it."""
    hashed = _FNV_OFFSET
    for _ in range(8):
        hashed = ((hashed ^ (value & 0xFF)) * _FNV_PRIME) & _BITS_64
        value >>= 8
    # Java's Math.abs of the signed number.
    return hashed if hashed < 1 << 63 else (1 << 64) - hashed


def zeta(first: int, last: int) -> float:
    """The sum of 1 / i ** theta over i from first to last."""
    return float(sum(1 / i**THETA for i in range(first, last + 1)))


_ZETA_OF_TWO: Final = zeta(1, 2)


@dataclass(slots=True)
class Zipfian:
    """Ranks from 0, small ones most often; the number of items may grow."""

    items: int
    zeta_of_items: float | None = None
    _zeta: float = field(init=False)

    def __post_init__(self) -> None:
        assert self.items > 0, "there is something to choose from"
        self._zeta = zeta(1, self.items) if self.zeta_of_items is None else self.zeta_of_items

    def grow(self, items: int) -> None:
        """There are so many now."""
        self._zeta += zeta(self.items + 1, items)
        self.items = items

    def rank(self, rng: random.Random) -> int:
        """The next one."""
        u = rng.random()
        scaled = u * self._zeta
        if scaled < 1:
            return 0
        if scaled < 1 + 0.5**THETA:
            return 1
        eta = (1 - (2 / self.items) ** (1 - THETA)) / (1 - _ZETA_OF_TWO / self._zeta)
        rank = int(self.items * (eta * u - eta + 1) ** (1 / (1 - THETA)))
        return min(rank, self.items - 1)


@dataclass(slots=True)
class Scrambled:
    """Records of a fixed number, the popular ones anywhere among them."""

    records: int
    _zipfian: Zipfian = field(init=False)

    def __post_init__(self) -> None:
        self._zipfian = Zipfian(SCRAMBLED_ITEMS, SCRAMBLED_ZETA)

    def record(self, rng: random.Random) -> int:
        """The next one."""
        return fnv_hash(self._zipfian.rank(rng)) % self.records
