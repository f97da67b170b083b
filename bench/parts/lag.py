"""Replica lag at a rate of writes: an open loop, and a probe of how old a replica's answers are.

The rates are the axis that Amazon's paper on Aurora has: 1,000 to 10,000 writes a second. Stock is
measured with asynchronous standbys, which is how read replicas of stock are run. Whoever cannot
keep up with a rate is seen in `writes_per_s`: the lag is then that of what it could.
"""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.failover.elastic import percentile
from bench.loads import catalog as loads
from bench.loads.load import LoadSettings
from bench.pagefault.workspace import Workspace
from bench.results.record import Trial
from bench.targets.target import Target, TargetError, TargetSettings
from bench.tool.bars import Promise
from bench.tool.fleet import Fleet, fleet_of
from bench.tool.options import Options
from bench.tool.printing import print_part
from bench.tool.refusals import REFUSALS
from bench.tool.rounds import Case, Step
from bench.tool.starting import Start, starting
from bench.tool.tables import Comparison, title
from bench.tool.work import Work

from .asynchronous import asynchronous
from .lag_probe import probing
from .trial import load_trial

SUBJECT: Final = "seawall-ha"
ASYNC: Final = "stock-async"
TARGETS: Final = (SUBJECT, ASYNC)
RATES: Final = (1000, 2000, 5000, 10_000)
RATES_QUICK: Final = (1000, 2000)
RATE_MAX: Final = 1_000_000
CLIENTS: Final = 16
ROUNDS: Final = 3
ROUNDS_QUICK: Final = 2
SECONDS: Final = 15.0
SECONDS_QUICK: Final = 5.0
WARM_SECONDS: Final = 1.0
SCALE: Final = 10
SCALE_QUICK: Final = 1
WRITES_A_TRANSACTION: Final = 4  # of `write-only`: two updates, a deletion, an insertion
FIGURES: Final = ("lag_p50_ms", "lag_p99_ms", "lag_max_ms", "writes_per_s", "p99_ms")
PROMISE: Final = Promise(name="lag_p99_ms_at_1000", high=50)


@dataclass(frozen=True, slots=True)
class Lag:
    """The part."""

    name: str = "lag"
    summary: str = "how old replicas' answers are at 1,000 to 10,000 writes a second"
    quick_minutes: float = 1.0
    promises: tuple[Promise, ...] = (PROMISE,)

    def measure(self, work: Work) -> None:
        """As Part has it."""
        options = work.options
        rates = rates_of(options)
        names = options.chosen_targets(TARGETS)
        start = _with_async(starting(options.dsn))
        with fleet_of(work, names, TargetSettings(), start) as fleet:
            fleet.names = _with_replicas(work, fleet)
            _measure_rates(work, fleet, rates)
        print_part(
            work,
            self.name,
            names=FIGURES,
            comparison=Comparison(SUBJECT, "lag_p99_ms"),
            values=judged_values(work.record.of_part(self.name)),
            promises=self.promises,
        )


def judged_values(trials: Sequence[Trial]) -> dict[str, float]:
    """Our median of the 99th percentiles at 1,000 writes a second. Pure."""
    found = [
        trial.figures["lag_p99_ms"]
        for trial in trials
        if trial.target == SUBJECT and trial.workload == workload_of(RATES[0])
    ]
    return {PROMISE.name: statistics.median(found)} if found else {}


def workload_of(rate: int) -> str:
    """The name of a rate in results."""
    return f"write-only-{rate}"


def rates_of(options: Options) -> list[int]:
    """Writes a second; TargetError when a word is none."""
    if options.workloads is None:
        return list(RATES_QUICK if options.is_quick else RATES)
    for word in options.workloads:
        if not word.isdecimal() or not 0 < int(word) <= RATE_MAX:
            raise TargetError(f"{word} is no rate: say writes a second, up to {RATE_MAX}")
    return [int(word) for word in options.workloads]


def _with_replicas(work: Work, fleet: Fleet) -> list[str]:
    found = []
    for name in fleet.names:
        if fleet.target(name).readers:
            found.append(name)
        else:
            work.remark(f"lag: {name} was left out: it has no replica")
    return found


def _measure_rates(work: Work, fleet: Fleet, wanted: Sequence[int]) -> None:
    options = work.options
    rounds = options.rounds or (ROUNDS_QUICK if options.is_quick else ROUNDS)
    clients = options.clients[0] if options.clients else CLIENTS
    rates = {workload_of(rate): rate for rate in wanted}
    plan = fleet.plan([Case(name, clients) for name in rates], rounds)
    with work.progress.steps("lag", len(plan)) as show:
        for step in plan:
            show(f"{title((step.case.workload, clients))}, round {step.round + 1}, {step.target}")
            if work.leaves_out("lag", step.round):
                continue
            try:
                work.record.trials.append(_trial(work, fleet, step, rates[step.case.workload]))
            except REFUSALS as refusal:
                work.fail(f"lag: {step.case.workload} on {step.target}: {refusal}")
                fleet.mend(step.target)


def _trial(work: Work, fleet: Fleet, step: Step, rate: int) -> Trial:
    options = work.options
    target = fleet.target(step.target)
    direct = fleet.directs[step.target]
    workload = loads.workload("write-only")
    scale = SCALE_QUICK if options.is_quick else SCALE
    # Once for all rates: its tables are the same.
    fleet.prepare(
        step.target,
        "write-only",
        lambda: workload.prepare(direct, scale=scale, seed=options.seed),
    )
    settings = LoadSettings(
        clients=step.case.clients,
        seconds=options.seconds or (SECONDS_QUICK if options.is_quick else SECONDS),
        seed=options.seed + step.round,
        rate=rate / WRITES_A_TRANSACTION,
        warm_seconds=WARM_SECONDS,
    )
    with probing(direct, target.readers[0]) as probe:
        trial = load_trial(
            "lag",
            step,
            workload,
            direct,
            settings,
            roots=fleet.roots[step.target],
            fleet_roots=fleet.all_roots(),
        )
    lags = sorted(probe.lags_ms)
    figures = {
        **trial.figures,
        "lag_p50_ms": percentile(lags, 0.50),
        "lag_p99_ms": percentile(lags, 0.99),
        "lag_max_ms": lags[-1],
        "writes_per_s": trial.figures["tps"] * WRITES_A_TRANSACTION,
    }
    return msgspec.structs.replace(trial, figures=figures)


def _with_async(start: Start) -> Start:
    """The catalogue's targets, and stock with asynchronous standbys."""

    @contextlib.contextmanager
    def started(name: str, place: Workspace, settings: TargetSettings) -> Iterator[Target]:
        if name != ASYNC:
            with start(name, place, settings) as target:
                yield target
            return
        with start("stock-sync", place, settings) as target:
            yield asynchronous(target, ASYNC)

    return started
