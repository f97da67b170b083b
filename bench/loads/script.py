"""What a workload gives to our own driver: transactions, one after the other, on a connection.

A script is sent to the processes of the driver, so it is a value that can be pickled, and it makes
its clients there. Those of one process may share what they know; processes share nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# What is tried again because nothing is wrong with it: 40001 could not serialize, 40P01 a deadlock.
CONFLICTS: Final = frozenset({"40001", "40P01"})
PATIENCE_SECONDS: Final = 1.5  # with a transaction that takes milliseconds; ends a hang


class Client(Protocol):
    """One who carries transactions out."""

    async def once(self, connection: Connection) -> str:
        """Carry one out to its end; what kind it was. After an error the driver rolls back."""


class Script(Protocol):
    """The transactions of a workload."""

    patience_seconds: ClassVar[float]
    """After how long a client breaks its connection and gives a transaction up."""
    retried: ClassVar[frozenset[str]]
    """SQLSTATEs after which a client tries again, with other random numbers."""

    def clients(self, numbers: Sequence[int], total: int, seed: int) -> Sequence[Client]:
        """These of so many clients in all, which live in this process."""
