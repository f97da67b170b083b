"""What can go wrong with a log on disk, by what its owner must do.

    LogError                 this log cannot be used; the sentence says why and what to do
    ├── CorruptLogError      acknowledged bytes are damaged or gone: replace this replica
    ├── FatalDiskError       a write or a sync failed: end the process, never try the sync again
    ├── DiskFullError        nothing was appended: free space, then try again
    ├── DiskReadError        the disk refused a read, nothing is known of the bytes
    └── LogGoneError         trimmed, cut or not there yet: look at the log's range, ask again

Wrong calls of our own (an index left out, a vote changed) are ValueError.
"""

from pathlib import Path


class LogError(Exception):
    """A log that cannot be opened or made here; the base of all others."""


class CorruptLogError(LogError):
    """Entries that were durable are damaged or missing; the node must not go on without them."""

    @classmethod
    def at(cls, path: Path, offset: int, what: str) -> "CorruptLogError":
        """Name the place, and what to do about it."""
        return cls(
            f"{path} at offset {offset}: {what}; remove this replica from its group, "
            "delete its directory and let a new replica take its place"
        )


class FatalDiskError(LogError):
    """The kernel may have dropped what could not be written: only a restart tells what is there."""


class DiskFullError(LogError):
    """There is no room for another segment or file."""


class DiskReadError(LogError):
    """The disk refused to give bytes."""


class LogGoneError(LogError):
    """The entries are not, or no longer, in the log."""
