"""What must hold besides order: money is constant, acknowledged rows are there. Pure."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from .dependencies import Finding
from .history import Balances, Insert, Result

EXAMPLES_MAX: Final = 10


def bank_findings(history: Sequence[Balances], *, total: int, accounts: int) -> Iterator[Finding]:
    """Every consistent look at all accounts sees all the money, and no debts."""
    for read in history:
        if read.result is not Result.OK:
            continue
        seen = f"process {read.process} at {read.invoke_ns / 1e9:.6f} s ({read.level})"
        if len(read.balances) != accounts:
            yield Finding("bank", f"{seen} saw {len(read.balances)} of {accounts} accounts")
        elif sum(read.balances) != total:
            text = f"{seen} saw {sum(read.balances)} in all accounts instead of {total}"
            yield Finding("bank", text)
        elif min(read.balances) < 0:
            yield Finding("bank", f"{seen} saw an account with {min(read.balances)}")


def durability_findings(history: Sequence[Insert], rows: Collection[int]) -> Iterator[Finding]:
    """What was acknowledged is there at the end; what was refused, or never asked for, is not."""
    there = set(rows)
    by_result = {
        result: {one.identifier for one in history if one.result is result} for result in Result
    }
    acknowledged = by_result[Result.OK]
    if lost := sorted(acknowledged - there):
        text = (
            f"{len(lost)} of {len(acknowledged)} acknowledged rows are lost: "
            f"{', '.join(map(str, lost[:EXAMPLES_MAX]))}"
        )
        yield Finding("lost row", text)
    if refused := sorted(by_result[Result.FAIL] & there):
        text = f"{len(refused)} rows are there that were refused: {refused[:EXAMPLES_MAX]}"
        yield Finding("refused row", text)
    if foreign := sorted(there - set().union(*by_result.values())):
        text = f"{len(foreign)} rows are there that nobody wrote: {foreign[:EXAMPLES_MAX]}"
        yield Finding("foreign row", text)
    if len(there) < len(rows):
        yield Finding("duplicate row", f"{len(rows) - len(there)} rows are there twice")
