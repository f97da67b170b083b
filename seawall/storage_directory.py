"""The data directory of a storage node that does not run, for commands that work on it."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DirectoryError(Exception):
    """The directory is not as a command needs it: the sentence says why."""


def become_owner(directory: Path) -> None:
    """Opening a store writes some files; root's would keep the node from opening it again."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep a node from starting meanwhile, and refuse while one runs."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryError(f"a node runs on {directory}: stop it first") from None
        yield
    finally:
        os.close(lock)


def show_progress(text: str) -> None:
    """Show how far it is, on one line of a terminal; nothing in a file."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
