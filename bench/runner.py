"""What the programs of benchmarks share: their arguments, one benchmark after another, the report.

    SUITE = Suite(name="log", ..., measure=measure)
    sys.exit(run_suite(SUITE))

A program prints a table for each benchmark when it is done, at the end one line for each bar that
was measured, and then JSON. Its exit status is 1 when a bar is missed, 2 when something could not
be measured; a benchmark that cannot be measured stops no other. Everything happens below a
directory in /tmp that is removed at the end.
"""

import argparse
import datetime
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg

from bench.pagefault.machine import machine_facts, usage
from bench.pagefault.report import Bar, Outcome, Report, bar_line, table, with_facts
from bench.pagefault.workspace import Workspace, workspace
from fabric.logs import LogSettings, configure
from sqlnode.privileges import PrivilegeError, choose_identity
from sqlnode.server_copy import runnable_server
from sqlnode.servers import ServerBinaries, ServerError, choose_server


class Measure(Protocol):
    """Carries out one benchmark."""

    def __call__(self, name: str, place: Workspace, arguments: argparse.Namespace) -> Outcome:
        """Return what was found, or raise one of the suite's refusals."""


def no_remark(_bar: str, _arguments: argparse.Namespace) -> str:
    """Nothing is to be said beside a figure."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The benchmarks of one program."""

    name: str  # of the package below bench
    summary: str  # one line
    bars: Sequence[Bar]
    names: Sequence[str]  # in the order in which they run by default
    measure: Measure
    refusals: tuple[type[Exception], ...]  # why a benchmark could not be measured, in a sentence
    asked_for: Sequence[str] = ()  # run only when they are named
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None
    facts: Callable[[argparse.Namespace], Mapping[str, object]] = lambda _: {}
    remark: Callable[[str, argparse.Namespace], str] = no_remark
    """What the line of a bar must say beside the figure: why it is less than was promised."""


def run_suite(suite: Suite) -> int:
    """Run what the arguments choose; the exit status."""
    arguments = _parser(suite).parse_args()
    configure(LogSettings(level="warning"), component="bench", stream=sys.stderr)
    # Terminated as well as interrupted, servers are stopped and files removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        identity = choose_identity()
        server = choose_server(
            arguments.version,
            pg_bin=arguments.pg_bin,
            search_path=os.environ.get("PATH", os.defpath),
        )
        with workspace(runnable_server(server, identity), identity) as place:
            report = Report(_facts(suite, place.binaries, arguments), suite.bars)
            failures = _measure(suite, place, arguments, report)
    except (PrivilegeError, ServerError) as refusal:
        print(f"bench.{suite.name}: {refusal}", file=sys.stderr)
        return 2
    for bar, measurement in report.judged():
        print(bar_line(bar, measurement) + remark_text(suite, bar.name, arguments))
    text = json.dumps(report.as_json(), indent=2 if arguments.json else None)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    if failures:
        return 2
    return 0 if report.is_passed else 1


def remark_text(suite: Suite, bar: str, arguments: argparse.Namespace) -> str:
    """Say beside a figure what it is less than, so that nobody takes it for more than it is."""
    said = ["quick: too little was measured to judge by"] if arguments.quick else []
    if remark := suite.remark(bar, arguments):
        said.append(remark)
    return f" ({'; '.join(said)})" if said else ""


def _measure(suite: Suite, place: Workspace, arguments: argparse.Namespace, report: Report) -> int:
    """Carry out each benchmark in turn; return how many could not be measured."""
    failures = 0
    for name in arguments.only or suite.names:
        before = usage()
        try:
            outcome = suite.measure(name, place, arguments)
        except suite.refusals as refusal:
            failures += 1
            print(f"{name} could not be measured: {refusal}", file=sys.stderr)
            continue
        after = usage()
        outcome = with_facts(
            outcome,
            took_s=round(after.at_s - before.at_s, 1),
            others_cores=round(after.others_since(before), 2),
        )
        report.outcomes.append(outcome)
        print("\n".join(table(outcome)), flush=True)
    return failures


def _facts(
    suite: Suite, binaries: ServerBinaries, arguments: argparse.Namespace
) -> dict[str, object]:
    return {
        "benchmark": suite.name,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": arguments.quick,
        **suite.facts(arguments),
        "postgres": str(binaries.version),
        "psycopg": psycopg.__version__,
        "machine": machine_facts(),
    }


def _parser(suite: Suite) -> argparse.ArgumentParser:
    names = (*suite.names, *suite.asked_for)
    parser = argparse.ArgumentParser(
        prog=f"python -P -m bench.{suite.name}", description=suite.summary
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there")
    suite.add_arguments(parser)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--version", type=int, metavar="N", help="major version of PostgreSQL")
    chosen.add_argument("--pg-bin", type=Path, metavar="DIR", help="directory of its programs")
    return parser
