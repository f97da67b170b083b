"""The gateway: its suite beside pgbouncer, and reads through it, pgbouncer and pgpool by turns.

All ways lead to the primary of one and the same cluster, so what differs is the way alone. The
processor time of a way's own processes is what the suite's `cpu` measures.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.gateway.__main__ import SUITE as GATEWAY
from bench.loads import catalog as loads
from bench.loads.load import LoadSettings
from bench.targets import catalog as targets
from bench.targets.proxies import ProxiedTarget, pgbouncer_before, pgpool_before
from bench.targets.target import Target, TargetError, TargetSettings
from bench.tool.bars import Promise
from bench.tool.printing import print_part
from bench.tool.refusals import REFUSALS
from bench.tool.rounds import Case, together
from bench.tool.tables import Comparison
from bench.tool.work import Work

from .suites import Chosen, run_suites
from .trial import load_trial

SUBJECT: Final = "seawall-gateway"
DIRECT: Final = "direct"
PGBOUNCER: Final = "pgbouncer"
PGPOOL: Final = "pgpool"
WAYS: Final = (DIRECT, SUBJECT, PGBOUNCER, PGPOOL)
CHOSEN: Final = (Chosen(suite=GATEWAY, names=tuple(GATEWAY.names), quick_names=("failover",)),)
BY_TURNS: Final = "select-only"
CLIENTS: Final = (8, 32)
CLIENTS_QUICK: Final = (8,)
ROUNDS: Final = 5
ROUNDS_QUICK: Final = 3
PGPOOL_CLIENTS: Final = 40  # a process each; a few more than there are clients
SECONDS: Final = 8.0
SECONDS_QUICK: Final = 3.0
WARM_SECONDS: Final = 1.0
SCALE: Final = 10
SCALE_QUICK: Final = 2
FIGURES: Final = ("tps", "p50_ms", "p99_ms")


@dataclass(frozen=True, slots=True)
class Gateway:
    """The part."""

    name: str = "gateway"
    summary: str = "the gateway, beside pgbouncer, pgpool and nothing in between"
    quick_minutes: float = 2.0
    promises: tuple[Promise, ...] = ()  # the suite's own

    def measure(self, work: Work) -> None:
        """As Part has it."""
        if work.options.workloads is None or BY_TURNS in work.options.workloads:
            self._by_turns(work)
        run_suites(work, self.name, CHOSEN)

    def _by_turns(self, work: Work) -> None:
        # Ways are no targets: what was chosen for other parts says nothing here.
        names = tuple(name for name in work.options.targets or () if name in WAYS) or WAYS
        try:
            with (
                targets.start("seawall-ha", work.place, TargetSettings()) as target,
                _ways(work, target, names) as ways,
            ):
                _measure_ways(work, target, ways)
        except REFUSALS as refusal:
            work.fail(f"gateway: {BY_TURNS} could not be measured: {refusal}")
        print_part(
            work,
            self.name,
            names=FIGURES,
            comparison=Comparison(SUBJECT, "tps"),
            values={},
            promises=(),
        )


@contextlib.contextmanager
def _ways(work: Work, target: Target, names: tuple[str, ...]) -> Iterator[dict[str, Target]]:
    """A target for each way to one and the same cluster."""
    ways: dict[str, Target] = {}
    with contextlib.ExitStack() as ends:
        for name in names:
            try:
                ways[name] = ends.enter_context(_way(work, target, name))
            except REFUSALS as refusal:
                said = work.fail if work.options.was_asked_for(name) else work.remark
                said(f"{name} was left out: {refusal}")
        yield ways


@contextlib.contextmanager
def _way(work: Work, target: Target, name: str) -> Iterator[Target]:
    if name == PGBOUNCER:
        with pgbouncer_before(work.place, target.direct) as proxy:
            yield ProxiedTarget(name=name, inner=target, proxy=proxy)
    elif name == PGPOOL:
        with pgpool_before(work.place, target.direct, clients=PGPOOL_CLIENTS) as proxy:
            yield ProxiedTarget(name=name, inner=target, proxy=proxy)
    elif name in (DIRECT, SUBJECT):
        yield target
    else:
        raise TargetError(f"{name} is no way: choose from {', '.join(WAYS)}")


def _measure_ways(work: Work, target: Target, ways: dict[str, Target]) -> None:
    options = work.options
    for name, way in ways.items():
        work.record.described(name, _description(name, way), way.facts)
    # Asked for once: nobody changes places here.
    addresses = {name: way.direct if name == DIRECT else way.front for name, way in ways.items()}
    roots = {name: tuple(way.pids) for name, way in ways.items()}
    workload = loads.workload(BY_TURNS)
    scale = SCALE_QUICK if options.is_quick else SCALE
    workload.prepare(target.direct, scale=scale, seed=options.seed)
    clients = options.clients or (CLIENTS_QUICK if options.is_quick else CLIENTS)
    rounds = options.rounds or (ROUNDS_QUICK if options.is_quick else ROUNDS)
    plan = list(together([Case(BY_TURNS, n) for n in clients], list(ways), rounds, options.seed))
    with work.progress.steps("gateway", len(plan)) as show:
        for step in plan:
            show(f"{BY_TURNS}, {step.case.clients} clients, round {step.round + 1}, {step.target}")
            if work.leaves_out("gateway", step.round):
                continue
            settings = LoadSettings(
                clients=step.case.clients,
                seconds=options.seconds or (SECONDS_QUICK if options.is_quick else SECONDS),
                seed=options.seed + step.round,
                warm_seconds=WARM_SECONDS,
            )
            trial = load_trial(
                "gateway",
                step,
                workload,
                addresses[step.target],
                settings,
                roots=roots[step.target],
                fleet_roots=[pid for each in roots.values() for pid in each],
            )
            work.record.trials.append(trial)


def _description(name: str, way: Target) -> str:
    return {
        DIRECT: f"nothing between clients and {way.description}",
        SUBJECT: f"the gateway of {way.description}",
    }.get(name, way.description)
