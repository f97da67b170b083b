"""What the suite needs to know of a system that it breaks, however that was started."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Kind(StrEnum):
    """What can be hit."""

    POSTGRES = "postgres"  # the postmaster alone
    AGENT = "agent"  # the compute's agent alone
    COMPUTE = "compute"  # both, with every backend: a machine
    LOG = "log"
    STORAGE = "storage"
    LINK = "link"  # between two processes
    NETWORK = "network"  # all links of one node
    DISK = "disk"  # of one node


class Role(StrEnum):
    """Which of a kind."""

    LEADING = "leading"  # the primary, or the log's leader
    FOLLOWING = "following"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Component:
    """One that can be hit now."""

    kind: Kind
    name: str
    role: Role
    pids: tuple[int, ...] = ()
    mark: str = ""  # is in the command line of each pid; numbers of processes are used again
    directory: Path | None = None  # may be deleted while none of its processes runs


class Link(Protocol):
    """A connection that can be cut, so that packets vanish and nobody is told."""

    def cut_there(self) -> None:
        """Hold what travels towards the server."""

    def cut_back(self) -> None:
        """Hold what travels back."""

    def slow(self, seconds: float) -> None:
        """Have every piece take so much longer, both ways."""

    def mend(self) -> None:
        """Let everything pass, what was held first."""


class Disk(Protocol):
    """A file system that one node has for itself."""

    def fill(self) -> None:
        """Leave no room."""

    def free(self) -> None:
        """Leave room again."""


class TargetError(Exception):
    """The system that is to be tested does not run, or does not say how it is."""


class Target(Protocol):
    """A running system."""

    @property
    def dsn(self) -> str:
        """A connection string that leads to the primary, whoever that is."""

    @property
    def links(self) -> Mapping[str, Link]:
        """What can be cut, by name; empty where nothing can."""

    @property
    def disks(self) -> Mapping[str, Disk]:
        """What can be full, by name of the node; empty where nothing can."""

    @property
    def keeper_pid(self) -> int | None:
        """Who starts again what ends, if that is a process that may be stopped for a moment."""

    async def components(self) -> list[Component]:
        """Everything that could be hit now; what is down at the moment is left out."""

    async def rebuild(self, component: Component) -> None:
        """Do what an operator has to when a node has lost its directory, until it is whole."""

    async def missing(self) -> str:
        """What keeps the system from being whole, for people; empty once it is."""
