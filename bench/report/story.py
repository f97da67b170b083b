"""A result set told from start to end: what was measured, what is met, where Seawall loses. Pure.

The same blocks become the HTML report and docs/benchmarks.md.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from bench.results import figures, noise
from bench.results.comparison import Comparison, losses, within
from bench.results.joining import THEN
from bench.results.record import ResultSet
from bench.results.statistics import ALPHA

from .content import Block, Document, Heading, Items, Paragraph, Picture, Table
from .parts import part_blocks

TITLE: Final = "Benchmarks"
NOISY_OPTION: Final = "--noisy"
LOSSES_MAX: Final = 200  # rows; nobody reads more, and the tables of the parts have them all

_METHOD: Final = (
    "Targets are measured in turns: every round has all of them, in an order that changes, on the"
    " same machine. So what the machine does in a minute is in all targets of that minute. A figure"
    " is the median of its rounds; beside it stands where the middle half of them lies, or all of"
    " them when there are fewer than four.",
    "A ratio is of one target by another in the same round. A ratio is said to differ from 1 when"
    f" Wilcoxon's signed-rank test over the rounds gives p ≤ {ALPHA:g}, which takes at least six"
    " rounds; with fewer, no difference is claimed, however large it looks. One of twenty"
    " comparisons without any difference seems to have one.",
    "Processor time that other programs took is measured during every trial. A comparison is not"
    f" printed when in more than a quarter of its trials they took more than"
    f" {noise.NOISY_CORES:g} cores (or {noise.NOISY_SHARE:.0%} of them on larger machines).",
)


def document(result: ResultSet, *, is_noise_allowed: bool | None = None) -> Document:
    """The whole report. By default noise is allowed as it was when the run was started."""
    if is_noise_allowed is None:
        is_noise_allowed = NOISY_OPTION in result.command
    comparisons = within(result)
    allowed = [one for one in comparisons if is_noise_allowed or not one.noise.is_too_much]
    blocks = [
        *_head(result),
        *_bars(result),
        *_failures(result),
        *_losing(result, comparisons, allowed),
        *_noise(result, comparisons, allowed),
        *_subjects(result),
        Heading("Method"),
        *(Paragraph(text) for text in _METHOD),
    ]
    for part in dict.fromkeys(trial.part for trial in result.trials):
        blocks += part_blocks(result, part, allowed)
    return Document(TITLE, list(_with_own_names(blocks)))


def _with_own_names(blocks: Sequence[Block]) -> Iterator[Block]:
    """No two pictures with the same name: each will be a file."""
    seen: dict[str, int] = {}
    for block in blocks:
        if not isinstance(block, Picture):
            yield block
            continue
        seen[block.name] = number = seen.get(block.name, 0) + 1
        yield block if number == 1 else replace(block, name=f"{block.name}-again{number}")


def _head(result: ResultSet) -> Iterator[Block]:
    yield Paragraph(
        f"Commit {result.commit}, started {result.started_at}, {_duration(result.seconds)},"
        f" seed {result.seed}, {len(result.trials)} trials."
    )
    if result.is_quick:
        yield Paragraph("A quick run: few and short rounds, too little to judge most bars by.")
    missed = sum(not judgement.is_met for judgement in result.judgements)
    met = len(result.judgements) - missed
    yield Paragraph(
        f"Bars met: {met}; missed: {missed}. What could not be measured: {len(result.failures)}."
    )


def _bars(result: ResultSet) -> Iterator[Block]:
    yield Heading("Bars")
    if not result.judgements:
        yield Paragraph("None was measured.")
        return
    rows = [
        (
            judgement.name,
            figures.printed(judgement.value),
            judgement.condition,
            "ok" if judgement.is_met else "MISSED",
        )
        for judgement in sorted(result.judgements, key=lambda one: one.is_met)
    ]
    yield Table(("bar", "measured", "promised", ""), rows, frozenset({1, 2}), verdict=3)


def _failures(result: ResultSet) -> Iterator[Block]:
    yield Heading("What could not be measured")
    yield Items(result.failures) if result.failures else Paragraph("Nothing failed.")


def _losing(
    result: ResultSet, comparisons: Sequence[Comparison], allowed: Sequence[Comparison]
) -> Iterator[Block]:
    yield Heading("Where Seawall loses")
    found = losses(allowed)
    hidden = len(losses(comparisons)) - len(found)
    yield Paragraph(
        "Every figure whose median ratio to a peer is worse than 1, the worst first, whether or not"
        " the rounds suffice to call it a difference; and every bar that is missed."
    )
    missed = [one for one in result.judgements if not one.is_met]
    yield from (
        [
            Items(
                [
                    f"The bar {one.name} is missed: {figures.printed(one.value)}, promised"
                    f" {one.condition}."
                    for one in missed
                ]
            )
        ]
        if missed
        else []
    )
    if found:
        yield _loss_table(found[:LOSSES_MAX])
    elif not missed:
        yield Paragraph("Nowhere in what this result set compares.")
    if len(found) > LOSSES_MAX:
        yield Paragraph(f"{len(found) - LOSSES_MAX} smaller ones are in the tables below.")
    if hidden:
        yield Paragraph(
            f"{hidden} more comparisons look worse for Seawall, but the machine was too noisy to"
            " print them."
        )


def _loss_table(found: Sequence[Comparison]) -> Table:
    rows = [
        (
            one.setting.part,
            one.setting.title,
            one.figure,
            f"{one.target} / {one.peer}",
            figures.printed(one.value.median),
            figures.printed(one.peer_value.median),
            one.words,
        )
        for one in found
    ]
    head = ("part", "what was done", "figure", "who", "Seawall", "peer", "what may be said")
    return Table(head, rows, frozenset({4, 5}))


def _noise(
    result: ResultSet, comparisons: Sequence[Comparison], allowed: Sequence[Comparison]
) -> Iterator[Block]:
    yield Heading("Noise")
    judged = noise.judge(result.trials, result.machine.get("cores"))
    yield Paragraph(judged.sentence)
    refused = [one for one in comparisons if one not in allowed]
    if refused:
        settings = dict.fromkeys(f"{one.setting.part} {one.setting.title}" for one in refused)
        yield Paragraph(
            f"{len(refused)} comparisons are not printed, because others were too busy meanwhile:"
            f" {'; '.join(settings)}. Measure again on a quiet machine, or say {NOISY_OPTION}."
        )
    shown = sum(one.noise.is_too_much for one in allowed)
    if shown:
        yield Paragraph(
            f"{shown} comparisons are printed although the machine was too noisy, because the run"
            f" was told to ({NOISY_OPTION}): they say little."
        )


def _subjects(result: ResultSet) -> Iterator[Block]:
    yield Heading("What was measured, and where")
    yield Table(
        ("machine", ""), [(name, _fact(value)) for name, value in sorted(result.machine.items())]
    )
    yield Table(
        ("target", "what it is", "facts"),
        [
            (
                target.name,
                target.description,
                ", ".join(f"{name} {_fact(value)}" for name, value in sorted(target.facts.items())),
            )
            for target in result.targets
        ],
    )
    words = (word if word == THEN else shlex.quote(word) for word in result.command)
    yield Paragraph(f"Command: {' '.join(words)}")


def _fact(value: object) -> str:
    match value:
        case float():
            return f"{value:g}"
        case list():
            return " ".join(_fact(one) for one in value)
        case _:
            return str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:  # noqa: PLR2004  # two minutes
        return f"took {seconds:.0f} s"
    return f"took {seconds / 60:.0f} minutes"
