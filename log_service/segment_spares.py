"""Empty segments made ahead, so that an append need not wait for one.

A spare is written full of zeros, not merely allocated: after fallocate the first write into each
extent changes the file's metadata, and the fdatasync of every drain would wait for the file
system's journal. A segment that a trim gives back becomes a spare as it is; what is still in it is
told from the log by its indexes and generation (segment.py).

Thread-safe: a spare may be prepared while another thread appends.
"""

import os
import threading
from pathlib import PurePath
from typing import Final

from .disk_errors import DiskFullError
from .disk_files import ZEROS, LogDirectory, OpenFile
from .disk_settings import DiskSettings

UNFINISHED_NAME: Final = "spare.new"
SPARE_SUFFIX: Final = ".spare"


class Spares:
    """The spare segments of one log."""

    def __init__(self, directory: LogDirectory, settings: DiskSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._lock = threading.Lock()
        self._ready: list[str] = []
        self._numbers = 0  # the last number in a spare's name
        self._unfinished: OpenFile | None = None
        self._filled_bytes = 0
        for name in directory.names():
            if name == UNFINISHED_NAME:
                directory.unlink(name)
            elif name.endswith(SPARE_SUFFIX):
                self._adopt(name)

    @property
    def has_ready(self) -> bool:
        """Whether there is a spare now."""
        return bool(self._ready)

    @property
    def has_unfinished(self) -> bool:
        """Whether one is half made; not if the disk was full."""
        return self._unfinished is not None

    def prepare(self, size_bytes: int = len(ZEROS)) -> bool:
        """Work on a spare by at most so many bytes; return whether there is one now.

        A full disk is no error here: the append that needs the spare will say so.
        """
        with self._lock:
            if not self._ready:
                try:
                    self._fill(size_bytes)
                except DiskFullError:
                    return False
            return bool(self._ready)

    def require(self, count: int) -> None:
        """See to it that so many spares are ready; DiskFullError if they cannot be made."""
        with self._lock:
            while len(self._ready) < count:
                self._fill(self._settings.segment_bytes)

    def take(self) -> str:
        """Return the name of a ready spare, which is the caller's from now on."""
        with self._lock:
            return self._ready.pop()

    def give(self, name: str) -> None:
        """Take back a segment's file: it becomes a spare, or is removed."""
        with self._lock:
            if len(self._ready) < self._settings.spares_max and self._is_full_size(name):
                self._add(name)
            else:
                self._directory.unlink(name)

    def _adopt(self, name: str) -> None:
        """Keep a spare of an earlier process, under its name, if it is of use."""
        number = PurePath(name).stem
        is_ours = number.isdecimal() and len(self._ready) < self._settings.spares_max
        if is_ours and self._is_full_size(name):
            self._numbers = max(self._numbers, int(number))
            self._ready.append(name)
        else:
            self._directory.unlink(name)

    def _is_full_size(self, name: str) -> bool:
        size_bytes = self._directory.open_to_read(name).size_bytes
        return size_bytes == self._settings.segment_bytes

    def _fill(self, size_bytes: int) -> None:
        """Write so many more zeros; the spare becomes ready with the last of them."""
        if self._unfinished is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            self._unfinished, self._filled_bytes = self._directory.open(UNFINISHED_NAME, flags), 0
        end = min(self._settings.segment_bytes, self._filled_bytes + size_bytes)
        try:
            while self._filled_bytes < end:
                part = memoryview(ZEROS)[: end - self._filled_bytes]
                self._unfinished.write([part], self._filled_bytes)
                self._filled_bytes += len(part)
            self._unfinished.sync_data()
        except DiskFullError:
            self._unfinished = None
            self._directory.unlink(UNFINISHED_NAME)
            raise
        if end == self._settings.segment_bytes:
            self._unfinished = None
            self._add(UNFINISHED_NAME)

    def _add(self, name: str) -> None:
        self._numbers += 1
        spare = f"{self._numbers:08d}{SPARE_SUFFIX}"
        self._directory.rename(name, spare)
        self._ready.append(spare)
