"""What the tables begin with, by the standard's clause 4.3.3, as lines of COPY. Pure.

The same seed makes the same rows. A small scale keeps the proportions; names are then fewer.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from .choices import C_LAST_LOADED, NAMES_MAX, Texts, last_name, last_name_number
from .schema import NAMES, Scale

DATE: Final = "2026-01-01 00:00:00+00"
FIRST_PAYMENT: Final = 10  # of each customer, so that what districts have taken is a sum of them
LINES_MIN, LINES_MAX = 5, 15
NULL: Final = "\\N"
PIECE_LINES: Final = 500  # sent at a time: some 100 kB

Rows: TypeAlias = Iterator[str]


def pieces(table: str, scale: Scale, seed: int) -> Iterator[bytes]:
    """The rows of a table, for COPY in text format."""
    making = _Making(scale, Texts(random.Random(f"{seed} {table}")), seed)  # noqa: S311  # rows of a load
    lines: list[str] = []
    for row in MAKERS[table](making):
        lines.append(row)
        if len(lines) == PIECE_LINES:
            yield _encoded(lines)
            lines.clear()
    if lines:
        yield _encoded(lines)


def _encoded(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True, slots=True)
class _Making:
    """What the makers of rows need."""

    scale: Scale
    texts: Texts
    seed: int

    def districts(self) -> Iterator[tuple[int, int]]:
        for w in range(1, self.scale.warehouses + 1):
            for d in range(1, self.scale.districts + 1):
                yield w, d

    def orders(self, w: int, d: int) -> Iterator[tuple[int, int, int, bool]]:
        """Number, customer, lines, whether it is delivered: three tables must agree on them."""
        rng = random.Random(f"{self.seed} orders {w} {d}")  # noqa: S311  # rows of a load
        customers = list(range(1, self.scale.customers + 1))
        rng.shuffle(customers)
        first_undelivered = self.scale.customers + 1 - self.scale.undelivered
        for number, customer in enumerate(customers, 1):
            yield number, customer, rng.randint(LINES_MIN, LINES_MAX), number < first_undelivered


def _warehouses(making: _Making) -> Rows:
    texts, scale = making.texts, making.scale
    taken = FIRST_PAYMENT * scale.customers * scale.districts
    for w in range(1, scale.warehouses + 1):
        yield f"{w}\t{texts.text(6, 10)}\t{texts.address()}\t{texts.below(2001) / 10_000}\t{taken}"


def _districts(making: _Making) -> Rows:
    texts, customers = making.texts, making.scale.customers
    for w, d in making.districts():
        tax = texts.below(2001) / 10_000
        yield (
            f"{w}\t{d}\t{texts.text(6, 10)}\t{texts.address()}\t{tax}\t"
            f"{FIRST_PAYMENT * customers}\t{customers + 1}"
        )


def _customers(making: _Making) -> Rows:
    texts, customers = making.texts, making.scale.customers
    for w, d in making.districts():
        for c in range(1, customers + 1):
            number = (
                c - 1 if c <= NAMES_MAX else last_name_number(texts.rng, customers, C_LAST_LOADED)
            )
            credit = "GC" if texts.below(10) else "BC"
            yield (
                f"{w}\t{d}\t{c}\t{texts.text(8, 16)}\tOE\t{last_name(number)}\t{texts.address()}\t"
                f"{texts.digits(16)}\t{DATE}\t{credit}\t50000\t{texts.below(5001) / 10_000}\t"
                f"-{FIRST_PAYMENT}\t{FIRST_PAYMENT}\t1\t0\t{texts.text(300, 500)}"
            )


def _history(making: _Making) -> Rows:
    for w, d in making.districts():
        for c in range(1, making.scale.customers + 1):
            data = making.texts.text(12, 24)
            yield f"{c}\t{d}\t{w}\t{d}\t{w}\t{DATE}\t{FIRST_PAYMENT}\t{data}"


def _items(making: _Making) -> Rows:
    texts = making.texts
    for i in range(1, making.scale.items + 1):
        image, price = 1 + texts.below(10_000), (100 + texts.below(9_901)) / 100
        yield f"{i}\t{image}\t{texts.text(14, 24)}\t{price}\t{texts.data()}"


def _stocks(making: _Making) -> Rows:
    texts = making.texts
    for w in range(1, making.scale.warehouses + 1):
        for i in range(1, making.scale.items + 1):
            dists = "\t".join(texts.text(24, 24) for _ in range(10))
            yield f"{w}\t{i}\t{10 + texts.below(91)}\t{dists}\t0\t0\t0\t{texts.data()}"


def _orders(making: _Making) -> Rows:
    for w, d in making.districts():
        for o, c, lines, is_delivered in making.orders(w, d):
            carrier = 1 + making.texts.below(10) if is_delivered else NULL
            yield f"{w}\t{d}\t{o}\t{c}\t{DATE}\t{carrier}\t{lines}\t1"


def _new_orders(making: _Making) -> Rows:
    for w, d in making.districts():
        for o, _, _, is_delivered in making.orders(w, d):
            if not is_delivered:
                yield f"{w}\t{d}\t{o}"


def _order_lines(making: _Making) -> Rows:
    texts, items = making.texts, making.scale.items
    for w, d in making.districts():
        for o, _, lines, is_delivered in making.orders(w, d):
            for number in range(1, lines + 1):
                delivered = DATE if is_delivered else NULL
                amount = 0 if is_delivered else (1 + texts.below(999_999)) / 100
                yield (
                    f"{w}\t{d}\t{o}\t{number}\t{1 + texts.below(items)}\t{w}\t{delivered}\t5\t"
                    f"{amount}\t{texts.text(24, 24)}"
                )


MAKERS: Final[Mapping[str, Callable[[_Making], Rows]]] = dict(
    zip(
        NAMES,
        (
            _warehouses, _districts, _customers, _history, _items, _stocks, _orders, _new_orders,
            _order_lines,
        ),
        strict=True,
    )
)  # fmt: skip
