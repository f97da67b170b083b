"""What is said of a part when it is over: its table, its ratios, its bars."""

import os
from collections.abc import Mapping, Sequence

from bench.results import noise

from . import tables
from .bars import QUICK_REMARK, Promise, bar_line, judge
from .tables import Comparison
from .work import Work


def print_part(
    work: Work,
    part: str,
    *,
    names: Sequence[str],
    comparison: Comparison | None,
    values: Mapping[str, float],
    promises: Sequence[Promise],
) -> None:
    """Print it, and keep what was judged. Ratios are refused when others used the machine."""
    trials = work.record.of_part(part)
    lines: list[str] = []
    for group in tables.groups(trials):
        lines += tables.target_lines(trials, group, names)
        heard = noise.judge(tables.of_group(trials, group), os.cpu_count())
        if comparison is not None and heard.is_too_much and not work.options.is_noise_allowed:
            lines.append(f"  {heard.refusal}")
        elif comparison is not None:
            lines += tables.ratio_lines(trials, group, comparison)
            lines += [f"  noisy: {heard.sentence}"] if heard.is_too_much else []
    if lines:
        work.progress.say("\n".join(lines))
    for judgement in judge(promises, values):
        work.record.judgements.append(judgement)
        promise = next(one for one in promises if one.name == judgement.name)
        is_weak = work.options.is_quick and not promise.counts_when_quick
        work.progress.say(bar_line(judgement, remark=QUICK_REMARK if is_weak else ""))
