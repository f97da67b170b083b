"""How a branch comes into being: storage makes the database, the log begins with its first WAL.

The first storage node founds it, the others adopt it, and the log nodes get its genesis. Each call
is harmless to repeat: whoever died half-way begins again.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from fabric.ids import BranchName, Role
from fabric.rpc import Answer, Method, Q, R
from log_service.client import LogClient, NodeAddress
from log_service.record_bodies import Genesis

from .node_methods import ADOPT_BRANCH, FOUND_CLUSTER, AdoptBranch, FoundCluster

FOUND_MS: Final = 60_000  # initdb, when there is no template yet
ADOPT_MS: Final = 10_000
CREATE_MS: Final = 30_000


class Caller(Protocol):
    """Who calls nodes."""

    async def call(
        self, role: Role, address: str, method: Method[Q, R], request: Q, *, timeout_ms: int
    ) -> Answer[R]:
        """Call one node of a role."""


async def found_branch(
    caller: Caller,
    log: LogClient,
    branch: BranchName,
    *,
    storage: Sequence[str],
    members: Sequence[NodeAddress],
) -> Genesis:
    """Make a new database: `storage` are tcp://host:port, `members` the log nodes. RpcError."""
    first, *others = storage
    founded = await caller.call(
        Role.STORAGE, first, FOUND_CLUSTER, FoundCluster(branch), timeout_ms=FOUND_MS
    )
    for address in others:
        adopt = AdoptBranch(branch, (first,))
        await caller.call(Role.STORAGE, address, ADOPT_BRANCH, adopt, timeout_ms=ADOPT_MS)
    made = founded.response
    genesis = Genesis(
        system_identifier=made.system_identifier,
        tli=made.tli,
        start=made.start,
        segment_bytes=made.segment_bytes,
        server_version=made.server_version,
    )
    first_wal = bytes(founded.payload)
    await log.create_branch(branch, genesis, members, first_wal, timeout_ms=CREATE_MS)
    return genesis
