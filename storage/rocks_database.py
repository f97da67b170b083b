"""The RocksDB under the page store: how it is tuned, and the few ways in which we use it.

    write(batch)     a few keys, atomic and durable: the write-ahead log is synced
    ingest(entries)  many keys in ascending order, atomic and durable, without that log

`ingest` writes table files beside the database and hands them over in one call: RocksDB syncs the
files and its directory, and the one record of its manifest makes all of them visible, or none.
(Read off strace; a WriteBatch of 10,000 pages without log and with a flush behind it took twice as
long, and had to hold them all in memory.) What a crash leaves in `staging` is nobody's, and goes at
the next opening.

rocksdict holds the interpreter's lock in all of its calls. So a table file is synced from here,
where that waits without the lock, before `finish` would sync it with the lock held.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import rocksdict
from rocksdict import BlockBasedOptions, DBCompressionType, Options, Rdict, WriteBatch

from .page_store import DamagedError, StoreBrokenError, StoreDamagedError, StoreFullError
from .rocks_errors import is_file_lost, raise_store_error, rocks_errors
from .rocks_keys import PREFIX_BYTES
from .rocks_space import TableFile

_DATABASE: Final = "rocks"
_STAGING: Final = "staging"

# Two pages: half of what one decompresses for a single page is not wanted. Measured with four
# overlapping files: 8 KiB 35 us and 200-280 MB/s, 16 KiB 60 us and 320-410, 32 KiB 85 us and
# 340-590.
_BLOCK_BYTES: Final = 16 << 10
# Per version, in memory. A seek of one page skips the files that have none of it: 2-3 times faster.
_BLOOM_BITS: Final = 10
_LEVEL_0_FILES: Final = 4  # each cut is one; more of them make every read slower
_RANGE_READAHEAD_BYTES: Final = 256 << 10  # up to a third faster than RocksDB's own
_TABLE_FORMAT: Final = 5
_ROOM_ASKED_BYTES: Final = 8 << 20  # how much is written between two looks at the free space


@dataclass(frozen=True, slots=True, kw_only=True)
class RocksSettings:
    """What the page store may use."""

    block_cache_bytes: int = 64 << 20  # decompressed; the rest is the page cache of the system
    memtable_bytes: int = 8 << 20  # holds deletions only: pages never pass through it
    open_files_max: int = 512  # each costs its index and its filter: about 1 MiB per 256 MiB
    background_jobs: int = 2  # one compacts, one flushes: reads and publishing keep a core
    table_bytes_max: int = 256 << 20  # of what is ingested; a first cut becomes several files
    # Not to be used by cuts: what RocksDB needs when it compacts and what it notes down. A database
    # that meets a full disk in its manifest has to be opened again.
    reserve_bytes: int = 64 << 20
    contents_cached: int = 8  # cuts whose file lists stay decoded: 3 MB each with 20,000 files

    def __post_init__(self) -> None:
        if min(self.memtable_bytes, self.table_bytes_max) < 1 << 16:
            raise ValueError("memtables and tables have at least 64 KiB")
        if min(self.block_cache_bytes, self.reserve_bytes) < 0:
            raise ValueError("cache and reserve cannot be negative")
        if min(self.open_files_max, self.background_jobs, self.contents_cached) < 1:
            raise ValueError("open files, background jobs and cached contents are at least 1")


class RocksDatabase:
    """One open RocksDB. Its lock file keeps other processes out."""

    def __init__(self, directory: Path, settings: RocksSettings) -> None:
        self._directory = directory
        self._staging = directory / _STAGING
        self._settings = settings
        self._tables_written = 0
        try:
            (directory / _DATABASE).mkdir(parents=True, exist_ok=True)
            with rocks_errors(f"opening the page store {directory}"):
                self._rocks = Rdict(str(directory / _DATABASE), _database_options(settings))
        except StoreFullError:
            raise
        except Exception as error:
            raise _why_not_open(directory, error) from error
        self._table_options = _table_options(settings)
        # One at a time has the lock by now, so nobody is writing there.
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir()
        self._single = rocksdict.ReadOptions()
        self._single.set_prefix_same_as_start(True)
        self._range = rocksdict.ReadOptions()
        self._range.set_total_order_seek(True)
        self._range.set_readahead_size(_RANGE_READAHEAD_BYTES)
        self._walk = rocksdict.ReadOptions()
        self._walk.set_total_order_seek(True)
        self._synced = rocksdict.WriteOptions()
        self._synced.sync = True
        self._unsynced = rocksdict.WriteOptions()

    # Reading. An iterator sees what was there when it was made.

    def page_iterator(self) -> rocksdict.RdictIter:
        """Return an iterator that is right among the versions of the page that it seeks first."""
        return self._rocks.iter(self._single)

    def range_iterator(self) -> rocksdict.RdictIter:
        """Return an iterator for many pages in order."""
        return self._rocks.iter(self._range)

    def walk_iterator(self) -> rocksdict.RdictIter:
        """Return an iterator for anything, that reads nothing ahead."""
        return self._rocks.iter(self._walk)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key."""
        with rocks_errors("reading the page store"):
            value: bytes | None = self._rocks.get(key)
            return value

    def items(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return all keys with a prefix, and their values."""
        found: list[tuple[bytes, bytes]] = []
        with rocks_errors("reading the page store"):
            iterator = self.walk_iterator()
            iterator.seek(prefix)
            while iterator.valid() and iterator.key().startswith(prefix):
                found.append((iterator.key(), iterator.value()))
                iterator.next()
            iterator.status()  # the end of the keys and a failure look the same before
        return found

    # Writing.

    def batch(self) -> WriteBatch:
        """Return an empty batch for `write`."""
        return WriteBatch(raw_mode=True)

    def write(self, batch: WriteBatch, *, durable: bool = True) -> None:
        """Apply a batch as a whole; if not durable at once, then with the next one that is."""
        with rocks_errors("writing the page store"):
            self._rocks.write(batch, self._synced if durable else self._unsynced)

    @contextmanager
    def tables(self, entries: Iterable[tuple[bytes, bytes]]) -> Iterator[list[str]]:
        """Write ascending keys into files for `ingest`; what was not ingested is removed."""
        paths: list[str] = []
        try:
            self._write_tables(entries, paths)
            yield paths
        finally:
            for path in paths:
                Path(path).unlink(missing_ok=True)

    def ingest(self, paths: list[str]) -> None:
        """Make all keys of the files visible at once, durably, or none of them."""
        options = rocksdict.IngestExternalFileOptions()
        options.set_move_files(True)
        with rocks_errors("publishing a cut"):
            self._rocks.ingest_external_file(paths, options)

    def require_room(self) -> None:
        """Refuse with StoreFullError to go on when only the reserve is left."""
        room = os.statvfs(self._directory)
        if room.f_bavail * room.f_frsize < self._settings.reserve_bytes:
            raise StoreFullError(
                f"{self._directory} has only its reserve of {self._settings.reserve_bytes >> 20} "
                "MiB left; make room, then try again"
            )

    def _write_tables(self, entries: Iterable[tuple[bytes, bytes]], paths: list[str]) -> None:
        table: rocksdict.SstFileWriter | None = None
        table_bytes = unasked_bytes = 0
        for key, value in entries:
            if table is None or table_bytes > self._settings.table_bytes_max:
                if table is not None:
                    self._finish(table, paths[-1])
                table, table_bytes = self._new_table(paths), 0
            try:
                table[key] = value
            except Exception as error:  # noqa: BLE001  # see `rocks_errors`, which costs 2 us
                raise_store_error("writing a cut", error)
            table_bytes += len(value)
            unasked_bytes += len(value)
            if unasked_bytes > _ROOM_ASKED_BYTES:
                self.require_room()
                unasked_bytes = 0
        if table is not None:
            self._finish(table, paths[-1])

    def _new_table(self, paths: list[str]) -> rocksdict.SstFileWriter:
        self.require_room()
        self._tables_written += 1
        paths.append(str(self._staging / f"{os.getpid()}-{self._tables_written}.sst"))
        table = rocksdict.SstFileWriter(self._table_options)
        with rocks_errors("writing a cut"):
            table.open(paths[-1])
        return table

    def _finish(self, table: rocksdict.SstFileWriter, path: str) -> None:
        with rocks_errors("writing a cut"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(descriptor)  # most of it, without the interpreter's lock
                table.finish()  # the rest of it; syncs too
            finally:
                os.close(descriptor)

    # The whole.

    def compact(self, first: bytes, end: bytes) -> None:
        """Give the space of what was deleted in [first, end) back now instead of by and by."""
        with rocks_errors("compacting the page store"):
            self._rocks.flush()
            options = rocksdict.CompactOptions()
            options.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
            self._rocks.compact_range(first, end, options)

    def size_bytes(self) -> int:
        """Return what all files take."""
        total = 0
        for folder, _, names in os.walk(self._directory):
            for name in names:
                try:
                    total += os.stat(os.path.join(folder, name)).st_blocks * 512
                except FileNotFoundError:
                    continue  # compacted away in between
        return total

    def table_files(self) -> list[TableFile]:
        """Return the table files, with what they span."""
        with rocks_errors("looking at the table files"):
            return [
                TableFile(one["start_key"], one["end_key"], one["size"])
                for one in self._rocks.live_files()
            ]

    def close(self) -> None:
        """Let go; whatever is still iterating keeps the files until it ends."""
        with suppress(rocksdict.DbClosedError):
            self._rocks.close()


def _database_options(settings: RocksSettings) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_bottommost_compression_type(DBCompressionType.zstd())
    options.set_bottommost_compression_options(-14, 1, 0, 0, True)  # zstd level 1: for the CPU
    options.set_prefix_extractor(rocksdict.SliceTransform.create_fixed_prefix(PREFIX_BYTES))
    table = _table_factory()
    table.set_block_cache(rocksdict.Cache(settings.block_cache_bytes))
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(settings.memtable_bytes)
    options.set_max_write_buffer_number(2)
    options.set_level_zero_file_num_compaction_trigger(_LEVEL_0_FILES)
    options.set_max_background_jobs(settings.background_jobs)
    options.set_max_open_files(settings.open_files_max)
    options.set_bytes_per_sync(1 << 20)  # no bursts of writing back beside the log's syncs
    options.set_keep_log_file_num(3)
    options.set_max_log_file_size(4 << 20)
    options.set_paranoid_checks(True)
    # Files full of deletions are compacted soon: reads step over each of them until then.
    options.add_compact_on_deletion_collector_factory(1024, 512, 0.5)
    environment = rocksdict.Env()
    environment.lower_thread_pool_cpu_priority()  # compaction is never urgent
    options.set_env(environment)
    return options


def _table_options(settings: RocksSettings) -> Options:
    """Of what we write ourselves. The database's would compress with zstd, four times as long."""
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_prefix_extractor(rocksdict.SliceTransform.create_fixed_prefix(PREFIX_BYTES))
    options.set_block_based_table_factory(_table_factory())
    return options


def _table_factory() -> BlockBasedOptions:
    table = BlockBasedOptions()
    table.set_block_size(_BLOCK_BYTES)
    table.set_bloom_filter(_BLOOM_BITS, False)
    table.set_format_version(_TABLE_FORMAT)
    table.set_checksum_type(rocksdict.ChecksumType.xxh3())
    return table


def _why_not_open(directory: Path, error: Exception) -> StoreBrokenError:
    if "lock" in str(error).lower():
        return StoreBrokenError(
            f"the page store {directory} is open already, in this process or another; "
            "stop the other storage node first"
        )
    is_damaged = isinstance(error, DamagedError) or is_file_lost(error)
    kind = StoreDamagedError if is_damaged else StoreBrokenError
    return kind(
        f"the page store {directory} cannot be opened ({error}); check the disk, "
        "or remove the directory and let the node build it anew"
    )
