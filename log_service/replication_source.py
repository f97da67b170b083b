"""What a replication server serves: committed WAL, who reads it, and how far a reader may go.

The group of a branch implements `WalSource`. `Gate` holds one reader back, as a redo engine wants:
up to the end of a checkpoint record and no further, until its files have been copied.

Everything here is used in the event loop's thread alone.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fabric.frames import Buffer
from fabric.ids import SystemIdentifier
from fabric.lsn import Lsn, Tli


class WalRemovedError(Exception):
    """The WAL that was asked for was trimmed here: ask elsewhere, or start from a newer cut."""


class WalSource(Protocol):
    """One committed WAL stream of a branch, as this node knows it."""

    @property
    def system_identifier(self) -> SystemIdentifier:
        """The cluster's own number."""

    @property
    def segment_bytes(self) -> int:
        """The size of a WAL segment file."""

    @property
    def server_version(self) -> str:
        """What the servers of the branch call their version, for instance `15.18`."""

    @property
    def tli(self) -> Tli:
        """The newest timeline."""

    @property
    def committed(self) -> Lsn:
        """The end of committed WAL on the newest timeline: of a whole record, or of a page."""

    @property
    def history_files(self) -> Mapping[Tli, bytes]:
        """The history files of all timelines but the first, as the servers wrote them."""

    def fork_of(self, tli: Tli) -> tuple[Tli, Lsn] | None:
        """Return which timeline followed `tli`, and from where, if it has ended.

        None for the newest, and for one that is not in the history of the newest. All WAL of an
        ended timeline up to its fork is committed; nothing beyond the fork is ever served.
        """

    def start(self, tli: Tli) -> Lsn:
        """Return the oldest position that can be read as part of `tli`."""

    def read_now(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer] | None:
        """Return what `read` would if it is at hand without waiting, else None.

        Raises WalRemovedError and nothing else: it is called for all readers in one go.
        """

    def read(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Awaitable[Sequence[Buffer]]:
        """Return contiguous WAL from exactly `lsn`: at least a byte, at most `bytes_max`.

        The caller asks only for bytes before the committed end or the fork of `tli`. Bytes from
        before `tli` began come from its ancestors. The buffers must never change: they may
        be on their way to a socket long afterwards. WalRemovedError: they were trimmed. Any other
        error ends the reader's connection and is logged.
        """

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` whenever `committed` or `tli` has moved, until the result is called."""


class Gate:
    """How far one reader is served; None: as far as there is WAL. It outlives a connection.

    Where it holds a reader back, a record or a page must end (replication_stream.py).
    """

    def __init__(self, limit: Lsn | None = None) -> None:
        self._limit = limit
        self._waiting: set[Callable[[], None]] = set()

    @property
    def limit(self) -> Lsn | None:
        """Nothing from this position on is sent."""
        return self._limit

    def move(self, limit: Lsn | None) -> None:
        """Hold the reader at another position. What has been sent cannot be taken back."""
        self._limit = limit
        for wake in list(self._waiting):
            wake()

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` whenever the gate has moved, until the result is called."""
        self._waiting.add(wake)
        return lambda: self._waiting.discard(wake)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyStatus:
    """What one reader has been sent, and what it says it has done with it."""

    session: int  # unique as long as the server lives
    group: str
    application_name: str
    peer: str
    tli: Tli
    sent: Lsn
    write: Lsn
    flush: Lsn
    apply: Lsn
    gate: Lsn | None
