"""Transactions a second: targets x workloads x clients, a closed loop on the primary itself.

Every round has each target once for each case; what is compared are trials of one round. Tables
are made anew for each target and workload, and looked through once all its rounds are over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.loads import catalog as loads
from bench.loads.load import LoadSettings, Workload
from bench.targets.target import Address, TargetSettings
from bench.tool.bars import Promise
from bench.tool.fleet import Fleet, fleet_of
from bench.tool.options import Options
from bench.tool.printing import print_part
from bench.tool.refusals import REFUSALS
from bench.tool.rounds import Case, Step
from bench.tool.starting import starting
from bench.tool.tables import Comparison, title
from bench.tool.work import Work

from .agreeing import measure_agreement
from .trial import load_trial

SUBJECT: Final = "seawall-ha"
TARGETS: Final = ("seawall-ha", "stock", "stock-sync", "patroni")
TARGETS_QUICK: Final = ("seawall-ha", "stock", "stock-sync")
CASES: Final = (
    *(Case("tpcb", clients) for clients in (1, 8, 32)),
    *(Case("simple-update", clients) for clients in (8, 32)),
    *(Case("select-only", clients) for clients in (8, 32)),
    Case("tpcc", 8),
    *(Case(f"ycsb-{letter}", 8) for letter in "abcdef"),
)
CASES_QUICK: Final = (Case("tpcb", 8), Case("select-only", 8))
CLIENTS: Final = 8  # of a workload that has none of its own above
ROUNDS: Final = 5
ROUNDS_QUICK: Final = 3
SECONDS: Final = 15.0
SECONDS_QUICK: Final = 3.0
WARM_SECONDS: Final = 2.0
WARM_SECONDS_QUICK: Final = 1.0
SCALES: Final = {"tpcb": 50, "simple-update": 50, "select-only": 50, "tpcc": 2}
SCALES_QUICK: Final = {"tpcb": 10, "simple-update": 10, "select-only": 10, "tpcc": 1}
SCALE: Final = 10  # of any other workload; with --quick 1
FIGURES: Final = ("tps", "p50_ms", "p99_ms", "cpu_ms_per_transaction", "tpmc")


@dataclass(frozen=True, slots=True)
class Tps:
    """The part."""

    name: str = "tps"
    summary: str = "transactions a second, beside stock PostgreSQL and Patroni"
    quick_minutes: float = 3.0
    promises: tuple[Promise, ...] = ()

    def measure(self, work: Work) -> None:
        """As Part has it."""
        options = work.options
        cases = cases_of(options)
        for case in cases:
            loads.workload(case.workload)  # whose name is wrong is told before anything is started
        names = options.chosen_targets(TARGETS_QUICK if options.is_quick else TARGETS)
        with fleet_of(work, names, TargetSettings(), starting(options.dsn)) as fleet:
            _measure_cases(work, fleet, cases)
            # Last, so that its tables are in nobody's way.
            measure_agreement(work, fleet)
        print_part(
            work,
            self.name,
            names=FIGURES,
            comparison=Comparison(SUBJECT, "tps"),
            values={},
            promises=self.promises,
        )


def cases_of(options: Options) -> list[Case]:
    """What is done to each target once a round."""
    usual = CASES_QUICK if options.is_quick else CASES
    if options.workloads is None and options.clients is None:
        return list(usual)
    workloads = options.workloads or tuple(dict.fromkeys(case.workload for case in usual))
    return [
        Case(workload, clients)
        for workload in workloads
        for clients in options.clients or _usual_clients(workload, usual)
    ]


def _usual_clients(workload: str, usual: Sequence[Case]) -> tuple[int, ...]:
    return tuple(case.clients for case in usual if case.workload == workload) or (CLIENTS,)


def _measure_cases(work: Work, fleet: Fleet, cases: Sequence[Case]) -> None:
    options = work.options
    rounds = options.rounds or (ROUNDS_QUICK if options.is_quick else ROUNDS)
    plan = fleet.plan(cases, rounds)
    last_of = {(step.target, step.case.workload): index for index, step in enumerate(plan)}
    workloads: dict[tuple[str, str], Workload] = {}
    with work.progress.steps("tps", len(plan)) as show:
        for index, step in enumerate(plan):
            show(f"{title((step.case.workload, step.case.clients))}, round {step.round + 1}, "
                 f"{step.target}")  # fmt: skip
            key = (step.target, step.case.workload)
            workload = workloads.setdefault(key, loads.workload(step.case.workload))
            if not work.leaves_out("tps", step.round):
                _measure_step(work, fleet, step, workload)
            if last_of[key] == index:
                _look_through(work, fleet, step, workload)


def _prepare(work: Work, workload: Workload, address: Address) -> None:
    scales, other = (SCALES_QUICK, 1) if work.options.is_quick else (SCALES, SCALE)
    workload.prepare(address, scale=scales.get(workload.name, other), seed=work.options.seed)


def _look_through(work: Work, fleet: Fleet, step: Step, workload: Workload) -> None:
    """Say what is wrong with the tables after all the rounds, if they are still there."""
    if (step.target, step.case.workload) not in fleet.prepared:
        return
    try:
        findings = workload.findings(fleet.directs[step.target])
    except REFUSALS as refusal:
        findings = [f"its tables could not be looked through: {refusal}"]
    for finding in findings:
        work.fail(f"tps: {step.case.workload} on {step.target}: {finding}")


def _measure_step(work: Work, fleet: Fleet, step: Step, workload: Workload) -> None:
    options = work.options
    settings = LoadSettings(
        clients=step.case.clients,
        seconds=options.seconds or (SECONDS_QUICK if options.is_quick else SECONDS),
        # All targets of a round do the same; rounds do not.
        seed=options.seed + step.round,
        warm_seconds=WARM_SECONDS_QUICK if options.is_quick else WARM_SECONDS,
    )
    try:
        fleet.target(step.target)
        address = fleet.directs[step.target]
        fleet.prepare(step.target, step.case.workload, lambda: _prepare(work, workload, address))
        trial = load_trial(
            "tps",
            step,
            workload,
            address,
            settings,
            roots=fleet.roots[step.target],
            fleet_roots=fleet.all_roots(),
        )
    except REFUSALS as refusal:
        work.fail(f"tps: {step.case.workload} on {step.target}: {refusal}")
        fleet.mend(step.target)
        return
    work.record.trials.append(trial)
