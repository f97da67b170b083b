"""Money that is made or lost, and rows that are lost or made up, are found.

In scope: the pure rules. Out of scope: who reads the rows in the end.
"""

import pytest

from bench.faults.history import Balances, Insert, Level, Result
from bench.faults.invariants import bank_findings, durability_findings


def look(*balances: int, result: Result = Result.OK) -> Balances:
    return Balances(
        process=1, result=result, invoke_ns=0, return_ns=1, level=Level.SERIALIZABLE,
        balances=balances,
    )  # fmt: skip


def insert(identifier: int, result: Result) -> Insert:
    return Insert(process=1, result=result, invoke_ns=0, return_ns=1, identifier=identifier)


HISTORY = [insert(1, Result.OK), insert(2, Result.UNKNOWN), insert(3, Result.FAIL)]


def test_constant_money_is_sound() -> None:
    reads = [look(10, 10), look(0, 20), look(result=Result.FAIL)]
    assert not list(bank_findings(reads, total=20, accounts=2))


@pytest.mark.parametrize(
    ("balances", "words"), [((10, 11), "saw 21"), ((21, -1), "with -1"), ((20,), "1 of 2")]
)
def test_wrong_money_is_found(balances: tuple[int, ...], words: str) -> None:
    found = list(bank_findings([look(10, 10), look(*balances)], total=20, accounts=2))
    assert len(found) == 1
    assert words in found[0].text


@pytest.mark.parametrize("rows", [[1], [1, 2]])
def test_unknown_rows_may_be_there_or_not(rows: list[int]) -> None:
    assert not list(durability_findings(HISTORY, rows))


@pytest.mark.parametrize(
    ("rows", "anomaly"),
    [
        ([2], "lost row"),
        ([1, 3], "refused row"),
        ([1, 9], "foreign row"),
        ([1, 1], "duplicate row"),
    ],
)
def test_wrong_rows_are_found(rows: list[int], anomaly: str) -> None:
    assert [finding.anomaly for finding in durability_findings(HISTORY, rows)] == [anomaly]
