"""Small disks for nodes, which can be full from one moment to the next.

    disk = SmallDisk.mounted(directory)     # its content moves onto a file system of its own
    disk.fill()                             # no byte more fits
    disk.free()
    disk.unmount(keep=True)                 # the content is back in the directory

A tmpfs shrinks and grows while it is in use, so nothing has to be written to fill it. It outlives
kill -9 of every process, as a disk does; a machine is never killed here. Only root can mount.
"""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .target import TargetError

SIZE_BYTES: Final = 2 << 30  # taken as far as it is used only
SHRINK_TRIES_MAX: Final = 50
SHRINK_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A mounted file system."""

    path: Path

    @classmethod
    def mounted(cls, path: Path) -> "SmallDisk":
        """Give a directory that nobody uses now a file system of its own; its content stays."""
        before = path.stat()
        aside = path.with_name(path.name + ".aside")
        path.rename(aside)
        path.mkdir()
        options = f"size={SIZE_BYTES},mode={before.st_mode & 0o777:o}"
        options += f",uid={before.st_uid},gid={before.st_gid}"
        try:
            _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path))
        except TargetError:
            path.rmdir()
            aside.rename(path)
            raise
        _run("cp", "-a", f"{aside}/.", str(path))
        shutil.rmtree(aside)
        return cls(path)

    def fill(self) -> None:
        """Make it no larger than what is in it. TargetError if it grows faster than that."""
        for _ in range(SHRINK_TRIES_MAX):
            seen = os.statvfs(self.path)
            used_bytes = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
            try:
                self._resize(used_bytes)
            except TargetError:
                time.sleep(SHRINK_PAUSE_S)  # something was written in between
            else:
                return
        raise TargetError(f"{self.path} could not be made full")

    def free(self) -> None:
        """Give it room again."""
        self._resize(SIZE_BYTES)

    def unmount(self, *, keep: bool) -> None:
        """End it, while nobody uses it; its content stays in the directory, or is gone."""
        aside = self.path.with_name(self.path.name + ".aside")
        if keep:
            _run("cp", "-a", str(self.path), str(aside))
        _run("umount", "--lazy", str(self.path))  # it goes when the last who uses it has gone
        if keep:
            self.path.rmdir()
            aside.rename(self.path)

    def _resize(self, size_bytes: int) -> None:
        _run("mount", "-o", f"remount,size={max(size_bytes, 4096)}", str(self.path))


def obstacle() -> str:
    """Why no disks can be mounted here, for people; empty if they can."""
    if os.geteuid() != 0:
        return "only root can mount them"
    missing = [name for name in ("mount", "umount", "cp") if shutil.which(name) is None]
    return f"there is no {missing[0]} on this machine" if missing else ""


def _run(*command: str) -> None:
    program = shutil.which(command[0])
    if program is None:
        raise TargetError(f"there is no {command[0]} on this machine: install it")
    done = subprocess.run(
        [program, *command[1:]], check=False, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise TargetError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
