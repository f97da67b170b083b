"""What a node answers: one function for each method of `methods.py`.

Who may call what is in one table, `serve`. What computes ask is in `compute_handlers.py`.
"""

import asyncio
from typing import Final

import structlog

from fabric.ids import BranchName, Role
from fabric.lsn import Lsn
from fabric.rpc import Call, Reply
from fabric.rpc_errors import BadRequestError, RetryError, RpcError

from .answering import (
    MANAGERS,
    READERS,
    WAL_READERS,
    host_of,
    leading,
    proposed,
    refused,
    until,
    verify_address,
)
from .compute_handlers import ComputeHandlers
from .disk_errors import LogError
from .elector import grant
from .group import Group
from .group_host import GroupHost
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
    WATCH_TOPOLOGY,
    AddMember,
    BeginLog,
    Done,
    DropReplica,
    FoundGroup,
    Granted,
    GrantEpoch,
    History,
    JoinGroup,
    NodeStatus,
    Nothing,
    ReadHistory,
    ReadWal,
    RemoveMember,
    SetPin,
    Topology,
    TransferLead,
    Wal,
    WatchTopology,
)
from .node import LogNode
from .record_bodies import Genesis, MemberInfo, Pin
from .replication_source import WalRemovedError
from .status import group_status, topology_of

log = structlog.get_logger()

CATCH_UP_LOOK_MS: Final = 50
TRANSFER_WAIT_MS: Final = 5_000
ASK_AROUND_MS: Final = 1_000


class Handlers:
    """The methods of one node."""

    def __init__(self, node: LogNode) -> None:
        self._node = node

    def serve(self) -> None:
        """Offer everything on the node's RPC server."""
        rpc = self._node.rpc
        rpc.add(FOUND_GROUP, self.found_group, roles=MANAGERS)
        rpc.add(JOIN_GROUP, self.join_group, roles=MANAGERS)
        rpc.add(BEGIN_LOG, self.begin_log, roles=MANAGERS)
        rpc.add(ADD_MEMBER, self.add_member, roles=MANAGERS)
        rpc.add(REMOVE_MEMBER, self.remove_member, roles=MANAGERS)
        rpc.add(DROP_REPLICA, self.drop_replica, roles=MANAGERS)
        rpc.add(TRANSFER_LEAD, self.transfer_lead, roles=MANAGERS)
        rpc.add(GRANT_EPOCH, self.grant_epoch, roles=MANAGERS)
        rpc.add(READ_WAL, self.read_wal, roles=WAL_READERS)
        rpc.add(READ_HISTORY, self.read_history, roles=WAL_READERS)
        rpc.add(WATCH_TOPOLOGY, self.watch_topology, roles=READERS)
        rpc.add(SET_PIN, self.set_pin, roles=MANAGERS | {Role.STORAGE})
        rpc.add(STATUS, self.status, roles=MANAGERS)
        ComputeHandlers(self._node).serve()

    # --- Groups and members -------------------------------------------------------------------

    async def found_group(self, call: Call, request: FoundGroup) -> Reply[Done]:
        """Make the replica of a new branch."""
        del call
        if request.member not in {info.member for info in request.members}:
            raise BadRequestError("the new replica must be one of the members")
        await self._node.found(request.branch, request.member, request.members)
        return Reply(Done())

    async def join_group(self, call: Call, request: JoinGroup) -> Reply[Done]:
        """Make an empty replica. The members that it is told have no vote in its eyes: it only
        follows, until the log tells it the group's configuration.
        """
        del call
        told = tuple(_with_vote(info, is_voter=False) for info in request.members)
        await self._node.found(request.branch, request.member, told)
        return Reply(Done())

    async def begin_log(self, call: Call, request: BeginLog) -> Reply[Done]:
        """Say whose WAL it is, and what it begins with. Each step is left out if it is done."""
        del call
        host = host_of(self._node, request.branch)
        group = leading(self._node, request.branch)
        known = group.committed.genesis
        if known is None:
            await proposed(group.propose(request.genesis))
        elif known != request.genesis:
            raise BadRequestError(
                f"branch {request.branch} is that of system {known.system_identifier}, from "
                f"{known.start} on: choose another name"
            )
        if request.first_wal:
            await self._begin_wal(host, request.genesis, request.first_wal)
        return Reply(Done())

    async def _begin_wal(self, host: GroupHost, genesis: Genesis, first_wal: bytes) -> None:
        """Append the WAL that no primary sends, under an epoch that nobody holds."""
        group = host.group
        end = genesis.start + len(first_wal)
        if group.tail is not None and group.tail.epoch == 0:
            await proposed(grant(group, None, reason="first WAL"))
        tail = group.tail
        if tail is not None and tail.end == genesis.start:
            if tail.holder is not None:
                raise BadRequestError(f"{tail.holder.name} writes this branch's first WAL already")
            await proposed(
                group.propose_first_wal(tail.epoch, genesis.tli, genesis.start, first_wal)
            )
        if group.committed.start > genesis.start:
            return  # trimmed: long ago
        if group.committed.end < end:
            raise RetryError("the first WAL is not committed yet")
        found = b"".join(await host.wal.read(genesis.tli, genesis.start, len(first_wal)))
        if not first_wal.startswith(found):
            raise BadRequestError(
                f"{host.branch} begins with other WAL at {genesis.start}: choose another name"
            )

    async def add_member(self, call: Call, request: AddMember) -> Reply[Done]:
        """Add a learner, wait until it has what we have, let it vote."""
        del call
        group = leading(self._node, request.branch)
        info = request.info
        known = {other.member: other for other in group.members}
        if info.node in {other.node for other in group.members if other.member != info.member}:
            raise BadRequestError(f"{info.node} has a member of {request.branch}: remove it first")
        if info.member not in known:
            learner = _with_vote(info, is_voter=False)
            await proposed(group.propose_members((*group.members, learner)))
        await self._caught_up(group, info.member)
        if not known.get(info.member, _with_vote(info, is_voter=False)).is_voter:
            others = tuple(other for other in group.members if other.member != info.member)
            voter = _with_vote(info, is_voter=True)
            await proposed(group.propose_members((*others, voter)))
        return Reply(Done())

    async def _caught_up(self, group: Group, member: int) -> None:
        """Wait until a learner has all that was in the log at the beginning, or the call ends."""
        wanted_index = group.raft.last_index
        while True:
            progress = group.raft.progress().get(member)
            if progress is None:
                raise RetryError("the lead was lost while the new member was catching up")
            if progress.match_index >= wanted_index:
                return
            await asyncio.sleep(CATCH_UP_LOOK_MS / 1000)  # an acknowledgement is no event of ours

    async def remove_member(self, call: Call, request: RemoveMember) -> Reply[Done]:
        """Take a replica out; a leader that is to go hands over first."""
        del call
        group = leading(self._node, request.branch)
        if request.member not in {info.member for info in group.members}:
            return Reply(Done())
        if request.member == group.raft.me:
            if group.raft.config.voters == {group.raft.me}:
                raise BadRequestError("the last voter of a branch cannot be removed")
            group.transfer(group.best_successor())
            raise RetryError("the leader is to be removed: it hands over first, ask again")
        left = tuple(info for info in group.members if info.member != request.member)
        await proposed(group.propose_members(left))
        return Reply(Done())

    async def drop_replica(self, call: Call, request: DropReplica) -> Reply[Done]:
        """Delete a replica that was removed."""
        del call
        branch, member = request.branch, request.member
        host = self._node.hosts.get(branch)
        if host is not None and host.group.raft.me == member:
            await self._verify_removed(host.group, branch)
        await self._node.drop(branch, member)
        return Reply(Done())

    async def _verify_removed(self, group: Group, branch: BranchName) -> None:
        """Ask around: who was removed may not know it, because nobody talks to it any more."""
        me = group.raft.me
        if me not in group.raft.config.members:
            return
        for info in group.members:
            if info.member == me:
                continue
            try:
                client = self._node.client_of(info)
                call = client.call(WATCH_TOPOLOGY, WatchTopology(branch), timeout_ms=ASK_AROUND_MS)
                topology = (await call).response
            except RpcError:
                continue
            if topology.is_leading and me not in {other.member for other in topology.members}:
                return
        raise BadRequestError(f"member {me} of {branch} may be in use: remove it first")

    async def transfer_lead(self, call: Call, request: TransferLead) -> Reply[Done]:
        """Hand the lead over, and wait until somebody else has it."""
        del call
        group = leading(self._node, request.branch)
        if request.to is None:
            if len(group.raft.config.voters) < 2:  # noqa: PLR2004  # somebody else
                raise BadRequestError(f"{request.branch} has no other voter")
            target = group.best_successor()
        else:
            targets = [info.member for info in group.members if info.node == request.to]
            if not targets:
                raise BadRequestError(f"{request.to} has no member of {request.branch}")
            target = targets[0]
        if target != group.raft.me:
            term = group.raft.term
            refused(lambda: group.transfer(target))
            await until(
                lambda: group.raft.term != term or not group.is_leading,
                group.watch_role,
                TRANSFER_WAIT_MS,
            )
        return Reply(Done())

    # --- The epoch ----------------------------------------------------------------------------

    async def grant_epoch(self, call: Call, request: GrantEpoch) -> Reply[Granted]:
        """Begin a new epoch: the holder of the old one can never commit again."""
        del call
        group = leading(self._node, request.branch)
        assert group.tail is not None
        before = group.tail.epoch
        if request.after is not None and request.after != before:
            raise BadRequestError(
                f"the epoch is {before}, not {request.after}: somebody else was faster"
            )
        if request.holder is not None:
            verify_address(request.holder.address)
        return Reply(await proposed(grant(group, request.holder, reason="order")))

    async def set_pin(self, call: Call, request: SetPin) -> Reply[Done]:
        """Keep WAL for somebody."""
        del call
        group = leading(self._node, request.branch)
        if (group.committed.pins or {}).get(request.name) != request.lsn:
            await proposed(group.propose(Pin(request.name, request.lsn)))
        return Reply(Done())

    # --- Reading ------------------------------------------------------------------------------

    async def read_wal(self, call: Call, request: ReadWal) -> Reply[Wal]:
        """Return committed WAL; wait a little for it if that is wanted."""
        del call
        host = host_of(self._node, request.branch)
        if host.group.committed.genesis is None:
            raise RetryError(f"branch {request.branch} has no WAL yet")
        wal = host.wal
        if request.tli > wal.tli:
            raise RetryError(f"timeline {request.tli:d} is not known here yet")

        def is_all() -> bool:  # nothing more from there, and the timeline goes on
            return self._readable(host, request) == request.lsn and not wal.fork_of(request.tli)

        if request.wait_ms and is_all():
            await until(lambda: not is_all(), wal.subscribe, request.wait_ms)
        end = self._readable(host, request)
        fork = wal.fork_of(request.tli)
        answer = Wal(wal.tli, wal.committed, None if fork is None else fork[1])
        if request.lsn >= end:
            return Reply(answer)
        bytes_max = min(request.bytes_max, end - request.lsn)
        try:
            return Reply(answer, await wal.read(request.tli, request.lsn, bytes_max))
        except WalRemovedError as error:
            raise BadRequestError(str(error)) from error
        except LogError as error:
            raise RetryError(str(error)) from error

    def _readable(self, host: GroupHost, request: ReadWal) -> Lsn:
        fork = host.wal.fork_of(request.tli)
        return host.wal.committed if fork is None else fork[1]

    async def read_history(self, call: Call, request: ReadHistory) -> Reply[History]:
        """Return a history file."""
        del call
        content = host_of(self._node, request.branch).wal.history_files.get(request.tli)
        if content is None:
            raise BadRequestError(f"timeline {request.tli:d} has no history file here")
        return Reply(History(content))

    async def watch_topology(self, call: Call, request: WatchTopology) -> Reply[Topology]:
        """Return who is who, when it is not what the caller knows."""
        del call
        host = host_of(self._node, request.branch)
        name = self._node.settings.name

        def changed() -> bool:
            return topology_of(host, name).version != request.known

        if request.wait_ms and not changed():
            await until(changed, host.watch, request.wait_ms)
        return Reply(topology_of(host, name))

    async def status(self, call: Call, request: Nothing) -> Reply[NodeStatus]:
        """Return all there is to know."""
        del call, request
        node = self._node
        return Reply(
            NodeStatus(
                node.settings.name,
                tuple(group_status(host, node) for _, host in sorted(node.hosts.items())),
            )
        )


def _with_vote(info: MemberInfo, *, is_voter: bool) -> MemberInfo:
    return MemberInfo(info.member, info.node, info.rpc, info.pg, is_voter)
