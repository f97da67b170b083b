"""What all servers of a comparison have in common, and how they are reached.

As `bench/log/sides.py` has it, with the buffers and connections of a comparison: the same data
checksums, autovacuum off, max_wal_size and checkpoint_timeout as PostgreSQL ships them, and all
else that a compute of ours sets back to PostgreSQL's own defaults. Clients come over TCP and show a
password by SCRAM everywhere, because that is how a local cluster of ours takes them.
"""

import os
import random
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.log.sides import EVEN, STOCK
from bench.node_process import free_ports
from bench.pagefault.workspace import Workspace
from sqlnode.initdb import InitdbOptions, initdb
from sqlnode.postgres import Postgres, PostgresSettings

from .target import Address, TargetSettings

HOST: Final = "127.0.0.1"
USER: Final = "postgres"
DATABASE: Final = "postgres"
LOCALE: Final = "C.UTF-8"  # of every cluster of ours


def new_password() -> str:
    """For one target; it is in private files only."""
    return secrets.token_hex(16)


def new_ports(count: int) -> list[int]:
    """Ports of loopback that are free now."""
    return free_ports(count, random.Random(os.urandom(8)))  # noqa: S311  # not a secret


def address(port: int, password: str) -> Address:
    """Return where the superuser of a target on this machine connects."""
    return Address(host=HOST, port=port, user=USER, database=DATABASE, password=password)


def even_settings(settings: TargetSettings) -> dict[str, str]:
    """Return settings that are the same for every stock server."""
    return {
        **EVEN,
        **STOCK,
        "max_connections": str(settings.max_connections),
        "shared_buffers": settings.shared_buffers,
    }


def facts_of(place: Workspace, settings: TargetSettings) -> dict[str, object]:
    """Return what results of a stock server say of it."""
    return {"postgres": str(place.binaries.version), "settings": even_settings(settings)}


def new_data_directory(place: Workspace, prefix: str, password: str) -> Path:
    """Make a cluster whose superuser has the password."""
    data_dir = place.new_directory(prefix) / "data"
    options = InitdbOptions(sync=False, password=password)
    initdb(place.binaries, data_dir, identity=place.identity, options=options)
    return data_dir


def new_server(
    place: Workspace, data_dir: Path, port: int, settings: Mapping[str, str]
) -> Postgres:
    """Return a stock server that is not started yet and listens on loopback."""
    return Postgres(
        binaries=place.binaries,
        data_dir=data_dir,
        run_dir=data_dir.parent,
        identity=place.identity,
        settings=PostgresSettings(
            fsync=True,
            full_page_writes=True,
            restart_after_crash=True,
            tcp_port=port,
            extra=settings,
        ),
    )
