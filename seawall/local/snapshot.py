"""What is true of a local cluster now: asked of its processes and its nodes, and nothing guessed.

The structure is what `seawall status --json` prints; its names stay, new ones may come.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from fabric.ids import Role
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from log_service.compute_methods import LIST_COMPUTES, ComputeInfo, Computes
from log_service.methods import STATUS as LOG_STATUS
from log_service.methods import GroupStatus, OfBranch, Topology
from log_service.methods import Nothing as LogNothing
from pgwire.startup import ACCEPTED, REFUSED, SslRequest, encode_startup
from storage.methods import STATUS as STORAGE_STATUS
from storage.methods import BranchStatus
from storage.methods import Nothing as StorageNothing

from .calls import Nodes
from .cluster_file import ClusterFile
from .layout import Layout
from .node_files import GATEWAY
from .ports import HOST
from .processes import has_said, running_pid
from .urls import Urls, urls_of

ASK_MS: Final = 1_500  # takes a millisecond; a node that hangs must not hide the others
NOT_RUNNING: Final = "not running"
NO_ANSWER: Final = "no answer"


class ComputeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One compute. `pid` is its postmaster's."""

    name: str
    role: str  # primary, replica, none
    state: str
    pid: int | None = None
    agent_pid: int | None = None
    host: str
    port: int
    replay_lsn: Lsn | None = None
    received_lsn: Lsn | None = None
    complaint: str = ""


class LogStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One log node."""

    name: str
    role: str  # leader, follower, ...; or why it is not known
    term: int | None = None
    commit_lsn: Lsn | None = None
    pid: int | None = None
    port: int
    complaint: str = ""


class CutStatus(msgspec.Struct, frozen=True):
    """A cut."""

    seq: int
    lsn: Lsn


class StorageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One storage node."""

    name: str
    state: str
    pid: int | None = None
    port: int
    newest_cut: CutStatus | None = None
    lag_bytes: int | None = None
    complaint: str = ""


class GatewayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway."""

    name: str
    state: str  # ready, starting, or why it is neither
    pid: int | None = None
    port: int
    complaint: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All of a cluster."""

    cluster: str
    branch: str
    directory: str
    supervisor_pid: int | None
    epoch: int | None
    primary: str | None
    is_streaming: bool
    computes: tuple[ComputeStatus, ...]
    log: tuple[LogStatus, ...]
    storage: tuple[StorageStatus, ...]
    gateways: tuple[GatewayStatus, ...]
    urls: Urls


async def take_snapshot(layout: Layout, cluster: ClusterFile) -> Snapshot:
    """Ask everybody at once."""
    nodes = Nodes(layout, cluster)
    logs = asyncio.gather(*(_log(nodes, layout, cluster, name) for name in cluster.log))
    stores = asyncio.gather(*(_storage(nodes, layout, cluster, name) for name in cluster.storage))
    names = gateway_names(layout, cluster)
    gateways = asyncio.gather(*(_gateway(layout, cluster, name) for name in names))
    log_answers, store_answers = await logs, await stores
    leader = next((group for _, group in log_answers if _is_leader(group)), None)
    computes = None if leader is None else await _computes(nodes, cluster, leader)
    topology = leader.topology if leader is not None else None
    if computes is not None:
        topology = computes.topology
    return Snapshot(
        cluster=cluster.cluster,
        branch=cluster.branch,
        directory=str(layout.top),
        supervisor_pid=running_pid(layout.lock),
        epoch=None if topology is None else int(topology.epoch),
        primary=primary_of(computes, topology),
        is_streaming=topology is not None and topology.is_streaming,
        computes=computes_status(layout, cluster, computes),
        log=tuple(status for status, _ in log_answers),
        storage=tuple(store_answers),
        gateways=tuple(await gateways),
        urls=urls_of(layout, cluster),
    )


def primary_of(computes: Computes | None, topology: Topology | None) -> str | None:
    """Return the compute that is the primary, by its own word and the log's."""
    if computes is None or topology is None or topology.holder is None:
        return None
    for info in computes.computes:
        if info.name == topology.holder.name and info.state == "primary":
            return info.name
    return None


def computes_status(
    layout: Layout, cluster: ClusterFile, computes: Computes | None
) -> tuple[ComputeStatus, ...]:
    """Return the computes that are wanted, and those that are still there."""
    known = {} if computes is None else {str(info.name): info for info in computes.computes}
    wanted = cluster.compute_names()
    leaving = [
        name
        for name in cluster.computes
        if name not in wanted and running_pid(layout.node(name).lock) is not None
    ]
    names = [*wanted, *leaving]
    return tuple(_compute(layout, cluster, name, known) for name in names)


def _compute(
    layout: Layout, cluster: ClusterFile, name: str, known: Mapping[str, ComputeInfo]
) -> ComputeStatus:
    agent_pid = running_pid(layout.node(name).lock)
    port = cluster.computes[name]
    info = known.get(name)
    if agent_pid is None or info is None:
        state = NOT_RUNNING if agent_pid is None else "starting"
        return ComputeStatus(
            name=name, role="none", state=state, agent_pid=agent_pid, host=HOST, port=port
        )
    return ComputeStatus(
        name=name,
        role=info.state.value if info.state in {"primary", "replica"} else "none",
        state=info.state.value,
        pid=info.postmaster_pid or None,
        agent_pid=agent_pid,
        host=HOST,
        port=port,
        replay_lsn=info.replayed,
        received_lsn=info.received,
        complaint=info.complaint,
    )


async def _computes(nodes: Nodes, cluster: ClusterFile, leader: GroupStatus) -> Computes | None:
    request = OfBranch(cluster.branch)
    address = _log_address(cluster, str(leader.topology.node))
    try:
        answer = await nodes.call(Role.LOG, address, LIST_COMPUTES, request, timeout_ms=ASK_MS)
    except RpcError:
        return None
    return answer.response


async def _log(
    nodes: Nodes, layout: Layout, cluster: ClusterFile, name: str
) -> tuple[LogStatus, GroupStatus | None]:
    pid = running_pid(layout.node(name).lock)
    port = cluster.log[name].rpc
    if pid is None:
        return LogStatus(name=name, role=NOT_RUNNING, port=port), None
    try:
        answer = await nodes.call(
            Role.LOG, _log_address(cluster, name), LOG_STATUS, LogNothing(), timeout_ms=ASK_MS
        )
    except RpcError as error:
        return LogStatus(name=name, role=NO_ANSWER, pid=pid, port=port, complaint=str(error)), None
    groups = [group for group in answer.response.groups if group.branch == cluster.branch]
    if not groups:
        return LogStatus(name=name, role="empty", pid=pid, port=port), None
    (group,) = groups
    complaint = "its disk is full" if group.is_disk_full else group.archive_complaint
    return LogStatus(
        name=name,
        role=group.role,
        term=group.topology.term,
        commit_lsn=group.topology.end,
        pid=pid,
        port=port,
        complaint=complaint,
    ), group


async def _storage(nodes: Nodes, layout: Layout, cluster: ClusterFile, name: str) -> StorageStatus:
    pid = running_pid(layout.node(name).lock)
    port = cluster.storage[name]
    if pid is None:
        return StorageStatus(name=name, state=NOT_RUNNING, port=port)
    address = f"tcp://{HOST}:{port}"
    try:
        answer = await nodes.call(
            Role.STORAGE, address, STORAGE_STATUS, StorageNothing(), timeout_ms=ASK_MS
        )
    except RpcError as error:
        return StorageStatus(name=name, state=NO_ANSWER, pid=pid, port=port, complaint=str(error))
    found = [branch for branch in answer.response.branches if branch.branch == cluster.branch]
    if not found:
        return StorageStatus(name=name, state="empty", pid=pid, port=port)
    return storage_status(name, found[0], pid=pid, port=port)


def storage_status(name: str, branch: BranchStatus, *, pid: int, port: int) -> StorageStatus:
    """Read what a storage node says of the branch."""
    newest = branch.newest
    return StorageStatus(
        name=name,
        state=branch.state,
        pid=pid,
        port=port,
        newest_cut=None if newest is None else CutStatus(newest.seq, newest.lsn),
        lag_bytes=branch.lag_bytes,
        complaint=branch.complaint,
    )


def gateway_names(layout: Layout, cluster: ClusterFile) -> tuple[str, ...]:
    """Return the gateways that are wanted, and those that are still there."""
    wanted = cluster.gateway_names()
    return tuple(
        name
        for name in cluster.gateways
        if name in wanted or running_pid(layout.node(name).lock) is not None
    )


async def _gateway(layout: Layout, cluster: ClusterFile, name: str) -> GatewayStatus:
    pid = running_pid(layout.node(name).lock)
    port = cluster.gateways[name]
    if pid is None:
        return GatewayStatus(name=name, state=NOT_RUNNING, port=port)
    if not has_said(layout.node(name).said, GATEWAY.ready_event):
        return GatewayStatus(name=name, state="starting", pid=pid, port=port)
    complaint = await _silence_of(port)
    state = NO_ANSWER if complaint else "ready"
    return GatewayStatus(name=name, state=state, pid=pid, port=port, complaint=complaint)


async def _silence_of(port: int) -> str:
    """Ask whether TLS is spoken, which needs no login; why there was no answer, or nothing."""
    try:
        async with asyncio.timeout(ASK_MS / 1000):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(encode_startup(SslRequest()))
                answer = await reader.read(1)
            finally:
                writer.close()
    except TimeoutError:
        return f"it did not answer within {ASK_MS} ms"
    except OSError as error:
        return str(error)
    return "" if answer in {ACCEPTED, REFUSED} else "it does not speak PostgreSQL's protocol"


def _is_leader(group: GroupStatus | None) -> bool:
    return group is not None and group.topology.is_leading


def _log_address(cluster: ClusterFile, name: str) -> str:
    return f"tcp://{HOST}:{cluster.log[name].rpc}"
