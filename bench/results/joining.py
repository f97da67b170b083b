"""Several runs as one: parts that were measured one at a time, in one document. Pure.

What is joined must be comparable: the same code on the same machine, and nothing measured twice.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from .files import ResultError
from .record import ResultSet, TargetFacts

SAME_OF_MACHINE: Final = ("cores", "cpu", "kernel", "memory_mib", "postgres")
THEN: Final = ";"  # between commands, as a shell has it


def joined(results: Sequence[ResultSet]) -> ResultSet:
    """All that they have found; ResultError when they do not belong together."""
    first, *others = results
    for other in others:
        for complaint in _differences(first, other):
            raise ResultError(f"These results do not belong together: {complaint}.")
    if len(results) == 1:
        return first
    measured = [{(one.part, one.workload) for one in result.trials} for result in results]
    for number, found in enumerate(measured):
        for twice in sorted(set().union(*measured[:number]) & found):
            raise ResultError(f"{' '.join(twice)} was measured in two of these results.")
    command = [word for result in results for word in (THEN, *result.command)]
    return msgspec.structs.replace(
        first,
        command=command[1:],
        started_at=min(result.started_at for result in results),
        seconds=round(sum(result.seconds for result in results), 1),
        targets=_targets(results),
        trials=[trial for result in results for trial in result.trials],
        judgements=[one for result in results for one in result.judgements],
        failures=[one for result in results for one in result.failures],
    )


def _differences(first: ResultSet, other: ResultSet) -> Iterator[str]:
    if first.commit != other.commit:
        yield f"they are of the commits {first.commit} and {other.commit}"
    if first.is_quick != other.is_quick:
        yield "one of them is of a quick run"
    for name in SAME_OF_MACHINE:
        here, there = first.machine.get(name), other.machine.get(name)
        if here != there:
            yield f"{name} was {here} and {there}"


def _targets(results: Sequence[ResultSet]) -> list[TargetFacts]:
    """Each once; of facts that were measured, such as the memory at rest, the last ones."""
    found: dict[str, TargetFacts] = {}
    for target in (one for result in results for one in result.targets):
        known = found.get(target.name, target)
        facts = {**known.facts, **target.facts}
        found[target.name] = msgspec.structs.replace(target, facts=facts)
    return list(found.values())
