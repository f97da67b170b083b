"""Whether our own driver may be used: what it reaches beside pgbench, and what it costs.

Both put TPC-B on one target by turns, in closed loops and at a rate (see bench.loads.agreement).
Where our own costs more than a tenth more of the processor than pgbench, the result says so, and
pgbench is what carries the TPC-B family out; it does anyway where it is found.
"""

from typing import Final

from bench.loads.agreement import CPU_RATIO_MAX, Agreement, measure
from bench.loads.load import LoadSettings
from bench.loads.pgbench_binary import PgbenchLoad, find_program
from bench.loads.tpcb import Builtin
from bench.results.record import Judgement, Trial
from bench.tool.bars import DRIVER_AGREEMENT, HARNESS_CPU, PROMISES, bar_line, judge
from bench.tool.fleet import Fleet
from bench.tool.processor import moment
from bench.tool.refusals import REFUSALS
from bench.tool.work import Work

PART: Final = "drivers"
OURS: Final = "own-driver"
PGBENCH: Final = "pgbench"
CLIENTS: Final = 8
PAIRS: Final = 6
PAIRS_QUICK: Final = 2
SECONDS: Final = 8.0
SECONDS_QUICK: Final = 3.0
WARM_SECONDS: Final = 1.0
SCALE: Final = 10
PREFERRED: Final = "stock"  # nothing is between a client and PostgreSQL itself


def measure_agreement(work: Work, fleet: Fleet) -> None:
    """Measure both, and say and judge what came of it."""
    program = find_program()
    if program is None:
        work.remark(
            "drivers: pgbench was not found, so our own driver is used and compared with nothing;"
            " install postgresql-contrib"
        )
        return
    options = work.options
    name = PREFERRED if PREFERRED in fleet.names else fleet.names[0]
    settings = LoadSettings(
        clients=CLIENTS,
        seconds=SECONDS_QUICK if options.is_quick else SECONDS,
        seed=options.seed,
        warm_seconds=WARM_SECONDS,
    )
    try:
        fleet.target(name)
        address = fleet.directs[name]
        tables = PgbenchLoad(PGBENCH, Builtin.TPCB, program)
        tables.prepare(address, scale=SCALE, seed=options.seed)
        before = moment(fleet_roots=fleet.all_roots())
        pairs = PAIRS_QUICK if options.is_quick else PAIRS
        agreement = measure(program, address, settings, pairs=pairs)
        now = moment(fleet_roots=fleet.all_roots())
    except REFUSALS as refusal:
        work.fail(f"drivers: they could not be compared: {refusal}")
        return
    work.record.trials += trials_of(agreement, name, others_cores=now.others_cores_since(before))
    _say(work, agreement)


def trials_of(agreement: Agreement, target: str, *, others_cores: float) -> list[Trial]:
    """Both drivers' rounds. Pure."""
    loops = {
        f"tpcb on {target}": (agreement.closed, {}),
        f"tpcb on {target} at a rate": (agreement.paced, {"rate": round(agreement.rate, 1)}),
    }
    return [
        Trial(
            part=PART,
            target=driver,
            workload=workload,
            round=number,
            order=place if number % 2 == 0 else 1 - place,
            clients=agreement.clients,
            settings=dict(settings),
            figures={
                "tps": of.per_s,
                "p50_ms": of.p50_ms,
                "driver_cpu_us_per_transaction": of.cpu_us,
            },
            others_cores=others_cores,
        )
        for workload, (pairs, settings) in loops.items()
        for number, pair in enumerate(pairs)
        for place, (driver, of) in enumerate(((OURS, pair.ours), (PGBENCH, pair.pgbench)))
    ]


def cpu_judgement(cpu_ratio: float) -> Judgement:
    """Pgbench is there, so a driver that is too dear is said to be, and is not used: that is kept
    as well. Pure."""
    is_cheap = cpu_ratio <= CPU_RATIO_MAX
    condition = f"<={CPU_RATIO_MAX:g}" if is_cheap else f"<={CPU_RATIO_MAX:g} or pgbench is used"
    return Judgement(HARNESS_CPU, cpu_ratio, condition, is_met=True)


def _say(work: Work, agreement: Agreement) -> None:
    verdict = agreement.verdict()
    ratios = {"tps_ratio": agreement.tps_ratio, "closed_loop_ratio": agreement.closed_ratio}
    work.record.described(OURS, verdict, {name: round(of, 3) for name, of in ratios.items()})
    work.record.described(PGBENCH, "PostgreSQL's own load generator", {})
    work.progress.say(verdict)
    judged = judge(PROMISES, {DRIVER_AGREEMENT: agreement.tps_ratio})
    for judgement in [*judged, cpu_judgement(agreement.cpu_ratio)]:
        work.record.judgements.append(judgement)
        work.progress.say(bar_line(judgement))
