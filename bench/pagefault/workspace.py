"""Where a run of the benchmarks lives: a directory below /tmp, and servers that never outlive it.

Every server and broker is started through a context manager here and is killed when that ends,
however it ends. Directories belong to the user that postgres runs as, and have short names because
a Unix socket's path is short.
"""

import contextlib
import fcntl
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from sqlnode.initdb import InitdbOptions, initdb
from sqlnode.lazy_compute import ComputeSpec, LazyCompute
from sqlnode.postgres import Postgres, PostgresSettings, Preload
from sqlnode.privileges import Identity
from sqlnode.servers import ServerBinaries

# From linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL.
_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_TOP_OF_HIERARCHIES: Final = 0x00020000

# Nothing may happen by itself in the middle of a measurement.
QUIET: Mapping[str, str] = {
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "64GB",
}


@dataclass(slots=True)
class Workspace:
    """The place, the server's programs, and the user that they run as."""

    binaries: ServerBinaries
    identity: Identity
    directory: Path

    def new_directory(self, prefix: str) -> Path:
        """A directory of its own for a run of something; removed at the end at the latest."""
        directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=self.directory))
        self.identity.give(directory)
        return directory

    def new_cluster(self, prefix: str) -> Path:
        """A new data directory; its run directory is the parent."""
        data_dir = self.new_directory(prefix) / "data"
        initdb(self.binaries, data_dir, identity=self.identity, options=InitdbOptions(sync=False))
        return data_dir

    def copy_cluster(self, data_dir: Path, prefix: str) -> Path:
        """A copy of a data directory at rest."""
        copy = self.new_directory(prefix) / "data"
        shutil.copytree(data_dir, copy, symlinks=True)
        self.identity.give_tree(copy)
        return copy

    @contextlib.contextmanager
    def running(
        self, data_dir: Path, *, preload: Preload | None = None, **settings: str
    ) -> Iterator[Postgres]:
        """A server over a data directory; stopped cleanly at the end, or killed after a failure."""
        server = Postgres(
            binaries=self.binaries,
            data_dir=data_dir,
            run_dir=data_dir.parent,
            identity=self.identity,
            settings=PostgresSettings(extra={**QUIET, **settings}),
            preload=preload,
        )
        try:
            server.start_blocking()
            yield server
            if server.running:
                server.stop_blocking()
        finally:
            server.kill_blocking()

    @contextlib.contextmanager
    def compute(self, source_dir: Path, *, wal_dir: Path, **settings: str) -> Iterator[LazyCompute]:
        """A compute that is not started yet; killed and removed at the end."""
        run_dir = self.new_directory("compute")
        compute = LazyCompute(
            ComputeSpec(
                binaries=self.binaries,
                run_dir=run_dir,
                source_dir=source_dir,
                identity=self.identity,
                settings=PostgresSettings(extra={**QUIET, **settings}),
                wal_dir=wal_dir,
            )
        )
        try:
            yield compute
        finally:
            compute.kill()
            shutil.rmtree(run_dir)


@contextlib.contextmanager
def workspace(binaries: ServerBinaries, identity: Identity) -> Iterator[Workspace]:
    """A place that is gone afterwards."""
    directory = Path(
        tempfile.mkdtemp(prefix="swb-", dir="/tmp")
    )  # short for sockets, and ours alone
    identity.give(directory)
    spread_directories(directory)
    try:
        yield Workspace(binaries, identity, directory)
    finally:
        shutil.rmtree(directory)


def spread_directories(directory: Path) -> None:
    """Ask the file system to keep the directories in here apart from each other.

    For minutes after a file was deleted ext4 does not give its inode out again, and the creation of
    a file near thousands of such inodes looks at all of them: a data directory that is made where
    one has just been deleted takes ten times as long, which is no property of ours. With the flag
    (chattr +T) each directory goes somewhere else. Other file systems do not need it.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            flags = struct.unpack("i", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(4)))[0]
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("i", flags | _TOP_OF_HIERARCHIES))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def connected(server: Postgres) -> Iterator[psycopg.Connection]:
    """A session in autocommit mode."""
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        yield connection


def one_value(connection: psycopg.Connection, sql: str) -> object:
    """The first column of the first row."""
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None, f"{sql} gave no row"
    return row[0]
