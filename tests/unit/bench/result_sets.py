"""Result sets for tests, as a run would write them: several targets, rounds, blows, losses."""

import functools
import math
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from bench.results.record import Judgement, Mark, Point, ResultSet, TargetFacts, Trial

TARGETS = ("seawall-ha", "stock", "stock-sync")
FAILOVER_TARGETS = ("seawall-ha", "patroni", "patroni-tuned")
TPS = {"seawall-ha": 0.8, "stock": 1.3, "stock-sync": 0.7}  # as many times 1,000
GAP_SECONDS = {"seawall-ha": 1.4, "patroni": 31.0, "patroni-tuned": 9.0}

# What a hostile file might hold wherever a text is.
HOSTILE = "<script>document.title='x'</script>\"' onload=\"document.title='x'\" | `a` [b](c) & \x00"


def result_set(
    *,
    rounds: int = 7,
    seed: int = 1,
    others_cores: float = 0.05,
    ours: float = 1.0,
    **changes: Any,
) -> ResultSet:
    """Made of a seed; `ours` makes Seawall's transactions so many times as many."""
    result = ResultSet(
        command=["seawall", "bench", "all", "--rounds", str(rounds)],
        commit="0123456789ab+",
        started_at="2026-11-27T12:00:00+00:00",
        seconds=1234.5,
        seed=seed,
        is_quick=False,
        machine={"cpu": "An Example", "cores": 2, "memory_mib": 8192, "kernel": "6.1"},
        targets=[
            TargetFacts(name, f"{name} as it is set here", {"shared_buffers": "256MB"})
            for name in dict.fromkeys((*TARGETS, *FAILOVER_TARGETS))
        ],
        trials=list(_trials(rounds, seed, others_cores, ours)),
        judgements=[
            Judgement("failover_vs_patroni", 0.045, "<=0.1", is_met=True),
            Judgement("all_quick_minutes", 17.5, "<=15", is_met=False),
        ],
        failures=["pgpool could not be measured: install the package `pgpool2`."],
    )
    return msgspec.structs.replace(result, **changes)


def hostile_result_set() -> ResultSet:
    """The same with markup wherever a text is."""
    result = result_set(rounds=2)
    trials = [
        msgspec.structs.replace(
            trial,
            part=HOSTILE,
            target=f"{trial.target}{HOSTILE}",
            workload=f"{trial.workload}{HOSTILE}",
            figures={**trial.figures, f"{HOSTILE}_ms": 1.0},
            marks=[Mark(mark.at_seconds, HOSTILE) for mark in trial.marks],
        )
        for trial in result.trials
    ]
    return msgspec.structs.replace(
        result,
        command=["seawall", HOSTILE],
        commit=HOSTILE,
        started_at=HOSTILE,
        machine={HOSTILE: HOSTILE, "cores": HOSTILE},
        targets=[TargetFacts(HOSTILE, HOSTILE, {HOSTILE: [HOSTILE, {HOSTILE: 1.5}]})],
        trials=trials,
        judgements=[Judgement(HOSTILE, 1.0, HOSTILE, is_met=False)],
        failures=[HOSTILE],
    )


def trial(target: str, at: int, **figures: float) -> Trial:
    """One of few words."""
    return Trial(
        part="tps", target=target, workload="tpcb", round=at, order=0, clients=8, figures=figures
    )


def with_trials(trials: Sequence[Trial]) -> ResultSet:
    """A result set of these alone."""
    return result_set(trials=list(trials), judgements=[], failures=[])


@functools.cache  # trials never change, and many tests want the same
def _trials(rounds: int, seed: int, others_cores: float, ours: float) -> tuple[Trial, ...]:
    dice = random.Random(seed)
    return (
        *_tps(dice, rounds, others_cores, ours),
        *_failover(dice, rounds, others_cores),
        *_storage(dice, rounds, others_cores),
    )


def _tps(dice: random.Random, rounds: int, others_cores: float, ours: float) -> list[Trial]:
    found = []
    for workload, slower in (("tpcb", 1.0), ("select-only", 0.1)):
        for clients in (1, 8, 32):
            for at in range(rounds):
                weather = dice.uniform(0.8, 1.1)
                for order, target in enumerate(TARGETS):
                    factor = TPS[target] * (ours if target == "seawall-ha" else 1)
                    tps = 1000 * factor * weather * math.sqrt(clients) / slower
                    tps *= dice.uniform(0.98, 1.02)
                    histogram = _histogram(dice, 1e6 * clients / tps)
                    found.append(
                        Trial(
                            part="tps",
                            target=target,
                            workload=workload,
                            round=at,
                            order=order,
                            clients=clients,
                            settings={"scale": 10, "seconds": 10},
                            figures={
                                "tps": tps,
                                "p99_ms": 3000 * clients / tps,
                                "errors": float(at == 3 and target == "seawall-ha"),
                            },
                            histogram=histogram,
                            series=[
                                Point(round(tps * dice.uniform(0.9, 1.1)), 0, 12.5)
                                for _ in range(10)
                            ],
                            others_cores=others_cores,
                        )
                    )
    return found


def _failover(dice: random.Random, rounds: int, others_cores: float) -> list[Trial]:
    found = []
    for blow in ("postgres_killed", "node_killed"):
        for at in range(rounds):
            for order, target in enumerate(FAILOVER_TARGETS):
                gap = GAP_SECONDS[target] * dice.uniform(0.7, 1.3)
                series = [Point(300, 0, 9.0) for _ in range(50)]
                for second in range(10, 10 + round(gap)):
                    series[min(second, 49)] = Point(0, 8, 1500.0)
                found.append(
                    Trial(
                        part="failover",
                        target=target,
                        workload=blow,
                        round=at,
                        order=order,
                        clients=8,
                        figures={"gap_seconds": gap},
                        series=series,
                        marks=[Mark(10.2 + order, blow)],
                        others_cores=others_cores,
                    )
                )
    return found


def _storage(dice: random.Random, rounds: int, others_cores: float) -> list[Trial]:
    return [
        Trial(
            part="storage",
            target="seawall",
            workload="reads",
            round=at,
            order=0,
            figures={"getpage_p50_ms": dice.uniform(0.2, 0.3), "range_mb_per_s": 800.0},
            others_cores=others_cores,
        )
        for at in range(rounds)
    ]


def _histogram(dice: random.Random, mean_us: float) -> list[tuple[int, int]]:
    counts: dict[int, int] = {}
    for _ in range(500):
        upper_us = round(
            2 ** (round(16 * math.log2(dice.lognormvariate(math.log(mean_us), 0.5))) / 16)
        )
        counts[upper_us] = counts.get(upper_us, 0) + 1
    return sorted(counts.items())
