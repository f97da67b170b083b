"""The command line: what may be said, and what it means.

seawall bench PART|all [--quick] [--out DIR] [...]
seawall bench compare A B | report DIR | docs DIR ...
"""

import argparse
import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from .options import SEED, Options, Output

ALL: Final = "all"
CLIENTS_MAX: Final = 1000
ROUNDS_MAX: Final = 1000
SECONDS_MAX: Final = 24 * 3600

N = TypeVar("N", int, float)


def parser_of(program: str, parts: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser; `parts` has the summary of each part."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Measure Seawall beside other systems, on this machine, in interleaved rounds.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, summary in {**parts, ALL: "all of these, one after the other"}.items():
        _add_run_arguments(commands.add_parser(name, help=summary, description=summary))
    compare = commands.add_parser("compare", help="say in what two results differ")
    compare.add_argument("first", type=Path, metavar="A", help="a directory of --out, or its file")
    compare.add_argument("second", type=Path, metavar="B")
    compare.add_argument("--noisy", action="store_true", help="compare whatever the machine did")
    report = commands.add_parser("report", help="write report.html of a result again")
    report.add_argument("directory", type=Path, metavar="DIR", help="a directory of --out")
    docs = commands.add_parser("docs", help="write docs/benchmarks.md from a result, or several")
    docs.add_argument(
        "directories", type=Path, nargs="+", metavar="DIR", help="a directory of --out"
    )
    return parser


def options_of(arguments: argparse.Namespace) -> Options:
    """What a part may know."""
    return Options(
        is_quick=arguments.quick,
        targets=arguments.targets,
        workloads=arguments.workloads,
        clients=arguments.clients,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        seed=arguments.seed,
        dsn=arguments.dsn,
        is_noise_allowed=arguments.noisy,
        large_mb=arguments.large_mb,
    )


def output_of(arguments: argparse.Namespace) -> Output:
    """Where results go: by default a new directory below ./bench-results."""
    directory: Path | None = arguments.out
    if directory is None:
        at = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        directory = Path("bench-results", f"{at}-{arguments.command}")
    return Output(directory=directory, makes_report=not arguments.no_report)


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="few and short rounds; all parts in 15 minutes")
    add("--out", type=Path, metavar="DIR", help="for the results; default: below ./bench-results")
    add("--targets", type=_words, metavar="A,B", help="which systems; see bench/README.md")
    add("--workloads", type=_words, metavar="A,B", help="or blows, rates, benchmarks of a part")
    add("--clients", type=_list_of(_up_to(int, CLIENTS_MAX)), metavar="N,M", help="how many")
    add("--rounds", type=_up_to(int, ROUNDS_MAX), metavar="N", help="how often each target")
    add("--seconds", type=_up_to(float, SECONDS_MAX), metavar="S", help="of one trial")
    add("--seed", type=int, default=SEED, metavar="N", help=f"of order and load; default: {SEED}")
    add("--dsn", metavar="URL", help="of one more target; its password: PGPASSWORD, PGPASSFILE")
    add("--large-mb", type=_up_to(int, 10**6), metavar="N", help="of the database of `replicas`")
    add("--noisy", action="store_true", help="print comparisons whatever else the machine did")
    add("--no-report", action="store_true", help="write no report.html")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--version", type=int, metavar="N", help="major version of PostgreSQL")
    chosen.add_argument("--pg-bin", type=Path, metavar="DIR", help="directory of its programs")


def _words(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise argparse.ArgumentTypeError("must be one word or more, with commas in between")
    return words


def _up_to(kind: Callable[[str], N], highest: float) -> Callable[[str], N]:
    def read(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = kind("0")
        if not 0 < value <= highest:
            raise argparse.ArgumentTypeError(f"must be a number above 0 and up to {highest:g}")
        return value

    return read


def _list_of(read: Callable[[str], N]) -> Callable[[str], Sequence[N]]:
    return lambda text: tuple(read(word) for word in _words(text))
