"""What clients did and what they were told: the one record that all checkers judge. Pure.

An operation is one transaction of one client. Its result is what the client may conclude:

    ok        its commit was acknowledged without a warning: it has happened, and must never be lost
    fail      it was refused, or ended before COMMIT was sent: it must never be seen
    unknown   the connection broke, or the client lost patience, after COMMIT was sent: it may have
              happened at any time since the call, and either is right

Times are nanoseconds of the machine's monotonic clock, so that operations of all clients of one
machine compare. A history is kept as JSON, one operation a line.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

import msgspec


class Result(StrEnum):
    """What a client may conclude about its transaction."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Level(StrEnum):
    """Isolation levels, as SQL names them."""

    READ_COMMITTED = "read committed"
    REPEATABLE_READ = "repeatable read"
    SERIALIZABLE = "serializable"


class Append(msgspec.Struct, frozen=True, gc=False, tag="append", tag_field="do"):
    """Put a value at the end of a list; no value is used twice for one key."""

    key: int
    value: int


class Read(msgspec.Struct, frozen=True, gc=False, tag="read", tag_field="do"):
    """Read a list; None when it ended before there was an answer."""

    key: int
    values: tuple[int, ...] | None = None


Step: TypeAlias = Append | Read


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What all operations have in common."""

    process: int  # the client, which does one thing after the other
    result: Result
    invoke_ns: int
    return_ns: int
    server: str = ""  # whom it was connected to: timeline and port
    error: str = ""


class Lists(Attempt, frozen=True, kw_only=True, gc=False, tag="lists", tag_field="operation"):
    """A transaction that appends to lists and reads them."""

    level: Level
    steps: tuple[Step, ...]


class Transfer(Attempt, frozen=True, kw_only=True, gc=False, tag="transfer", tag_field="operation"):
    """Money goes from one account to another."""

    source: int
    target: int
    amount: int


class Balances(Attempt, frozen=True, kw_only=True, gc=False, tag="balances", tag_field="operation"):
    """All accounts as one transaction saw them; empty unless it is ok."""

    level: Level
    balances: tuple[int, ...] = ()


class Insert(Attempt, frozen=True, kw_only=True, gc=False, tag="insert", tag_field="operation"):
    """A row with an identifier that nobody else uses."""

    identifier: int


Operation: TypeAlias = Lists | Transfer | Balances | Insert


def write_history(path: Path, operations: Iterable[Operation]) -> None:
    """One operation a line."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        file.writelines(encoder.encode(operation) + b"\n" for operation in operations)


def read_history(path: Path) -> Sequence[Operation]:
    """Read what `write_history` wrote; msgspec.DecodeError if it is something else."""
    decoder = msgspec.json.Decoder(Operation)
    with path.open("rb") as file:
        return [decoder.decode(line) for line in file]


def edn(operations: Iterable[Lists]) -> str:
    """The history in the form that elle-cli reads (model list-append): calls and returns in order.

    A client whose transaction ended unknown goes on as another process, as Elle wants it.
    """
    events: list[tuple[int, int, str]] = []
    incarnations: dict[int, int] = {}
    kinds = {Result.OK: ":ok", Result.FAIL: ":fail", Result.UNKNOWN: ":info"}
    for operation in sorted(operations, key=lambda one: one.invoke_ns):
        process = operation.process + 1000 * incarnations.get(operation.process, 0)
        asked = " ".join(_edn_step(step, is_asked=True) for step in operation.steps)
        told = " ".join(_edn_step(step, is_asked=False) for step in operation.steps)
        events.append(
            (operation.invoke_ns, 1, f":type :invoke, :process {process}, :value [{asked}]")
        )
        text = f":type {kinds[operation.result]}, :process {process}, :value [{told}]"
        events.append((operation.return_ns, 0, text))
        if operation.result is Result.UNKNOWN:
            incarnations[operation.process] = incarnations.get(operation.process, 0) + 1
    lines = [
        f"{{:index {index}, :time {at_ns}, :f :txn, {text}}}\n"
        for index, (at_ns, _, text) in enumerate(sorted(events))
    ]
    return "".join(lines)


def _edn_step(step: Step, *, is_asked: bool) -> str:
    if isinstance(step, Append):
        return f"[:append {step.key} {step.value}]"
    if is_asked or step.values is None:
        return f"[:r {step.key} nil]"
    return f"[:r {step.key} [{' '.join(map(str, step.values))}]]"
