"""What a benchmark knows of a system: how to reach it, what it costs, and how it is hurt.

    with start("patroni", place, TargetSettings(shared_buffers="256MB")) as target:
        load(target.front)
        target.strike(Blow.POSTGRES_KILLED)
        target.wait_whole()

A target is whole when the context is entered, and gone with all its processes and files when it is
left, however it is left. All of them run on this machine, but for the one that a DSN names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class TargetError(Exception):
    """A system cannot be started or does not do what is asked of it; the text says what to do."""


class Blow(StrEnum):
    """What can be done to a system."""

    POSTGRES_KILLED = "postgres_killed"  # kill -9 of the primary's postmaster alone
    NODE_KILLED = "node_killed"  # of the postmaster and of the agent that watches it
    NODE_STOPPED = "node_stopped"  # SIGSTOP of both; they go on when the target is made whole
    LOG_LEADER_KILLED = "log_leader_killed"  # kill -9; of Patroni: the leader of etcd
    STORAGE_KILLED = "storage_killed"  # kill -9 of one storage node; of Patroni: of a standby


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a client connects, over TCP. The password is in no argument and in no log."""

    host: str
    port: int
    user: str
    database: str
    password: str = field(default="", repr=False)

    def conninfo(self) -> str:
        """For libpq, without the password: that goes into PGPASSWORD."""
        return f"host={self.host} port={self.port} user={self.user} dbname={self.database}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """What all targets of one comparison have in common."""

    shared_buffers: str = "256MB"
    computes: int = 2  # servers that can become the primary, where a system has several
    max_connections: int = 100


class Target(Protocol):
    """A system that is up."""

    @property
    def name(self) -> str:
        """Short, without spaces: of its results and in the report."""

    @property
    def description(self) -> str:
        """What it is and how it is set, in one line, with versions: for the report."""

    @property
    def direct(self) -> Address:
        """The primary of this moment itself."""

    @property
    def front(self) -> Address:
        """What an application is given: an address that stays right when the primary changes."""

    @property
    def readers(self) -> Sequence[Address]:
        """Servers that answer reads besides the primary."""

    @property
    def pids(self) -> Sequence[int]:
        """Roots of all its processes; empty when they run somewhere else."""

    @property
    def blows(self) -> frozenset[Blow]:
        """What can be done to it; empty where nothing can."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Versions and settings that decide its figures, for the results."""

    def strike(self, blow: Blow) -> None:
        """Do it now, and return at once."""

    def wait_whole(self, *, deadline_seconds: float = 120.0) -> None:
        """Mend what was struck as an operator would, and return when nothing is missing."""
