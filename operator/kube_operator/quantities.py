"""Quantities of Kubernetes, as numbers: 500m, 2, 4Gi. The API server writes them its own way."""

import re
from decimal import Decimal
from typing import Final

_FACTORS: Final = {
    "": Decimal(1), "m": Decimal("0.001"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_QUANTITY: Final = re.compile(r"([0-9]{1,30}(?:\.[0-9]{0,30})?)([A-Za-z]{0,2})", re.ASCII)


def quantity(text: str) -> Decimal:
    """Return a quantity as a number; ValueError if it is none."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{text[:40]!r} is no quantity: write it as 500m, 2 or 4Gi")
    return Decimal(match[1]) * _FACTORS[match[2]]


def bytes_of(text: str) -> int:
    """Return a quantity of bytes."""
    return int(quantity(text))


def is_same_quantity(one: str, other: str) -> bool:
    """Whether two texts are the same quantity; what is none is the same only as itself."""
    try:
        return one == other or quantity(one) == quantity(other)
    except ValueError:
        return False
