"""Create a database cluster with initdb.

The configuration files that initdb writes are removed again: a data directory without them starts
only with the configuration that Seawall gives (see postgres_settings).
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .postmaster import last_lines, postgres_environment
from .privileges import Identity
from .servers import ServerBinaries

INITDB_TIMEOUT_S = 300  # takes 1 s; an overloaded machine with slow disks gets its time
CONFIGURATION_FILES = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")


class InitdbError(Exception):
    """initdb refused or failed; the text says why in PostgreSQL's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitdbOptions:
    """How a cluster is made."""

    superuser: str = "postgres"
    data_checksums: bool = True  # a page that a source got wrong is noticed, see the design
    locale: Literal["C.UTF-8", "C"] = "C.UTF-8"
    wal_segment_mib: int = 16
    sync: bool = True  # False for tests: a power cut may lose the new directory
    password: str | None = None  # None: the superuser logs in by trust or not at all


_Options = InitdbOptions()


def initdb(
    server: ServerBinaries,
    data_dir: Path,
    *,
    identity: Identity,
    options: InitdbOptions = _Options,
) -> None:
    """Make a cluster in an empty or absent directory. Takes a second: in asyncio use a thread."""
    identity.make_directory(data_dir)
    with _password_file(options.password, identity) as password_file:
        command = initdb_argv(server, data_dir, options, password_file)
        try:
            subprocess.run(
                command,
                capture_output=True, check=True, cwd="/", encoding="utf-8", errors="replace",
                env=postgres_environment({}, identity, {"LC_ALL": options.locale}),
                stdin=subprocess.DEVNULL, timeout=INITDB_TIMEOUT_S,
                **identity.subprocess_options(),
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise InitdbError(
                f"initdb of {server} cannot make a cluster in {data_dir}: "
                f"{last_lines(error.stderr)}"
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InitdbError(
                f"initdb of {server} cannot be run for {data_dir}: {error}"
            ) from error
    for name in CONFIGURATION_FILES:
        (data_dir / name).unlink()


def initdb_argv(
    server: ServerBinaries, data_dir: Path, options: InitdbOptions, password_file: Path | None
) -> list[str]:
    """Return the command line; secrets are never in it."""
    login = "trust" if password_file is None else "scram-sha-256"
    argv = [
        str(server.tool("initdb")),
        f"--pgdata={data_dir}",
        f"--username={options.superuser}",
        f"--auth={login}",
        "--encoding=UTF8",
        f"--locale={options.locale}",
        f"--wal-segsize={options.wal_segment_mib}",
        "--no-instructions",
    ]
    if options.data_checksums:
        argv.append("--data-checksums")
    elif server.version.major >= _CHECKSUMS_DEFAULT_SINCE:
        argv.append("--no-data-checksums")
    if password_file is not None:
        argv.append(f"--pwfile={password_file}")
    if not options.sync:
        argv.append("--no-sync")
    return argv


_CHECKSUMS_DEFAULT_SINCE = 18


@contextlib.contextmanager
def _password_file(password: str | None, identity: Identity) -> Iterator[Path | None]:
    """A private file that only the identity can read, gone afterwards."""
    if password is None:
        yield None
        return
    with tempfile.NamedTemporaryFile(prefix="seawall-", mode="w", encoding="utf-8") as file:
        file.write(password + "\n")
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        identity.give(Path(file.name))
        yield Path(file.name)
