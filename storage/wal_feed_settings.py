"""What a feed of WAL is given: the log to read, the branch's facts, and what a user may tune."""

from dataclasses import dataclass
from typing import Protocol

from fabric.ids import BranchName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from fabric.rpc import Answer
from fabric.rpc_errors import BadRequestError
from log_service.methods import WAIT_MS_MAX, WAL_BYTES_MAX, Topology, Wal
from log_service.replication_source import WalRemovedError


class WrongLogError(Exception):
    """The log is not that of the cut: start from another cut, or correct the address."""


class LogReader(Protocol):
    """What is asked of the log: `LogClient`."""

    async def read_wal(
        self,
        branch: BranchName,
        *,
        tli: Tli,
        lsn: Lsn,
        bytes_max: int,
        wait_ms: int = 0,
        timeout_ms: int = ...,
    ) -> Answer[Wal]:
        """Return committed WAL."""

    async def read_history(self, branch: BranchName, tli: Tli) -> bytes:
        """Return the history file of a timeline."""

    async def topology(self, branch: BranchName, *, timeout_ms: int = ...) -> Topology:
        """Return who is who, as the leader says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalFacts:
    """What is known of the branch's WAL from its cut, and from the servers that are there."""

    system_identifier: SystemIdentifier
    segment_bytes: int
    server_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WalFeedSettings:
    """What a user may tune."""

    window_bytes_max: int = 32 * 1024 * 1024
    """WAL of one branch in memory: two segments, so that the engine never waits for the log."""

    read_bytes_max: int = WAL_BYTES_MAX
    """Of one call to the log. It is scanned in one go, 2 to 5 ms."""

    poll_ms: int = 2_000
    """How long the log may wait for more WAL before it answers that there is none; twice as long
    each time that there was none. It bounds how late a promotion of an idle branch is noticed."""

    idle_poll_ms: int = WAIT_MS_MAX
    """The longest that gets, and as long as it is while nobody takes WAL."""

    gather_ms: int = 50
    """After little WAL, how long more may gather: else each commit would cost a call."""

    call_timeout_ms: int = 5_000
    """Of a call to the log, beyond what it waits. Then it counts as unreachable."""

    backoff_base_ms: int = 50
    backoff_cap_ms: int = 2_000

    def __post_init__(self) -> None:
        if not 1 <= self.read_bytes_max <= WAL_BYTES_MAX:
            raise ValueError(f"read_bytes_max is 1 to {WAL_BYTES_MAX}, not {self.read_bytes_max}")
        if self.window_bytes_max < self.read_bytes_max:
            raise ValueError("window_bytes_max must not be less than read_bytes_max")
        if not 0 <= self.poll_ms <= self.idle_poll_ms <= WAIT_MS_MAX:
            raise ValueError(f"poll_ms and idle_poll_ms are 0 to {WAIT_MS_MAX}, in this order")


def wal_removed(branch: BranchName, lsn: Lsn, error: BadRequestError) -> WalRemovedError:
    """Say that the log has no WAL there any more."""
    return WalRemovedError(
        f"the log of {branch} has no WAL at {lsn} any more ({error}): start from a newer cut, or "
        "from a cut of another storage node"
    )
