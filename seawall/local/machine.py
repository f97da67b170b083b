"""What a cluster needs of the machine, looked at before anything is changed."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlnode.privileges import Identity, obstacle
from sqlnode.server_copy import runnable_server
from sqlnode.servers import ServerBinaries, ServerError, choose_server

from .cluster_file import ClusterError, ClusterFile

MIB: Final = 1024 * 1024
DISK_BASE_BYTES: Final = 256 * MIB
DISK_LOG_BYTES: Final = 128 * MIB  # a log node's segments, and some WAL
DISK_STORAGE_BYTES: Final = 96 * MIB  # a first cut and its engine
DISK_COMPUTE_BYTES: Final = 64 * MIB
MEMORY_BASE_BYTES: Final = 128 * MIB
MEMORY_NODE_BYTES: Final = 64 * MIB


def require_directory(top: Path) -> None:
    """Refuse to make a cluster among somebody's files."""
    if top.is_symlink() or (top.exists() and not top.is_dir()):
        raise ClusterError(f"{top} is no directory: name another with --dir")
    if top.is_dir() and any(path.name not in _OURS for path in top.iterdir()):
        raise ClusterError(
            f"{top} is not empty and has no cluster: name an empty or a new directory with --dir"
        )


# What an attempt to make a cluster leaves that ended before cluster.json was there.
_OURS: Final = frozenset({"lock", "supervisor.log", ".cluster.json.new"})


def require_reachable(top: Path, identity: Identity) -> None:
    """Refuse a directory that the user that PostgreSQL runs as cannot get to."""
    blocked = obstacle(identity, top)
    # It has no need to list the directory itself, only to pass through it.
    if blocked is not None and blocked != Path(os.path.realpath(top)):
        raise ClusterError(
            f"user {identity.name}, as whom PostgreSQL runs, cannot enter {blocked}: name a "
            "directory elsewhere with --dir, such as one below /var/lib"
        )


def disk_needed_bytes(*, log: int, storage: int, computes: int) -> int:
    """Return how much space such a cluster takes in its first minutes, generously."""
    return (
        DISK_BASE_BYTES
        + log * DISK_LOG_BYTES
        + storage * DISK_STORAGE_BYTES
        + computes * DISK_COMPUTE_BYTES
    )


def memory_needed_bytes(*, log: int, storage: int, computes: int, gateways: int) -> int:
    """Return how much memory must be free."""
    return MEMORY_BASE_BYTES + (log + storage + computes + gateways) * MEMORY_NODE_BYTES


def require_room(top: Path, *, log: int, storage: int, computes: int, gateways: int = 0) -> None:
    """Refuse a machine with too little disk or memory."""
    existing = next(path for path in (top, *top.parents) if path.exists())
    needed = disk_needed_bytes(log=log, storage=storage, computes=computes)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ClusterError(
            f"the disk of {top} has {free // MIB} MiB free and the cluster needs "
            f"{needed // MIB}: free some space, or name another directory with --dir"
        )
    needed = memory_needed_bytes(log=log, storage=storage, computes=computes, gateways=gateways)
    available = available_memory_bytes(Path("/proc/meminfo").read_text(encoding="ascii"))
    if available is not None and available < needed:
        raise ClusterError(
            f"the machine has {available // MIB} MiB of memory left and the cluster needs "
            f"{needed // MIB}: end other programs, or start it without --ha"
        )


def available_memory_bytes(meminfo: str) -> int | None:
    """Return what /proc/meminfo says can still be used; None if it does not."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def find_server(
    version: int | None, pg_bin: Path | None, environ: Mapping[str, str], identity: Identity
) -> ServerBinaries:
    """Return the PostgreSQL to use, where the user that runs it can."""
    try:
        search_path = environ.get("PATH", os.defpath)
        server = choose_server(version, pg_bin=pg_bin, search_path=search_path)
        return runnable_server(server, identity)
    except ServerError as error:
        raise ClusterError(str(error)) from error


def server_of(
    cluster: ClusterFile, pg_bin: Path | None, environ: Mapping[str, str], identity: Identity
) -> ServerBinaries:
    """Return the server of a cluster: the named one, the remembered one, another of its major."""
    if pg_bin is None and os.path.isfile(Path(cluster.pg_bin) / "postgres"):
        pg_bin = Path(cluster.pg_bin)
    return find_server(cluster.pg_major, pg_bin, environ, identity)
