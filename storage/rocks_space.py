"""How much of the disk each branch takes: an estimate from the table files. Pure.

A table file says which keys it begins and ends with. One whose pages are of several branches counts
for each of them with an equal part; where in it they are is not looked up.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .rocks_keys import Kind, branch_of_key


class TableFile(NamedTuple):
    """One file of the database, and the keys that it spans."""

    first: bytes
    last: bytes
    size_bytes: int


def branch_sizes(files: Iterable[TableFile], branches: Sequence[int]) -> dict[int, int]:
    """Return the bytes that each branch takes, about; `branches`: the numbers of all there are."""
    numbers = sorted(branches)
    sizes = dict.fromkeys(numbers, 0)
    for file in files:
        end = branch_of_key(file.last)
        if end is None:
            continue
        # What begins with records and ends with pages was, as a rule, written for one branch.
        start = branch_of_key(file.first) if file.first[0] == Kind.PAGE else end
        inside = numbers[bisect_left(numbers, start or 0) : bisect_right(numbers, end)]
        for number in inside:
            sizes[number] += file.size_bytes // len(inside)
    return sizes
