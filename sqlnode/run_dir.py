"""The run directory of a server: configuration, socket and log, private to postgres's user.

It is ours to rewrite at every start and may be deleted whenever the server does not run.
"""

import os
import shutil
from pathlib import Path

from .postgres_settings import (
    PostgresSettings,
    SettingsError,
    pg_hba_conf,
    pg_ident_conf,
    postgresql_conf,
)
from .privileges import Identity, obstacle
from .servers import PgVersion


def write_configuration(
    run_dir: Path, settings: PostgresSettings, *, identity: Identity, version: PgVersion
) -> None:
    """Make the directory and write the three files that a start, or a reload, reads."""
    identity.make_directory(run_dir)
    texts = {
        "postgresql.conf": postgresql_conf(settings, version=version),
        "pg_hba.conf": pg_hba_conf(settings),
        "pg_ident.conf": pg_ident_conf(settings),
    }
    for name, text in texts.items():
        _replace(run_dir / name, text, identity)


def _replace(path: Path, text: str, identity: Identity) -> None:
    """Replace a file by one with secrets in it; the server never sees half of it."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    aside.touch(mode=0o600)
    aside.write_text(text, encoding="utf-8")
    identity.give(aside)
    aside.replace(path)


def readable_library(library: Path, *, run_dir: Path, identity: Identity) -> Path:
    """Return the library, or a copy in the run directory when postgres's user cannot read it.

    The dynamic loader only warns about a library that it cannot open, and goes on without.
    """
    if not os.path.isfile(library):
        raise SettingsError(f"{library} does not exist: build it or reinstall Seawall")
    if obstacle(identity, library) is None:
        return library
    copy = run_dir / library.name
    copy.unlink(missing_ok=True)  # a process that still runs with it keeps its own
    shutil.copyfile(library, copy)
    copy.chmod(0o500)
    identity.give(copy)
    return copy
