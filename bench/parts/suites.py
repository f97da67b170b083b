"""The suites that were there before the tool, as parts of it: outcomes become trials.

Each suite stays a program of its own (`python -P -m bench.storage`), with the same benchmarks and
bars. Here it shares the run's directory and results. What it measured is said of `seawall-ha`; a
figure that is a peer's has the peer's name in its own, as in `stock_replay_wal_mb_per_core_s`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from bench.pagefault.report import Outcome, table, with_facts
from bench.results.record import Trial
from bench.runner import Suite, remark_text
from bench.tool.bars import bar_line, judge, promise_of
from bench.tool.options import Options
from bench.tool.processor import moment
from bench.tool.work import Work

TARGET = "seawall-ha"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Some benchmarks of one suite."""

    suite: Suite
    names: Sequence[str]
    quick_names: Sequence[str]  # what fits into a quick run

    def of(self, options: Options) -> list[str]:
        """Those that are to be run."""
        usual = self.quick_names if options.is_quick else self.names
        if options.workloads is None:
            return list(usual)
        return [name for name in self.names if name in options.workloads]


def arguments_of(suite: Suite, options: Options) -> argparse.Namespace:
    """What the suite's own command line would have made of these options."""
    parser = argparse.ArgumentParser()
    suite.add_arguments(parser)
    arguments = parser.parse_args([])
    arguments.quick = options.is_quick
    if options.large_mb is not None and "large_mb" in arguments:
        arguments.large_mb = options.large_mb
    return arguments


def run_suites(work: Work, part: str, chosen: Sequence[Chosen]) -> None:
    """Run them, and print and judge what they found."""
    names = [(one.suite, name) for one in chosen for name in one.of(work.options)]
    with work.progress.steps(part, len(names)) as step:
        for suite, name in names:
            if not work.has_time():
                work.remark(f"{part}: {name} was left out: the time of a quick run is over")
                continue
            step(name)
            _run_one(work, part, suite, name)


def _run_one(work: Work, part: str, suite: Suite, name: str) -> None:
    arguments = arguments_of(suite, work.options)
    before = moment()
    try:
        outcome = suite.measure(name, work.place, arguments)
    except suite.refusals as refusal:
        work.fail(f"{part}: {name} could not be measured: {refusal}")
        return
    after = moment()
    others_cores = after.others_cores_since(before)
    outcome = with_facts(
        outcome, took_s=round(after.at_s - before.at_s, 1), others_cores=round(others_cores, 2)
    )
    work.record.trials += trials_of(part, outcome, others_cores=others_cores)
    work.progress.say("\n".join(table(outcome)))
    values = {one.name: one.value for one in outcome.measurements}
    for judgement in judge([promise_of(bar) for bar in suite.bars], values):
        work.record.judgements.append(judgement)
        remark = remark_text(suite, judgement.name, arguments).removeprefix(" (").removesuffix(")")
        work.progress.say(bar_line(judgement, remark=remark))


def trials_of(part: str, outcome: Outcome, *, others_cores: float) -> list[Trial]:
    """A trial for each round that any of the measurements had."""
    rounds = max(len(one.rounds) for one in outcome.measurements)
    return [
        Trial(
            part=part,
            target=TARGET,
            workload=outcome.benchmark,
            round=number,
            order=0,
            settings=dict(outcome.settings),
            figures={
                one.name: one.rounds[number]
                for one in outcome.measurements
                if number < len(one.rounds)
            },
            others_cores=others_cores,
        )
        for number in range(rounds)
    ]
