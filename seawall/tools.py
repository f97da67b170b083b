"""`seawall log | storage | demo`: the tools that need no local cluster, and their arguments."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlnode.servers import ServerError, choose_server

from .demo import DemoError, run_demo
from .log_arguments import add_log_parser
from .log_command import run_log
from .storage_arguments import add_storage_parser
from .storage_command import run_storage


def run_tool(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the tool that the arguments name; the exit status."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "log":
        return run_log(arguments, environ)
    if arguments.command == "storage":
        return run_storage(arguments, environ)
    return _demo(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        server = choose_server(
            arguments.pg_version,
            pg_bin=arguments.pg_bin,
            search_path=os.environ.get("PATH", os.defpath),
        )
        run_demo(server, rows=arguments.rows)
    except (DemoError, ServerError) as error:
        print(f"seawall: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("seawall: interrupted; nothing is left behind", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seawall", description="Cloud-native PostgreSQL.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    demo = commands.add_parser(
        "demo", help="lose a primary, boot a replacement that has no data, and look at it"
    )
    demo.add_argument("--pg-bin", type=Path, help="directory with a PostgreSQL's programs")
    demo.add_argument("--pg-version", type=int, metavar="MAJOR", help="15, 16, 17 or 18")
    demo.add_argument(
        "--rows", type=_rows, default=1_000_000, help="size of the demonstration's table"
    )
    add_log_parser(commands)
    add_storage_parser(commands)
    return parser


def _rows(text: str) -> int:
    rows = int(text)
    if not 1_000 <= rows <= 100_000_000:  # noqa: PLR2004  # said in the sentence
        raise argparse.ArgumentTypeError("must be between 1,000 and 100,000,000")
    return rows
