"""Runs seeds from the command line: `python -m simulation --seeds 0:2000` in tests/.

Prints how many seeds a minute, what they met, and the first seed that fails with the tail of its
trace; exit 1 then, and also when many seeds together never met something that they must meet.
`--seed 17 --trace` replays one seed and prints all of it.
"""

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass

from .coverage import SEEDS_ENOUGH, missing
from .world import Result, run

TAIL_LINES = 60
PROGRESS_SEEDS = 500
CHUNK_SEEDS = 8  # to a process at a time


def main() -> int:
    """Parse the arguments, run, report."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:200", help="first:end, or one number")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    arguments = parser.parse_args()
    first, _, end = str(arguments.seeds).partition(":")
    seeds = range(int(first), int(end) if end else int(first) + 1)
    if arguments.seed is not None:
        seeds = range(arguments.seed, arguments.seed + 1)
    if arguments.trace:
        return _replay(seeds[0], lines_max=sys.maxsize)
    return _run(seeds)


@dataclass(frozen=True, slots=True)
class Told:
    """What is kept of a result: traces and violations stay where they were made."""

    is_violated: bool
    counts: Counter[str]
    events: int
    committed: int
    virtual_us: int
    cpu_s: float


def _told(seed: int) -> Told:
    began = time.process_time()
    result = run(seed)
    return Told(
        result.violation is not None,
        Counter(result.counts),
        result.events,
        result.committed,
        result.virtual_us,
        time.process_time() - began,
    )


def _run(seeds: range) -> int:
    """On all processors, and in the order of the seeds: the first that fails is replayed here."""
    told: list[Told] = []
    with multiprocessing.get_context("fork").Pool() as pool:
        for seed, result in zip(seeds, pool.imap(_told, seeds, CHUNK_SEEDS), strict=True):
            if result.is_violated:
                return _replay(seed, lines_max=TAIL_LINES)
            told.append(result)
            if len(told) % PROGRESS_SEEDS == 0:
                sys.stderr.write(f"{len(told)} seeds hold\n")
    counts = sum((one.counts for one in told), Counter[str]())
    report = {
        "seeds": f"{seeds.start}:{seeds.stop}",
        "seeds_per_core_minute": round(len(seeds) / sum(one.cpu_s for one in told) * 60),
        "events_per_seed": sum(one.events for one in told) // len(seeds),
        "committed_per_seed": sum(one.committed for one in told) // len(seeds),
        "committed_least": min(one.committed for one in told),
        "faults_per_seed": counts["faults"] // len(seeds),
        "virtual_s_per_seed": round(sum(one.virtual_us for one in told) / 1e6 / len(seeds), 1),
        "coverage": dict(sorted(counts.items())),
    }
    _say(json.dumps(report, indent=1))
    never = missing(counts) if len(seeds) >= SEEDS_ENOUGH else []
    if never:
        _say(f"these seeds never met: {', '.join(never)}")
    return 1 if never else 0


def _replay(seed: int, *, lines_max: int) -> int:
    result = run(seed, is_traced=True)
    for line in result.lines[-lines_max:]:
        _say(line)
    _say(_verdict(result))
    return 0 if result.violation is None else 1


def _verdict(result: Result) -> str:
    place = f"seed {result.seed}, event {result.events}, {result.virtual_us / 1e6:.6f} s"
    if result.violation is None:
        return f"{place}: everything holds, {result.committed} entries committed"
    cause = result.violation.__cause__
    where = "".join(traceback.format_exception(cause)) if cause is not None else ""
    return f"{where}{place}: VIOLATED {result.violation}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
