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

    def mend(self) -> None:
        """Let everything pass, what was held first."""


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

    async def components(self) -> list[Component]:
        """Everything that could be hit now; what is down at the moment is left out."""

    async def missing(self) -> str:
        """What keeps the system from being whole, for people; empty once it is."""
