"""Who uses the rig: one process at a time, since a user takes nodes and the API server away.

A second one would find "its" rig ended with the first one's, or half of it dead on purpose. The
lock is the kernel's, so that it goes with its process, however that ends; the file says who has it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import RigError

USE = Path("/run/lock/seawall-e2e.use")


@contextmanager
def used() -> Iterator[None]:
    """Be the one who uses the rig, until the block ends; RigError if somebody else is."""
    USE.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(descriptor, 32, 0).decode().strip() or "another one"
            raise RigError(
                f"process {who} uses the rig: wait until it has ended, or end it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
