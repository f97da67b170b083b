"""Client-seen unavailability: the longest time without an acknowledged write when something dies.

The targets are up in the same run, each is hit in each round, and the writers know one address,
the one that an application would be given. Somebody who looks only every ten seconds whether the
primary is alive finds out sooner or later by chance: so a blow comes at a moment that is drawn
anew each time, over the longest period that the target has.
"""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.results.record import Mark, Trial
from bench.targets.target import Blow, Target, TargetError, TargetSettings
from bench.tool.bars import FAILOVER_VS_PATRONI, PROMISES, Promise
from bench.tool.fleet import Fleet, fleet_of
from bench.tool.options import Options
from bench.tool.printing import print_part
from bench.tool.processor import moment
from bench.tool.refusals import REFUSALS
from bench.tool.rounds import Case, Step
from bench.tool.starting import starting
from bench.tool.tables import Comparison
from bench.tool.work import Work

from .writers import Writers, lost_rows, make_table, writing

SUBJECT: Final = "seawall-ha"
TARGETS: Final = ("seawall-ha", "patroni", "patroni-tuned")
BLOWS: Final = tuple(Blow)
BLOWS_QUICK: Final = (Blow.POSTGRES_KILLED,)  # the one whose bars count
ROUNDS: Final = 10
ROUNDS_QUICK: Final = 3
CLIENTS: Final = 8
RATE: Final = 200.0  # a gap is known to a hundredth of a second, and nobody is busy
BEFORE: Final = 200  # acknowledgements: commits flow
FLOW_SECONDS_MAX: Final = 60.0
# Of looking behind a blow, because trouble may begin late; `--seconds` says it otherwise.
LEAST_SECONDS: Final = 15.0
LEAST_SECONDS_QUICK: Final = 3.0
DEADLINE_SECONDS: Final = 150.0  # five times Patroni's ttl
# The longest period of whoever may notice: Patroni's loop_wait; a lease of ours.
PERIOD_SECONDS: Final[Mapping[str, float]] = {"patroni": 10.0}
PERIOD_SECONDS_USUAL: Final = 2.0
# Who waits for a timeout computes nothing: targets that rest distort gaps little.
IDLE_SHARE_MAX: Final = 0.2
FIGURES: Final = ("gap_seconds", "failed_transactions", "rows_lost")
JUDGED: Final = {Blow.POSTGRES_KILLED: "", Blow.NODE_KILLED: "_node_killed"}


@dataclass(frozen=True, slots=True)
class Failover:
    """The part."""

    name: str = "failover"
    summary: str = "how long writes are not acknowledged when parts die, beside Patroni"
    quick_minutes: float = 4.0
    promises: tuple[Promise, ...] = tuple(
        one for one in PROMISES if one.name.startswith(FAILOVER_VS_PATRONI)
    )

    def measure(self, work: Work) -> None:
        """As Part has it."""
        options = work.options
        blows = blows_of(options)
        names = options.chosen_targets(TARGETS)
        with fleet_of(
            work,
            names,
            TargetSettings(),
            starting(options.dsn),
            idle_share_max=IDLE_SHARE_MAX,
        ) as fleet:
            _measure_blows(work, fleet, blows)
        trials = work.record.of_part(self.name)
        print_part(
            work,
            self.name,
            names=FIGURES,
            comparison=Comparison(SUBJECT, "gap_seconds"),
            values=judged_values(trials),
            promises=self.promises,
        )


def judged_values(trials: Sequence[Trial]) -> dict[str, float]:
    """Our median gap by Patroni's, of each way to kill a primary. Pure."""
    found = {}
    for blow, ending in JUDGED.items():
        gaps: dict[str, list[float]] = {}
        for trial in trials:
            if trial.workload == blow:
                gaps.setdefault(trial.target, []).append(trial.figures["gap_seconds"])
        for peer, name in (("patroni", ""), ("patroni-tuned", "_tuned")):
            if SUBJECT in gaps and peer in gaps:
                ratio = statistics.median(gaps[SUBJECT]) / statistics.median(gaps[peer])
                found[f"{FAILOVER_VS_PATRONI}{name}{ending}"] = ratio
    return found


def blows_of(options: Options) -> list[Blow]:
    """What is done; TargetError when a word is none of them."""
    if options.workloads is None:
        return list(BLOWS_QUICK if options.is_quick else BLOWS)
    unknown = [word for word in options.workloads if word not in list(Blow)]
    if unknown:
        raise TargetError(f"{unknown[0]} is no blow: choose from {', '.join(Blow)}")
    return [Blow(word) for word in options.workloads]


def _measure_blows(work: Work, fleet: Fleet, blows: Sequence[Blow]) -> None:
    options = work.options
    rounds = options.rounds or (ROUNDS_QUICK if options.is_quick else ROUNDS)
    clients = options.clients[0] if options.clients else CLIENTS
    plan = fleet.plan([Case(blow, clients) for blow in blows], rounds)
    rng = random.Random(options.seed)  # noqa: S311  # replays, protects nothing
    with work.progress.steps("failover", len(plan)) as show:
        for step in plan:
            show(f"{step.case.workload}, round {step.round + 1}, {step.target}")
            phase_seconds = rng.uniform(0, PERIOD_SECONDS.get(step.target, PERIOD_SECONDS_USUAL))
            if work.leaves_out("failover", step.round):
                continue
            target = fleet.target(step.target)
            if step.case.workload not in target.blows:
                continue
            try:
                work.record.trials.append(_struck(work, fleet, step, target, phase_seconds))
            except REFUSALS as refusal:
                work.fail(f"failover: {step.case.workload} on {step.target}: {refusal}")
                fleet.mend(step.target)


def _struck(work: Work, fleet: Fleet, step: Step, target: Target, phase_seconds: float) -> Trial:
    """One blow, from a table that is empty to a target that is whole again."""
    fleet.refresh(step.target)
    asyncio.run(make_table(fleet.directs[step.target]))
    blow = Blow(step.case.workload)
    usual_seconds = LEAST_SECONDS_QUICK if work.options.is_quick else LEAST_SECONDS
    least_seconds = work.options.seconds or usual_seconds
    before = moment(fleet_roots=fleet.all_roots())
    with writing(
        target.front, clients=step.case.clients, rate=RATE, seed=work.options.seed + step.round
    ) as writers:
        writers.wait_for(BEFORE, deadline_seconds=FLOW_SECONDS_MAX)
        time.sleep(phase_seconds)
        # Processes that are killed take the account of their time with them: so only until here.
        now = moment(fleet_roots=fleet.all_roots())
        others_cores = now.others_cores_since(before)
        before_s = time.monotonic()
        target.strike(blow)
        # A target may have to look first whom it must hit. A gap meanwhile counts, too, although
        # it may be the looking's: who struck early and returned late must not gain by it.
        struck_s = time.monotonic()
        is_steady = writers.wait_until_steady(
            struck_s, least_seconds=least_seconds, deadline_seconds=DEADLINE_SECONDS
        )
        gap_seconds = writers.longest_gap(after_s=before_s)
        failed = writers.failed_after(before_s)
    if not is_steady:
        work.fail(
            f"failover: {blow} on {target.name}: writes did not flow again within"
            f" {DEADLINE_SECONDS:g} s{writers.last_failure()}"
        )
    target.wait_whole()
    return Trial(
        part="failover",
        target=step.target,
        workload=step.case.workload,
        round=step.round,
        order=step.order,
        clients=step.case.clients,
        settings={
            "rate": RATE,
            "phase_seconds": round(phase_seconds, 3),
            "least_seconds": least_seconds,
            "came_back": is_steady,
        },
        figures={
            "gap_seconds": gap_seconds,
            "failed_transactions": float(failed),
            "rows_lost": float(lost_rows(target.direct, writers.journal)),
        },
        histogram=writers.journal.latencies.buckets(),
        series=writers.series(),
        marks=marks_of(writers, before_s, struck_s, blow),
        others_cores=others_cores,
    )


def marks_of(writers: Writers, before_s: float, struck_s: float, blow: Blow) -> list[Mark]:
    """The blow, and when the longest gap ended."""
    times = [at_s for at_s, _, _ in writers.journal.acknowledged]
    marks = [Mark(round(struck_s - writers.start_s, 3), str(blow))]
    gaps = [(later - earlier, later) for earlier, later in itertools.pairwise(times)
            if later > before_s]  # fmt: skip
    if gaps:
        _, end_s = max(gaps)
        marks.append(Mark(round(end_s - writers.start_s, 3), "writes are acknowledged again"))
    return marks
