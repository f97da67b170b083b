"""A plain directory as a page source: a data directory at rest, or an image made of harvests.

Pages that the kernel has in memory are read at once; for the others a thread waits for the disk, so
that one slow read never holds up the faults behind it.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from .page_source import (
    CutDescription,
    DataFile,
    PageRange,
    SourceError,
    is_data_file,
    is_small_file,
)
from .pagefault.block_map import BLOCK_BYTES, SLRU_DIRS, Pages

_OPEN_FILES_MAX: Final = 512  # well below the usual limit of 1024 descriptors
_RANGES_AT_ONCE: Final = _OPEN_FILES_MAX // 2  # so that none of their files is closed meanwhile
_SMALL_FILE_BYTES_MAX: Final = 64 << 20  # a two-phase state file of a huge transaction
_ROOTS: Final = ("base", "global", "pg_tblspc", "pg_twophase", "pg_logical", *SLRU_DIRS)


class DirectorySource:
    """Implements `PageSource`. The directory must not change while it is served."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: OrderedDict[str, int] = OrderedDict()

    async def describe(self) -> CutDescription:
        """Walk the directory, in a thread."""
        return await asyncio.to_thread(describe_directory, self._root)

    async def read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        """From memory where possible, else side by side in threads."""
        results: list[Pages | SourceError | None] = []
        for start in range(0, len(ranges), _RANGES_AT_ONCE):
            looked_at: dict[str, int | None] = {}
            some = ranges[start : start + _RANGES_AT_ONCE]
            results += [self._read_cached(wanted, looked_at) for wanted in some]
        cold = [index for index, pages in enumerate(results) if pages is None]
        if cold:
            slow = (asyncio.to_thread(_read_waiting, self._root, ranges[index]) for index in cold)
            for index, pages in zip(cold, await asyncio.gather(*slow), strict=True):
                results[index] = pages
        return [pages for pages in results if pages is not None]

    async def close(self) -> None:
        """Close the descriptors."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _read_cached(
        self, wanted: PageRange, looked_at: dict[str, int | None]
    ) -> Pages | SourceError | None:
        """The pages if no disk is needed; None where it is, or to have a thread explain why not."""
        path, first, blocks = wanted
        if path not in looked_at:
            looked_at[path] = self._descriptor(path)
        descriptor = looked_at[path]
        if descriptor is None:
            return None
        pages = bytearray(blocks * BLOCK_BYTES)
        try:
            got = os.preadv(descriptor, (pages,), first * BLOCK_BYTES, os.RWF_NOWAIT)
        except OSError:
            return None
        return pages if got == len(pages) else None

    def _descriptor(self, path: str) -> int | None:
        """An open file, looked at again for each read of several ranges."""
        descriptor = self._open.get(path)
        if descriptor is not None and os.fstat(descriptor).st_nlink:
            self._open.move_to_end(path)
            return descriptor
        if descriptor is not None:  # a file was put in its place, as restoring from a backup does
            os.close(self._open.pop(path))
        if len(self._open) >= _OPEN_FILES_MAX:
            os.close(self._open.popitem(last=False)[1])
        try:
            descriptor = os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        self._open[path] = descriptor
        return descriptor


def _read_waiting(root: Path, wanted: PageRange) -> Pages | SourceError:
    """Read with the disk's time; a short file is an error, never a page of zeros."""
    size = wanted.blocks * BLOCK_BYTES
    try:
        descriptor = os.open(root / wanted.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pages = os.pread(descriptor, size, wanted.first * BLOCK_BYTES)
            while len(pages) < size:
                rest = os.pread(
                    descriptor, size - len(pages), wanted.first * BLOCK_BYTES + len(pages)
                )
                if not rest:
                    break
                pages += rest
        finally:
            os.close(descriptor)
    except OSError as error:
        return SourceError(
            f"{root / wanted.path} cannot be read ({error.strerror}); "
            "restore the file from a backup"
        )
    if len(pages) < size:
        return SourceError(
            f"{root / wanted.path} ends before block {wanted.first + wanted.blocks - 1}; "
            "restore the file from a backup"
        )
    return pages


def describe_directory(root: Path) -> CutDescription:
    """List a data directory's files. Anything that does not travel is left out."""
    files: list[DataFile] = []
    if not (root / "global" / "pg_control").is_file():
        raise SourceError(f"{root} is no data directory (no global/pg_control); check the path")
    small_files, directories = describe_small_files(root, files)
    return CutDescription(files=files, small_files=small_files, directories=directories)


def describe_small_files(
    root: Path, files: list[DataFile] | None = None
) -> tuple[dict[str, bytes], list[str]]:
    """The small files and the directories of a data directory; data files are added to `files`."""
    small_files: dict[str, bytes] = {}
    directories: list[str] = []
    if (root / "PG_VERSION").exists():
        small_files["PG_VERSION"] = _small(root, "PG_VERSION")
    for path, entry in _walk(root, _ROOTS):
        if entry.is_dir(follow_symlinks=False):
            directories.append(path)
        elif is_small_file(path):
            small_files[path] = _small(root, path)
        elif files is not None and is_data_file(path):
            files.append(DataFile(path, entry.stat(follow_symlinks=False).st_size // BLOCK_BYTES))
    return small_files, directories


def _walk(root: Path, tops: Sequence[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Depth-first, parents before what they hold; temporary files are not entered."""
    pending = [top for top in tops if (root / top).is_dir()]
    while pending:
        directory = pending.pop()
        with os.scandir(root / directory) as entries:
            for entry in entries:
                path = f"{directory}/{entry.name}"
                if entry.is_symlink() and directory == "pg_tblspc":
                    raise SourceError(
                        f"{root / path} is a tablespace outside the data directory, which computes "
                        "do not have; move its contents to one made with LOCATION ''"
                    )
                if entry.name.startswith("pgsql_tmp"):
                    continue
                yield path, entry
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)


def _small(root: Path, path: str) -> bytes:
    try:
        contents = (root / path).read_bytes()
    except OSError as error:
        raise SourceError(
            f"{root / path} cannot be read ({error.strerror}); restore the file from a backup"
        ) from error
    if len(contents) > _SMALL_FILE_BYTES_MAX:
        raise SourceError(f"{root / path} has {len(contents)} bytes, more than a small file may")
    return contents
