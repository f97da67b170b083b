"""One load on one target, as a trial: figures, latencies, and who used the processors meanwhile."""

from collections.abc import Sequence

from bench.loads.load import LoadOutcome, LoadSettings, Workload
from bench.results.record import Point, Trial
from bench.targets.target import Address
from bench.tool.processor import moment
from bench.tool.rounds import Step

PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}


def load_trial(
    part: str,
    step: Step,
    workload: Workload,
    address: Address,
    settings: LoadSettings,
    *,
    roots: Sequence[int],
    fleet_roots: Sequence[int],
) -> Trial:
    """Put the load on an address; the roots are of the target's processes, and of everybody's."""
    before = moment(roots, fleet_roots)
    outcome = workload.run(address, settings)
    after = moment(roots, fleet_roots)
    return trial_of(
        part,
        step,
        outcome,
        settings,
        cpu_seconds=after.target_s_since(before),
        others_cores=after.others_cores_since(before),
    )


def trial_of(
    part: str,
    step: Step,
    outcome: LoadOutcome,
    settings: LoadSettings,
    *,
    cpu_seconds: float,
    others_cores: float,
) -> Trial:
    """The same without the measuring. Pure."""
    return Trial(
        part=part,
        target=step.target,
        workload=step.case.workload,
        round=step.round,
        order=step.order,
        clients=step.case.clients,
        settings={
            "driver": outcome.driver,
            "seconds": settings.seconds,
            "warm_seconds": settings.warm_seconds,
            "seed": settings.seed,
            **({"rate": settings.rate} if settings.rate is not None else {}),
        },
        figures=figures_of(outcome, settings, cpu_seconds),
        histogram=outcome.latencies.buckets(),
        series=[Point(one.transactions, one.errors, one.worst_ms) for one in outcome.series],
        others_cores=others_cores,
    )


def figures_of(
    outcome: LoadOutcome, settings: LoadSettings, cpu_seconds: float
) -> dict[str, float]:
    """What there is to compare."""
    figures = {
        "tps": outcome.transactions / outcome.seconds,
        "errors": float(outcome.errors),
        "longest_gap_seconds": outcome.longest_gap_seconds,
        **outcome.extra,
    }
    if outcome.latencies.count:
        figures |= {
            name: outcome.latencies.percentile_ms(percent) for name, percent in PERCENTILES.items()
        }
    if outcome.transactions:
        # The target worked while the load warmed up, too, at about the same rate.
        share = settings.seconds / (settings.seconds + settings.warm_seconds)
        figures["cpu_ms_per_transaction"] = 1e3 * cpu_seconds * share / outcome.transactions
        figures["driver_cpu_ms_per_transaction"] = (
            1e3 * outcome.driver_cpu_seconds / outcome.transactions
        )
    return figures
