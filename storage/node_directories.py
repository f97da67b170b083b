"""The directories of a node: whose they are while it runs, and which is emptied at a start."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

LOCK: Final = "lock"  # in each directory


class NodeError(Exception):
    """The node cannot run here: the sentence says why."""


class DirectoryLocks:
    """The right to use a data directory and a run directory; ends with the process that has it."""

    def __init__(self, data_dir: Path, run_dir: Path) -> None:
        """Make the directories, and take them. NodeError: another process has one of them."""
        if data_dir.resolve().is_relative_to(run_dir.resolve()):
            raise NodeError(
                f"run_dir {run_dir} is emptied at each start, and data_dir {data_dir} must not be "
                "in it: choose another run_dir"
            )
        self._descriptors: list[int] = []
        for directory in (data_dir, run_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._descriptors.append(lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.release()
                raise NodeError(f"another process runs on {directory}: stop it first") from None

    def release(self) -> None:
        """Let others use the directories."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def empty(run_dir: Path) -> None:
    """Remove all but the lock: what engines of an earlier process left is of no use."""
    for path in run_dir.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
