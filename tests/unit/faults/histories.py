"""Histories by hand: a transaction is a line like `a1 r1:1,2` (append 1 to list 0, read it)."""

from bench.faults.history import Append, Level, Lists, Read, Result, Step

SECOND_NS = 1_000_000_000


def step(text: str) -> Step:
    """`a3` appends 3 to list 0, `x:a3` to list 1; `r3,4` reads list 0, `x:r` finds list 1 empty."""
    key, _, rest = text.rpartition(":")
    number = 1 if key == "x" else 0
    if rest[0] == "a":
        return Append(number, int(rest[1:]))
    return Read(number, tuple(int(value) for value in rest[1:].split(",") if value))


def lists(
    text: str,
    *,
    at: tuple[float, float] = (0, 1000),
    result: Result = Result.OK,
    level: Level = Level.SERIALIZABLE,
    process: int = 0,
) -> Lists:
    """One transaction; by default it is concurrent with all others."""
    return Lists(
        process=process,
        result=result,
        invoke_ns=int(at[0] * SECOND_NS),
        return_ns=int(at[1] * SECOND_NS),
        level=level,
        steps=tuple(step(word) for word in text.split()),
    )
