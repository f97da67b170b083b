"""How a cluster comes to its first commit: the calls, in their order.

A new one is founded by the first storage node, adopted by the others, given to the log with its
first WAL; then the computes begin, one of them becomes the primary, and role postgres gets its
password. Each call is harmless to repeat: whoever died half-way begins again.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Final

from fabric.addresses import UnixAddress, parse_address
from fabric.ids import NodeName
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from gateway.settings import GATEWAY_ROLE
from gateway.users import role_sql
from log_service.client import LogClient, NodeAddress
from log_service.compute_methods import ComputeInfo, Computes, ComputeState
from pgwire.scram import ScramVerifier
from storage.founding import found_branch

from .calls import Nodes
from .cluster_file import ClusterError, ClusterFile
from .layout import Layout
from .node_files import SUPERUSER, password_in, postgres_password, storage_addresses
from .ports import HOST
from .socket_sql import SqlError, execute

LOOK_S: Final = 0.03
ASK_MS: Final = 1_000
DATABASE: Final = "postgres"


async def found(nodes: Nodes, cluster: ClusterFile) -> None:
    """Make the database: storage has its first cut, the log its first WAL."""
    members = [
        NodeAddress(NodeName(name), f"tcp://{HOST}:{ports.rpc}", f"tcp://{HOST}:{ports.pg}")
        for name, ports in cluster.log.items()
    ]
    try:
        async with nodes.log() as log:
            await found_branch(
                nodes, log, cluster.branch, storage=storage_addresses(cluster), members=members
            )
    except RpcError as error:
        raise ClusterError(f"the database could not be made: {error}") from error


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the computes are."""

    primary: ComputeInfo | None
    is_streaming: bool
    replicas: int

    def is_complete(self, computes: int) -> bool:
        """Whether there is a primary whose commits return, and all replicas answer."""
        return self.primary is not None and self.is_streaming and self.replicas >= computes - 1


def progress_of(answer: Computes) -> Progress:
    """Read the log leader's answer."""
    holder = answer.topology.holder
    primary = next(
        (
            info
            for info in answer.computes
            if info.state is ComputeState.PRIMARY
            and holder is not None
            and info.name == holder.name
            and info.epoch == answer.topology.epoch
        ),
        None,
    )
    replicas = [info for info in answer.computes if info.state is ComputeState.REPLICA]
    streaming = answer.topology.is_streaming
    return Progress(primary, streaming, sum(info.replayed > Lsn(0) for info in replicas))


def state_line(answer: Computes | None) -> str:
    """Return how the computes are, in a few words."""
    if answer is None:
        return "the log does not answer: see `seawall doctor`"
    progress = progress_of(answer)
    end = f"epoch {answer.topology.epoch}, {answer.topology.end} committed"
    if progress.primary is None:
        return f"no primary at the moment; {end}"
    count = progress.replicas
    replicas = f"{count} replica" + ("" if count == 1 else "s")
    return f"primary {progress.primary.name}, {replicas}; {end}"


async def next_progress(log: LogClient, cluster: ClusterFile) -> Progress | None:
    """Look once, after a moment; None if the log does not answer."""
    await asyncio.sleep(LOOK_S)
    try:
        return progress_of(await log.computes(cluster.branch, timeout_ms=ASK_MS))
    except RpcError:
        return None


async def set_password(layout: Layout, primary: ComputeInfo) -> None:
    """Give role postgres its password: as a verifier, so that no log ever has the password."""
    verifier = ScramVerifier.make(postgres_password(layout), os.urandom)
    await _execute(
        primary,
        f"alter role {SUPERUSER} password '{verifier.format()}'",
        f"the password of {SUPERUSER} could not be set",
    )


async def make_gateway_role(layout: Layout, primary: ComputeInfo) -> None:
    """Have the role with which gateways read users and positions; a new verifier each time."""
    verifier = ScramVerifier.make(password_in(layout.gateway_password), os.urandom)
    await _execute(
        primary, role_sql(verifier), f"the role {GATEWAY_ROLE} of gateways could not be made"
    )


async def _execute(primary: ComputeInfo, sql: str, complaint: str) -> None:
    socket = parse_address(primary.address)
    if not isinstance(socket, UnixAddress):
        raise ClusterError(f"the primary is at {socket}, and not on this machine")
    try:
        await execute(socket.path, sql, user=SUPERUSER, database=DATABASE)
    except SqlError as error:
        raise ClusterError(f"{complaint}: {error}") from error
