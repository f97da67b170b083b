"""An image: a plain directory that follows a data directory by its harvests.

What a storage node does with pages and versions, in its simplest form: one version, one directory.
It is what the demonstration and the tests boot computes from, and a `DirectorySource` serves it.
Not durable and not atomic: whoever needs that has storage nodes.
"""

import os
import shutil
from pathlib import Path

from .directory_source import describe_small_files
from .harvest import ChangedFile, Harvest
from .pagefault.block_map import BLOCK_BYTES


class Image:
    """The directory `root`, kept equal to what was harvested."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def apply(self, harvest: Harvest, data_dir: Path) -> None:
        """Bring the image up to a harvest, reading the changed pages from `data_dir`."""
        for directory in harvest.directories:
            (self.root / directory).mkdir(parents=True, exist_ok=True)
        for path in harvest.removed:
            (self.root / path).unlink(missing_ok=True)
        for file in harvest.files:
            self._apply_file(file, data_dir)
        self._apply_small_files(harvest)
        self._remove_directories(harvest)

    def _apply_file(self, file: ChangedFile, data_dir: Path) -> None:
        target = self.root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("r+b" if target.exists() else "w+b") as copy:
            if file.keep_blocks is not None:
                length = os.fstat(copy.fileno()).st_size
                copy.truncate(min(length, file.keep_blocks * BLOCK_BYTES))
            copy.truncate(file.blocks * BLOCK_BYTES)
            if not file.changed:
                return
            with (data_dir / file.path).open("rb") as origin:
                for block in file.changed:
                    offset = block * BLOCK_BYTES
                    page = os.pread(origin.fileno(), BLOCK_BYTES, offset)
                    os.pwrite(copy.fileno(), page, offset)

    def _apply_small_files(self, harvest: Harvest) -> None:
        old, _ = describe_small_files(self.root)
        for path in old.keys() - harvest.small_files.keys():
            (self.root / path).unlink()
        for path, contents in harvest.small_files.items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents)

    def _remove_directories(self, harvest: Harvest) -> None:
        """Dropped databases and tablespaces leave a directory without data files behind."""
        _, directories = describe_small_files(self.root)
        for directory in directories:
            if directory not in harvest.directories:
                shutil.rmtree(self.root / directory, ignore_errors=True)
