"""Run one of PostgreSQL's suites against the primary of a cluster, as `make installcheck` would.

The programs that run tests read and write files, and so does the server in the course of tests: all
of them run as the same user, below the workspace.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.node_process import node_environment
from bench.pagefault.workspace import Workspace

from .results import SuiteResult, parse_results
from .sources import FOLDERS

TIMEOUT_S: Final = 1800
PROGRAMS: Final = "lib/pgxs/src/test"  # beside the directory of a Debian server's programs
TRIGGER_LIBRARIES: Final = ("refint.so", "autoinc.so")  # the tests of 15 and 16 load them
# A compute allows in-place tablespaces, because replicas need it; one test wants them refused.
OPTIONS: Final = "-c allow_in_place_tablespaces=off"
# As pg_regress gives to servers of its own: by default PostgreSQL has no two-phase commit.
PRIMARY_SETTINGS: Final[Mapping[str, str]] = {"max_prepared_transactions": "2"}
QUOTED_CHARACTERS_MAX: Final = 800


class SuiteError(Exception):
    """A suite could not be run; the text says why."""


@dataclass(frozen=True, slots=True)
class PgSuite:
    """One suite: where its files are, and which program runs it."""

    name: str
    folder: str  # below src/test
    program: str
    schedule: str


SUITES: Final = (
    PgSuite("regression", "regress", "pg_regress", "parallel_schedule"),
    PgSuite("isolation", "isolation", "pg_isolation_regress", "isolation_schedule"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A primary, and how to log in as its superuser."""

    host: str
    port: int
    pgpass: Path


def own_files(files: Path, pgpass: Path, place: Workspace) -> tuple[Path, Path]:
    """Copy the suites and the password to where the servers' user can read them."""
    folder = place.new_directory("suites")
    for name in FOLDERS:
        shutil.copytree(files / name, folder / name, symlinks=True)
    for library in TRIGGER_LIBRARIES:
        installed = place.binaries.bin_dir.parent / "lib" / library
        if installed.exists():
            shutil.copy(installed, folder / "regress")
    password = folder / "pgpass"
    shutil.copyfile(pgpass, password)
    password.chmod(0o600)  # libpq ignores it otherwise
    place.identity.give_tree(folder)
    return folder, password


def run_pg_suite(
    suite: PgSuite, files: Path, target: Target, place: Workspace
) -> tuple[SuiteResult, Path]:
    """Run all tests of a suite; the result, and the directory with what they have left."""
    program = place.binaries.bin_dir.parent / PROGRAMS / suite.folder / suite.program
    if not program.exists():
        raise SuiteError(f"{program} does not exist: install the server's client package")
    output = place.new_directory(suite.name)
    inputs = files / suite.folder
    command = [
        str(program),
        f"--inputdir={inputs}",
        f"--outputdir={output}",
        f"--dlpath={files / 'regress'}",
        f"--bindir={place.binaries.bin_dir}",
        f"--schedule={inputs / suite.schedule}",
        f"--host={target.host}",
        f"--port={target.port}",
    ]
    try:
        done = subprocess.run(
            command, check=False, cwd=inputs, env=_environment(target),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace", timeout=TIMEOUT_S,
            **place.identity.subprocess_options(),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SuiteError(f"{suite.name} did not end within {TIMEOUT_S} s") from error
    result = parse_results(done.stdout)
    # Exit status 1 says that tests failed, and then it has to name them.
    if done.returncode not in {0, 1} or result.total == 0 or bool(result.failed) != done.returncode:
        raise SuiteError(
            f"{suite.program} ended with {done.returncode}: "
            f"{done.stdout[-QUOTED_CHARACTERS_MAX:].strip()}"
        )
    (output / "printed").write_text(done.stdout, encoding="utf-8")
    return result, output


def keep_differences(output: Path, kept: Path) -> None:
    """Copy what explains a failure to where it outlives the workspace."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("printed", "regression.diffs", "regression.out"):
        if (output / name).exists():
            shutil.copyfile(output / name, kept / name)


def _environment(target: Target) -> Mapping[str, str]:
    return {
        **node_environment(os.environ),
        "PGOPTIONS": OPTIONS,
        "PGPASSFILE": str(target.pgpass),
        "PGUSER": "postgres",
    }
