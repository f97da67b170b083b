"""The client of the log: finds the leader of a branch, and asks it.

    async with LogClient(addresses, rng=rng, tls=tls) as client:
        await client.create_branch(BranchName("main"), genesis, nodes)
        granted = await client.grant_epoch(branch, holder)
        topology = await client.topology(branch)

`addresses` are some log nodes; the others are learned from what they say. How a call finds the
leader is in `client_calls.py`. A call whose connection broke is tried again too: each of them is
harmless to repeat, except `grant_epoch`, for which `after` makes sure that it happens once.
"""

import secrets
from collections.abc import Sequence
from typing import Final

import msgspec

from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn, Tli
from fabric.rpc import Answer

from .client_calls import TIMEOUT_MS_DEFAULT, LogCalls
from .compute_methods import (
    LIST_COMPUTES,
    READ_NOTES,
    SET_NOTE,
    SWITCHOVER,
    ComputeReport,
    Computes,
    Orders,
    SetNote,
    Switchover,
)
from .methods import (
    ADD_MEMBER,
    BEGIN_LOG,
    DROP_REPLICA,
    FOUND_GROUP,
    GRANT_EPOCH,
    JOIN_GROUP,
    READ_HISTORY,
    READ_WAL,
    REMOVE_MEMBER,
    SET_PIN,
    STATUS,
    TRANSFER_LEAD,
    AddMember,
    BeginLog,
    DropReplica,
    FoundGroup,
    Granted,
    GrantEpoch,
    JoinGroup,
    NodeStatus,
    Nothing,
    OfBranch,
    ReadHistory,
    ReadWal,
    RemoveMember,
    SetPin,
    Topology,
    TransferLead,
    Wal,
    WatchTopology,
)
from .record_bodies import Genesis, Holder, MemberInfo

CHANGE_TIMEOUT_MS: Final = 120_000  # a new member has to catch up
SWITCHOVER_TIMEOUT_MS: Final = 20_000  # the leader gives up before that
REPORT_TIMEOUT_MS: Final = 400  # the next report is about to come
MEMBER_BITS: Final = 63


class NodeAddress(msgspec.Struct, frozen=True):
    """A log node that is to get a replica."""

    node: NodeName
    rpc: str
    pg: str = ""


class LogClient(LogCalls):
    """Calls to the log nodes of one cluster."""

    # --- Branches and members -----------------------------------------------------------------

    async def create_branch(
        self,
        branch: BranchName,
        genesis: Genesis,
        nodes: Sequence[NodeAddress],
        first_wal: bytes = b"",
        *,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> None:
        """Make a log on these nodes; going on with what an earlier attempt has begun is fine.

        `first_wal` is WAL from the genesis's start on that exists before there is any primary.
        """
        members = await self._members_begun(branch, nodes)
        if members is None:
            members = tuple(_new_member(node) for node in nodes)
        for info in members:
            found = FoundGroup(branch, info.member, members)
            await self.call_node(info.rpc, FOUND_GROUP, found, timeout_ms=timeout_ms)
        self._addresses = list(dict.fromkeys([*self._addresses, *(n.rpc for n in nodes)]))
        begin = BeginLog(branch, genesis, first_wal)
        await self.call_leader(branch, BEGIN_LOG, begin, timeout_ms=timeout_ms)

    async def _members_begun(
        self, branch: BranchName, nodes: Sequence[NodeAddress]
    ) -> tuple[MemberInfo, ...] | None:
        for node in nodes:
            for group in (await self.node_status(node.rpc)).groups:
                if group.branch == branch and group.topology.members:
                    return group.topology.members
        return None

    async def add_member(
        self, branch: BranchName, node: NodeAddress, *, timeout_ms: int = CHANGE_TIMEOUT_MS
    ) -> MemberInfo:
        """Give the branch a replica on another node; done when it has caught up and votes."""
        info = _new_member(node)
        for group in (await self.node_status(node.rpc)).groups:
            if group.branch == branch:
                info = MemberInfo(group.member, node.node, node.rpc, node.pg)
        members = (await self.topology(branch)).members
        join = JoinGroup(branch, info.member, members)
        await self.call_node(node.rpc, JOIN_GROUP, join, timeout_ms=TIMEOUT_MS_DEFAULT)
        await self.call_leader(branch, ADD_MEMBER, AddMember(branch, info), timeout_ms=timeout_ms)
        return info

    async def remove_member(
        self, branch: BranchName, member: int, *, timeout_ms: int = CHANGE_TIMEOUT_MS
    ) -> None:
        """Take a replica out of the branch."""
        request = RemoveMember(branch, member)
        await self.call_leader(branch, REMOVE_MEMBER, request, timeout_ms=timeout_ms)

    async def drop_replica(self, address: str, branch: BranchName, member: int) -> None:
        """Delete what a removed replica left on its node."""
        await self.call_node(address, DROP_REPLICA, DropReplica(branch, member))

    async def transfer(
        self,
        branch: BranchName,
        to: NodeName | None = None,
        *,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> None:
        """Hand the lead over."""
        request = TransferLead(branch, to)
        await self.call_leader(branch, TRANSFER_LEAD, request, timeout_ms=timeout_ms)

    # --- The epoch ----------------------------------------------------------------------------

    async def grant_epoch(
        self,
        branch: BranchName,
        holder: Holder | None,
        *,
        after: Epoch | None = None,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> Granted:
        """Make `holder` the only one that can commit."""
        request = GrantEpoch(branch, holder, after)
        return (
            await self.call_leader(branch, GRANT_EPOCH, request, timeout_ms=timeout_ms)
        ).response

    async def set_pin(self, branch: BranchName, name: str, lsn: Lsn | None) -> None:
        """Keep WAL from `lsn` on; None: no longer."""
        await self.call_leader(branch, SET_PIN, SetPin(branch, name, lsn))

    # --- Computes -----------------------------------------------------------------------------

    async def report(self, report: ComputeReport, *, timeout_ms: int = REPORT_TIMEOUT_MS) -> Orders:
        """Say how a compute is, and hear what it has to do: one attempt, and a short one.

        Any RpcError: nobody took it. The lease counts from before this call.
        """
        return await self.report_once(report, timeout_ms)

    async def switchover(
        self,
        branch: BranchName,
        to: NodeName | None = None,
        *,
        by_force: bool = False,
        timeout_ms: int = SWITCHOVER_TIMEOUT_MS,
    ) -> Granted:
        """Make another compute the primary; done when the new epoch is committed."""
        request = Switchover(branch, to, by_force)
        return (await self.call_leader(branch, SWITCHOVER, request, timeout_ms=timeout_ms)).response

    async def computes(
        self, branch: BranchName, *, timeout_ms: int = TIMEOUT_MS_DEFAULT
    ) -> Computes:
        """Return what the leader knows of the computes."""
        request = OfBranch(branch)
        return (
            await self.call_leader(branch, LIST_COMPUTES, request, timeout_ms=timeout_ms)
        ).response

    async def set_note(
        self,
        branch: BranchName,
        name: str,
        epoch: Epoch,
        content: bytes | None,
        *,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> None:
        """Keep some bytes with the branch; None: no longer. `epoch` must be the branch's."""
        request = SetNote(branch, name, epoch, content)
        await self.call_leader(branch, SET_NOTE, request, timeout_ms=timeout_ms)

    async def read_notes(
        self, branch: BranchName, *, timeout_ms: int = TIMEOUT_MS_DEFAULT
    ) -> tuple[tuple[str, bytes], ...]:
        """Return all notes of the branch: names and contents."""
        request = OfBranch(branch)
        answer = await self.call_leader(branch, READ_NOTES, request, timeout_ms=timeout_ms)
        notes, at = [], 0
        for name, size_bytes in answer.response.notes:
            notes.append((name, bytes(answer.payload[at : at + size_bytes])))
            at += size_bytes
        return tuple(notes)

    # --- Reading ------------------------------------------------------------------------------

    async def topology(
        self, branch: BranchName, *, timeout_ms: int = TIMEOUT_MS_DEFAULT
    ) -> Topology:
        """Return who is who, as the leader says."""
        deadline = self._deadline(timeout_ms)
        while True:
            topology = await self._ask(await self._leader(branch, deadline), branch)
            if isinstance(topology, Topology) and topology.is_leading:
                return topology
            self._leaders.pop(branch, None)
            await self._pause(deadline, f"{branch} has no leader")

    async def watch_topology(self, branch: BranchName, known: str, *, wait_ms: int) -> Topology:
        """Return who is who once that is not `known` any more, or after `wait_ms`."""
        request = WatchTopology(branch, known, wait_ms)
        timeout_ms = wait_ms + TIMEOUT_MS_DEFAULT
        topology = await self._any(branch, request, self._deadline(timeout_ms))
        self._learn(topology)
        return topology

    async def read_wal(
        self,
        branch: BranchName,
        *,
        tli: Tli,
        lsn: Lsn,
        bytes_max: int,
        wait_ms: int = 0,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> Answer[Wal]:
        """Return committed WAL as the payload; none if there is none within `wait_ms`."""
        request = ReadWal(branch, tli, lsn, bytes_max, wait_ms)
        return await self._any_answer(
            branch, READ_WAL, request, self._deadline(timeout_ms + wait_ms)
        )

    async def read_history(self, branch: BranchName, tli: Tli) -> bytes:
        """Return the history file of a timeline."""
        deadline = self._deadline(TIMEOUT_MS_DEFAULT)
        answer = await self._any_answer(branch, READ_HISTORY, ReadHistory(branch, tli), deadline)
        return answer.response.content

    async def node_status(
        self, address: str, *, timeout_ms: int = TIMEOUT_MS_DEFAULT
    ) -> NodeStatus:
        """Return all that one node knows."""
        return (await self.call_node(address, STATUS, Nothing(), timeout_ms=timeout_ms)).response


def _new_member(node: NodeAddress) -> MemberInfo:
    member = secrets.randbits(MEMBER_BITS) or 1
    return MemberInfo(member, node.node, node.rpc, node.pg)
