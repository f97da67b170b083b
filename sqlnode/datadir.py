"""Build the data directory of a cut: the right files at the right length, and nothing in them.

A directory that this module made looks complete to postgres: every file is there, sparse, as long
as it should be, and the block map says of every block that it is MISSING. Building it costs a few
system calls a file and no page is copied.

Layout of a compute's run directory:

    data/        what postgres calls PGDATA; may be deleted at any time while postgres is down
    block_map    docs/formats/block_map.md; of no use without data/, and data/ of none without it
    agent.sock   where faults are answered
    agent.lock   held by the one agent
    *.conf       the configuration, on purpose not inside data/: a postgres that is started there by
                 hand, without the library, fails instead of reading zeros
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .control_file import ControlFile, parse_control_file, require_supported
from .page_source import CutDescription, SourceError
from .pagefault.block_map import (
    BLOCK_BYTES,
    FILE_BLOCKS_MAX,
    BlockMap,
    BlockMapError,
    MapOptions,
    Waits,
    create_block_map,
)
from .servers import PgVersion

_WAITS: Final = Waits()
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_OLD_FILE: Final = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC

# What initdb makes and postgres expects, whether or not the cut has anything in it.
_DIRECTORIES: Final = (
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_xact",
)


class DataDirectoryError(Exception):
    """The directory cannot be built or used; the sentence names the thing and says what to do."""


@dataclass(frozen=True, slots=True)
class ComputeDir:
    """The paths of one compute's run directory."""

    root: Path

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.root / "data"

    @property
    def block_map(self) -> Path:
        """The state of every block of it."""
        return self.root / "block_map"

    @property
    def socket(self) -> Path:
        """Where postgres finds the agent."""
        return self.root / "agent.sock"

    @property
    def lock(self) -> Path:
        """Held by the agent that is in charge."""
        return self.root / "agent.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What the caller knows of the cluster; a cut that disagrees is refused."""

    server_version: PgVersion
    system_identifier: int | None = None
    data_checksums: bool = True  # False admits pages that cannot be checked on arrival


class DirectoryLock:
    """The right to answer faults of a run directory; goes with the process that holds it."""

    def __init__(self, compute: ComputeDir) -> None:
        self._descriptor = os.open(compute.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise DataDirectoryError(
                f"{compute.root} is served by another agent (process {holder}); stop that one first"
            ) from error
        with contextlib.suppress(OSError):  # a full disk; the number is for the message above only
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let another agent have it."""
        os.close(self._descriptor)


def control_of(cut: CutDescription, data_dir: Path, expected: Expectations) -> ControlFile:
    """Check that a server of ours can run on this cut; its control file."""
    contents = cut.small_files.get("global/pg_control")
    if contents is None:
        raise SourceError("the cut has no global/pg_control; choose another cut")
    control = parse_control_file(contents, data_dir)
    require_supported(
        control,
        data_dir=data_dir,
        server_version=expected.server_version,
        system_identifier=expected.system_identifier,
        data_checksums=expected.data_checksums,
    )
    return control


def build_data_directory(
    cut: CutDescription,
    compute: ComputeDir,
    expected: Expectations,
    *,
    tracks_changes: bool = False,
    waits: Waits = _WAITS,
    spares: Iterable[Path] = (),
) -> ControlFile:
    """Make `data/` and the block map of a cut. Neither may exist; on failure neither is usable.

    The map gets its final name last: a directory without a map was not finished, and is refused.

    `spares` are files that nobody has open and nobody needs: they are moved and emptied instead of
    new ones made. A file system that has just deleted as many (ext4) makes new ones slowly, because
    it leaves their numbers alone for a while: 0.6 ms each instead of 0.03, for a minute.
    """
    control = control_of(cut, compute.data, expected)
    _refuse_leftovers(compute)
    unfinished = compute.block_map.with_suffix(".building")
    unfinished.unlink(missing_ok=True)
    options = MapOptions(
        data_dir=compute.data,
        socket_path=compute.socket,
        system_identifier=control.system_identifier,
        tracks_changes=tracks_changes,
        link_wait_ms=waits.link_ms,
        reply_wait_ms=waits.reply_ms,
        busy_wait_ms=waits.busy_ms,
    )
    try:
        create_block_map(unfinished, options)
        with BlockMap(unfinished) as block_map:
            _make_directories(cut, compute.data)
            _make_data_files(cut, compute.data, block_map, iter(spares))
            _make_small_files(cut, compute.data)
        unfinished.rename(compute.block_map)
    except OSError as error:
        raise DataDirectoryError(
            f"{error.filename or compute.root} cannot be made ({error.strerror}); "
            "make room or choose another run directory"
        ) from error
    return control


def adopt_data_directory(cut: CutDescription, compute: ComputeDir, expected: Expectations) -> None:
    """Make the block map of a `data/` that is complete: nothing is MISSING, changes are tracked.

    For the redo engine of a cluster that has just been made; `cut` is the directory's description.
    """
    control = control_of(cut, compute.data, expected)
    options = MapOptions(
        data_dir=compute.data,
        socket_path=compute.socket,
        system_identifier=control.system_identifier,
    )
    create_block_map(compute.block_map, options)
    with BlockMap(compute.block_map) as block_map:
        for file in cut.files:
            block_map.add_file(file.path, missing_blocks=0)


def open_block_map(compute: ComputeDir) -> BlockMap:
    """The map of a run directory, if it belongs to it."""
    block_map = BlockMap(compute.block_map)
    if block_map.data_dir != compute.data:
        was = block_map.data_dir
        block_map.close()
        raise BlockMapError(
            f"block map {compute.block_map} was made for {was}; rebuild the data directory here"
        )
    return block_map


def _refuse_leftovers(compute: ComputeDir) -> None:
    for path in (compute.data, compute.block_map):
        if path.exists():
            raise DataDirectoryError(
                f"{path} exists already; delete it (it is a cache) or choose another run directory"
            )


def _make_directories(cut: CutDescription, data: Path) -> None:
    data.mkdir(mode=0o700)
    for directory in (*_DIRECTORIES, *cut.directories):
        _require_inside(directory)
        try:
            os.mkdir(data / directory, 0o700)
        except FileExistsError:
            continue


def _make_data_files(
    cut: CutDescription, data: Path, block_map: BlockMap, spares: Iterator[Path]
) -> None:
    """Sparse files; the loop is the cold start's longest, so it is made of bare system calls."""
    root = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for file in cut.files:
            if not block_map.tracks(file.path):
                raise SourceError(f"the cut lists {file.path}, which is no data file")
            if not 0 <= file.blocks <= FILE_BLOCKS_MAX:
                raise SourceError(
                    f"the cut gives {file.path} {file.blocks} blocks; choose another cut"
                )
            block_map.add_file(file.path, missing_blocks=file.blocks)
            spare = next(spares, None)
            if spare is None:
                descriptor = os.open(file.path, _NEW_FILE, 0o600, dir_fd=root)
            else:
                os.rename(spare, file.path, dst_dir_fd=root)
                descriptor = os.open(file.path, _OLD_FILE, dir_fd=root)
            if file.blocks:
                os.ftruncate(descriptor, file.blocks * BLOCK_BYTES)
            os.close(descriptor)
    finally:
        os.close(root)


def _make_small_files(cut: CutDescription, data: Path) -> None:
    for path, contents in cut.small_files.items():
        _require_inside(path)
        descriptor = os.open(
            data / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        with open(descriptor, "wb") as file:
            file.write(contents)


def _require_inside(path: str) -> None:
    if path.startswith("/") or ".." in path.split("/"):
        raise SourceError(f"the cut lists {path}, which is outside the data directory")
