"""`seawall bench`, from arguments to an exit status.

Everything that a run needs is looked for before anything is measured: a refusal is one sentence and
exit status 2.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

import psycopg

from bench.pagefault.workspace import workspace
from bench.parts.catalog import PARTS
from bench.results.files import ResultError, require_pyarrow
from bench.results.machine import commit, machine_facts
from fabric.logs import LogSettings, configure
from sqlnode.privileges import PrivilegeError, choose_identity
from sqlnode.server_copy import runnable_server
from sqlnode.servers import ServerError, choose_server

from .arguments import ALL, options_of, output_of, parser_of
from .bars import UNMEASURED
from .progress import progress_on
from .record import Record
from .secrets import without_secrets
from .session import interruptible, run_parts
from .work import Part

SUMMARIES: Final = {part.name: part.summary for part in PARTS}


def run(argv: Sequence[str], *, program: str) -> int:
    """Do what the arguments say; the exit status."""
    arguments = parser_of(program, SUMMARIES).parse_args(argv)
    configure(LogSettings(level="warning"), component="bench", stream=sys.stderr)
    try:
        match arguments.command:
            case "compare" | "report" | "docs":
                return _look_at(arguments)
            case _:
                return _measure(arguments, [program, *argv])
    except (PrivilegeError, ResultError, ServerError) as refusal:
        print(f"{program}: {refusal}", file=sys.stderr)
        return UNMEASURED
    except KeyboardInterrupt:
        return UNMEASURED


def _measure(arguments: argparse.Namespace, command: list[str]) -> int:
    require_pyarrow()
    options, output = options_of(arguments), output_of(arguments)
    identity = choose_identity()
    server = choose_server(
        arguments.version,
        pg_bin=arguments.pg_bin,
        search_path=os.environ.get("PATH", os.defpath),
    )
    is_all = arguments.command == ALL
    with (
        interruptible(),
        workspace(runnable_server(server, identity), identity) as place,
        progress_on(sys.stderr) as progress,
    ):
        machine = {
            **machine_facts(),
            "postgres": str(place.binaries.version),
            "psycopg": psycopg.__version__,
        }
        record = Record(
            command=without_secrets(command),
            commit=commit(),
            seed=options.seed,
            is_quick=options.is_quick,
            machine=machine,
        )
        return run_parts(
            list(PARTS) if is_all else [_part(arguments.command)],
            is_all=is_all,
            options=options,
            output=output,
            place=place,
            record=record,
            progress=progress,
        )


def _part(name: str) -> Part:
    return next(part for part in PARTS if part.name == name)


def _look_at(arguments: argparse.Namespace) -> int:
    from .looking import compare, documents, report  # noqa: PLC0415  # loads what draws

    match arguments.command:
        case "compare":
            return compare(arguments.first, arguments.second, is_noise_allowed=arguments.noisy)
        case "report":
            return report(arguments.directory)
        case _:
            return documents(arguments.directories)
