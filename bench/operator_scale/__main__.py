"""Measure what one operator costs that looks after 200 settled clusters.

    python -P -m bench.operator_scale [--quick] [--seconds N] [--clusters N] [--json FILE]

Here are an API server and all nodes that the operator calls; the operator itself is a process as it
is deployed. It makes the clusters, as it would anywhere; when all of them run and nothing was
written for a while, what it uses is measured. Exit status 1 when a bar is missed, 2 when something
could not be measured.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

import uvloop

from bench.pagefault.machine import machine_facts, usage
from bench.pagefault.report import Report, bar_line, table, with_facts
from fabric.logs import LogSettings, configure

from .bars import BARS
from .measure import SettlingError, Window, World, measure, outcome_of
from .operator_process import OperatorError, OperatorProcess

CLUSTERS: Final = 200
SECONDS: Final = 300.0
QUICK_SECONDS: Final = 60.0


def main() -> int:
    """Measure, and print what was found."""
    arguments = _parser().parse_args()
    configure(LogSettings(level="warning"), component="bench", stream=sys.stderr)
    report = Report({"benchmark": "operator_scale", "machine": machine_facts()}, BARS)
    try:
        before = usage()
        window = uvloop.run(_measured(arguments))
        after = usage()
    except (SettlingError, OperatorError, OSError) as failure:
        print(f"bench.operator_scale: {failure}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        return 2  # told to end: the operator has been ended, too
    outcome = with_facts(
        outcome_of(window),
        took_s=round(after.at_s - before.at_s, 1),
        others_cores=round(after.others_since(before), 2),
    )
    report.outcomes.append(outcome)
    print("\n".join([*table(outcome), *window.lines()]))
    is_other = arguments.clusters != CLUSTERS
    remark = f" ({arguments.clusters} clusters: no judgement of 200)" if is_other else ""
    for bar, measurement in report.judged():
        print(bar_line(bar, measurement) + remark)
    text = json.dumps(report.as_json(), indent=2 if arguments.json else None)
    if arguments.json is None:
        print(text)
    else:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 0 if report.is_passed else 1


async def _measured(arguments: argparse.Namespace) -> Window:
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    with tempfile.TemporaryDirectory(prefix="seawall-bench-") as name:
        directory = Path(name)
        async with World(directory) as world:
            world.ask_for(arguments.clusters)
            log = directory / "operator.log"
            command = tuple(arguments.operator.split()) if arguments.operator else ()
            async with OperatorProcess(world.api.kubeconfig, log, command) as operator:
                return await measure(world, operator, seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -P -m bench.operator_scale", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:g} s only")
    parser.add_argument("--seconds", type=float, metavar="N", help="how long is measured")
    parser.add_argument("--clusters", type=int, default=CLUSTERS, metavar="N")
    parser.add_argument("--operator", metavar="COMMAND", help="for a profiler around it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
